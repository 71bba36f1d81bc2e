from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import sam_model_registry

from weaksam_cli.errors import UserError
from weaksam_cli.models.checkpoints import mismatches, read_checkpoint
from weaksam_cli.propose.sam.segmenter import ENCODER_WIDTHS, SamSegmenter, load_sam, load_weights

Factory = Callable[[int], Any]


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_sam_factory: Factory) -> Path:
    path = tmp_path / "tiny.pth"
    torch.save(tiny_sam_factory(0).state_dict(), path)
    return path


def test_weights_arrive_whole(checkpoint: Path, tiny_sam_factory: Factory) -> None:
    source, target = tiny_sam_factory(0), tiny_sam_factory(1).train()
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8)
    load_weights(target, read_checkpoint(checkpoint, remedy="").tensors, where="tiny.pth")
    assert not target.training and not any(parameter.requires_grad for parameter in target.parameters())
    answers = []
    for sam in (source, target):
        segmenter = SamSegmenter(sam)
        segmenter.set_image(image)
        answers.append(segmenter.prompt_boxes(np.asarray([[3, 4, 30, 40]], np.float32)))
    np.testing.assert_array_equal(answers[0].predicted_iou, answers[1].predicted_iou)


def test_load_sam_builds_without_memory_then_fills_it(
    checkpoint: Path, tiny_sam_factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sam_model_registry, "vit_b", lambda: tiny_sam_factory(1))
    sam = load_sam("vit_b", checkpoint)
    expected = tiny_sam_factory(0)
    assert {value.device.type for value in sam.state_dict().values()} == {"cpu"}
    for key, value in expected.state_dict().items():
        assert torch.equal(sam.state_dict()[key], value), key
    assert torch.equal(sam.pixel_mean, expected.pixel_mean)


@pytest.mark.parametrize("variant", ["vit_h", "vit_l", "vit_b"])
def test_official_variants_are_told_apart_by_width(variant: str) -> None:
    with torch.device("meta"):
        sam = sam_model_registry[variant]()
    state = sam.state_dict()
    assert ENCODER_WIDTHS[state["image_encoder.pos_embed"].shape[-1]] == variant
    assert mismatches({key: tuple(value.shape) for key, value in state.items()}, state) == []
    assert {sam.pixel_mean.device.type, sam.pixel_std.device.type} == {"cpu"}


def test_another_variant_is_named(tmp_path: Path) -> None:
    with torch.device("meta"):
        large = sam_model_registry["vit_l"]()
        base = sam_model_registry["vit_b"]()
    with pytest.raises(UserError) as caught:
        load_weights(large, base.state_dict(), where="sam_vit_b.pth")
    line = caught.value.one_line()
    assert line.startswith("sam_vit_b.pth: ") and "\n" not in line
    assert "width of 768 is that of vit_b" in line
    assert (
        "tensors missing: image_encoder.blocks.12" in line
        and "(1, 64, 64, 768) instead of (1, 64, 64, 1024)" in line
    )
    assert line.count("image_encoder") <= 7 and " more" in line


def test_a_missing_and_an_unexpected_key_are_named(tiny_sam_factory: Factory) -> None:
    state = dict(tiny_sam_factory(0).state_dict())
    state["mask_decoder.hq_token.weight"] = state.pop("mask_decoder.iou_token.weight")
    with pytest.raises(UserError) as caught:
        load_weights(tiny_sam_factory(0), state, where="hq.pth")
    assert "1 tensors missing: mask_decoder.iou_token.weight" in str(caught.value)
    assert "1 tensors unexpected: mask_decoder.hq_token.weight" in str(caught.value)
