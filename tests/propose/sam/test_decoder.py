from __future__ import annotations

from typing import Any

import pytest
import torch
from segment_anything import sam_model_registry
from torch.utils.flop_counter import FlopCounterMode

from weaksam_cli.propose.sam.decoder import SharedDecoder


def prompts_of(sam: Any, count: int, points: int) -> Any:
    generator = torch.Generator().manual_seed(count)
    xy = torch.rand(count, points, 2, generator=generator) * sam.image_encoder.img_size
    labels = torch.randint(0, 2, (count, points), generator=generator)
    return sam.prompt_encoder(points=(xy, labels), boxes=None, masks=None)


@pytest.mark.parametrize("count", [1, 2, 6, 7])
@pytest.mark.parametrize("points", [1, 3])
@pytest.mark.parametrize("multimask", [True, False])
def test_answers_are_those_of_the_package(
    tiny_sam_factory: Any, count: int, points: int, multimask: bool
) -> None:
    sam = tiny_sam_factory(count)
    features = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(points))
    with torch.inference_mode():
        sparse, dense = prompts_of(sam, count, points)
        logits, quality = sam.mask_decoder(
            image_embeddings=features,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )
        decoder = SharedDecoder(sam)
        masks = slice(1, None) if multimask else slice(0, 1)
        found = decoder.decode(decoder.prepare(features), sparse, masks)
    torch.testing.assert_close(found[0], logits, rtol=1e-4, atol=1e-5 * float(logits.abs().max()))
    torch.testing.assert_close(found[1], quality, rtol=1e-4, atol=1e-5 * float(quality.abs().max()))


def test_only_the_masks_asked_for(tiny_sam: Any) -> None:
    decoder = SharedDecoder(tiny_sam)
    with torch.inference_mode():
        image = decoder.prepare(torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0)))
        sparse, _ = prompts_of(tiny_sam, 2, 1)
        every = decoder.decode(image, sparse, slice(0, None))
        some = decoder.decode(image, sparse, slice(2, None))
    assert some[0].shape == (2, 2, 32, 32) and some[1].shape == (2, 2)
    torch.testing.assert_close(some[0], every[0][:, 2:])
    torch.testing.assert_close(some[1], every[1][:, 2:])


def test_the_shared_image_is_not_changed_by_a_prompt(tiny_sam: Any) -> None:
    decoder = SharedDecoder(tiny_sam)
    with torch.inference_mode():
        image = decoder.prepare(torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(1)))
        before = image.tokens.clone()
        sparse, _ = prompts_of(tiny_sam, 1, 1)
        first = decoder.decode(image, sparse, slice(1, None))
        again = decoder.decode(image, sparse, slice(1, None))
    assert torch.equal(image.tokens, before) and torch.equal(first[0], again[0])


def test_less_than_half_of_the_published_arithmetic() -> None:
    """0.85 instead of 1.81 GMAC for one point, with the decoder of the published models."""
    with torch.device("meta"):
        sam = sam_model_registry["vit_b"]()
        features, prompt = torch.zeros(1, 256, 64, 64), torch.zeros(1, 2, 256)
        decoder = SharedDecoder(sam)
        image = decoder.prepare(features)
        with FlopCounterMode(display=False) as ours:
            decoder.decode(image, prompt, slice(1, None))
        with FlopCounterMode(display=False) as published:
            sam.mask_decoder(
                image_embeddings=features,
                image_pe=torch.zeros(1, 256, 64, 64),
                sparse_prompt_embeddings=prompt,
                dense_prompt_embeddings=torch.zeros(1, 256, 64, 64),
                multimask_output=True,
            )
    giga_mac = [counter.get_total_flops() / 2e9 for counter in (ours, published)]
    assert giga_mac == pytest.approx([0.85, 1.81], abs=0.01)
