from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.models.clip.tiny import tiny_clip
from weaksam_cli.errors import UserError
from weaksam_cli.models.clip.text import embed_words, fill_template, tokenise


def test_the_vocabulary_is_that_of_clip() -> None:
    # Ids of "a photo of a cat": known from CLIP's own notebook; 49406 begins, 49407 ends.
    tokens = tokenise(["a photo of a cat"], context_length=77, vocabulary=49408)
    assert tokens.shape == (1, 77)
    assert tokens[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert not tokens[0, 7:].any()


def test_a_template_keeps_what_stands_around() -> None:
    assert fill_template("a clean origami {}.", "person with clothes,people,human") == (
        "a clean origami person with clothes,people,human."
    )


def test_embeddings_are_normalised_means_of_normalised_embeddings() -> None:
    network, templates = tiny_clip(), ["a clean origami {}.", "{} on the road"]
    words = ["dog", "tvmonitor screen", "ground"]
    embedded = embed_words(network, words, templates)
    assert embedded.shape == (3, 32)
    for row, word in enumerate(words):
        texts = [template.replace("{}", word) for template in templates]
        with torch.no_grad():
            alone = [
                F.normalize(network.encode_text(tokenise([t], context_length=77, vocabulary=49408))[0], dim=0)
                for t in texts
            ]
        mean = (alone[0] + alone[1]) / 2
        assert torch.allclose(embedded[row], mean / mean.norm(), atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 65])
def test_any_number_of_words(n: int) -> None:
    network = tiny_clip()
    embedded = embed_words(network, ["cat"] * (n - 1) + ["dog"], ["{}"])
    assert embedded.shape == (n, 32)
    assert torch.allclose(embedded.norm(dim=1), torch.ones(n), atol=1e-6)
    assert torch.allclose(embedded[-1], embed_words(network, ["dog"], ["{}"])[0], atol=1e-6)


def test_a_text_that_the_network_would_cut_is_refused() -> None:
    assert tokenise(["cat " * 75], context_length=77, vocabulary=49408)[0, 76] == 49407
    with pytest.raises(UserError, match="has 78 tokens, the network reads 77"):
        tokenise(["cat " * 76], context_length=77, vocabulary=49408)


def test_a_network_with_another_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="the network has 1000 tokens"):
        tokenise(["cat"], context_length=77, vocabulary=1000)
