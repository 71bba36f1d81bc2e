from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import sam_model_registry

from weaksam_cli.errors import UserError
from weaksam_cli.models.state_dicts import mismatches
from weaksam_cli.propose.sam import SamSegmenter
from weaksam_cli.propose.sam_checkpoint import (
    ENCODER_WIDTHS,
    load_sam,
    load_weights,
    read_state_dict,
)

Factory = Callable[[int], Any]


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_sam_factory: Factory) -> Path:
    path = tmp_path / "tiny.pth"
    torch.save(tiny_sam_factory(0).state_dict(), path)
    return path


def test_weights_arrive_whole(checkpoint: Path, tiny_sam_factory: Factory) -> None:
    source, target = tiny_sam_factory(0), tiny_sam_factory(1).train()
    image = np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8)
    load_weights(target, read_state_dict(checkpoint), where="tiny.pth")
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


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
def test_truncated_file(checkpoint: Path, share: float) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"truncated or damaged|not a file of weights"):
        read_state_dict(checkpoint)


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>", b"\x00" * 100, b"version https://git-lfs"]
)
def test_foreign_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sam.pth"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_state_dict(path)
    assert caught.value.where == str(path) and caught.value.remedy


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_a_file_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"image_encoder": Bomb()}, tmp_path / "bomb.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    for name in ("bomb.pth", "plain.pth"):
        with pytest.raises(UserError):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_table_of_other_things(tmp_path: Path) -> None:
    for content in ({"model": {"a": torch.zeros(1)}}, [torch.zeros(1)], torch.zeros(2)):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(UserError, match="no table of named tensors"):
            read_state_dict(tmp_path / "other.pth")


def test_missing_file_and_unknown_variant(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(UserError, match="vit_h, vit_l, vit_b"):
        load_sam("vit_x", checkpoint)  # type: ignore[arg-type]
