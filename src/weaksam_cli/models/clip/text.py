"""Text embeddings of CLIP: the mean over templates of unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from weaksam_cli.errors import UserError

_BATCH: Final = 64


def fill_template(template: str, words: str) -> str:
    """`a photo of a {}.` with the words in place of its one `{}`."""
    before, _, after = template.partition("{}")
    return f"{before}{words}{after}"


@torch.no_grad()
def embed_words(network: Any, words: Sequence[str], templates: Sequence[str]) -> Tensor:
    """One embedding for each of n words (spec 01 §c.1).

    Args:
        network: CLIP, see `load_clip`.
        words: n texts: class or background names.
        templates: at least one, each with one `{}`.

    Returns:
        float32 (n, embed), unit vectors: the embedding of each filled template is normalised, their mean as well.

    Raises:
        UserError: a text is longer than the network reads, or the network has another vocabulary.
    """
    texts = [fill_template(template, word) for word in words for template in templates]
    tokens = tokenise(texts, context_length=network.context_length, vocabulary=network.vocab_size)
    tokens = tokens.to(network.positional_embedding.device)
    encoded = torch.cat([F.normalize(network.encode_text(batch), dim=-1) for batch in tokens.split(_BATCH)])
    return F.normalize(encoded.reshape(len(words), len(templates), -1).mean(dim=1), dim=-1)


def tokenise(texts: Sequence[str], *, context_length: int, vocabulary: int) -> Tensor:
    """int64 (n, context_length): start, byte pairs, end, zeros.

    Raises:
        UserError: a text is longer than the network reads (the library would cut it), or the vocabulary is another.
    """
    from open_clip import SimpleTokenizer

    tokenizer = SimpleTokenizer(context_length=context_length)
    if vocabulary != tokenizer.vocab_size:
        raise UserError(
            f"the network has {vocabulary} tokens, CLIP's vocabulary {tokenizer.vocab_size}",
            where="weights",
            remedy="Use a checkpoint that was trained with CLIP's own vocabulary",
        )
    for text in texts:
        length = len(tokenizer.encode(text)) + 2
        if length > context_length:
            raise UserError(
                f"{text!r} has {length} tokens, the network reads {context_length}",
                where="class names and templates",
                remedy="Say it shorter: --set 'class_prompts={NAME: WORDS}'",
            )
    tokens: Tensor = tokenizer(list(texts))
    return tokens
