from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models.vit.helpers import TINY, images, random_mctformer, random_weaktr
from weaksam_cli.errors import UserError
from weaksam_cli.models.vit.attention import Workspace
from weaksam_cli.models.vit.checkpoint import VitCheckpoint
from weaksam_cli.models.vit.mctformer import load_mctformer
from weaksam_cli.models.vit.weaktr import FusionV1, FusionV3, load_weaktr

STATE = dict(random_weaktr("v3").state_dict())
"""WeakTr with the fusion of the linked weights."""


def without(state: dict[str, Any], part: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if part not in name}


def saved(path: Path, values: Any) -> Path:
    torch.save(values, path)
    return path


@pytest.mark.parametrize(
    "around",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 59},
        # What the training scripts save besides: figures of numpy and their command line.
        lambda state: {"model": state, "miou": np.float64(0.7), "loss": np.float32(1), "args": argparse.Namespace(lr=6e-4)},
    ],
)  # fmt: skip
def test_official_files_load_whole(tmp_path: Path, around: Any) -> None:
    network = load_weaktr(VitCheckpoint.read(saved(tmp_path / "weaktr.pth", around(STATE))))
    assert network.shape == TINY  # heads are told by the fusion
    assert isinstance(network.adaptive_attention_fusion, FusionV3)
    assert not network.training
    assert not any(value.requires_grad for value in network.parameters())
    assert all(torch.equal(value, STATE[name]) for name, value in network.state_dict().items())


def test_a_file_of_numpy_1_names_its_figures_otherwise(tmp_path: Path) -> None:
    new = saved(tmp_path / "new.pth", {"model": STATE, "miou": np.float64(0.7)})
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(tmp_path / "old.pth", "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"numpy._core.", b"numpy.core."))
    assert (tmp_path / "old.pth").read_bytes().count(b"numpy.core.multiarray") == 1
    assert set(VitCheckpoint.read(tmp_path / "old.pth").tensors) == set(STATE)


@pytest.mark.parametrize(("variant", "found"), [("v1", FusionV1), ("v3", FusionV3), (None, type(None))])
def test_the_variant_is_told_by_the_keys(tmp_path: Path, variant: Any, found: type) -> None:
    path = saved(tmp_path / "weaktr.pth", random_weaktr(variant).state_dict())
    checkpoint = VitCheckpoint.read(path)
    heads = None if variant else 2
    assert isinstance(load_weaktr(checkpoint, heads=heads).adaptive_attention_fusion, found)
    plain = load_weaktr(checkpoint, fusion="none", heads=heads)
    assert plain.adaptive_attention_fusion is None
    assert plain.shape == TINY


def test_fusion_none_is_plain_averaging(tmp_path: Path) -> None:
    checkpoint = VitCheckpoint.read(saved(tmp_path / "weaktr.pth", STATE))
    network = load_weaktr(checkpoint, fusion="none")
    with torch.inference_mode():
        encoded = network.encode_for_maps(images(12, 8), Workspace())
        fused = network.fused_attention(encoded)
    torch.testing.assert_close(fused.sum(-1), torch.ones(1, 9))  # a mean of rows that sum to 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda state: state | {"head.bias": torch.zeros(4)}, r"of another shape: head.bias \(4,\) instead of \(3,\)"),
        (lambda state: without(state, "fc2"), r"6 tensors missing: blocks.0.mlp.fc2.weight, .* and 3 more"),
        (lambda state: state | {"extra.a": torch.zeros(1)}, r"1 tensors unexpected: extra.a"),
        (lambda state: without(state, "pos_embed"), "not a transformer with class tokens: pos_embed is missing"),
        (lambda state: state | {"pos_embed": torch.zeros(1, 8, 8)}, "expected positions of a square of patches, got 5"),
        (lambda state: state | {"pos_embed_cls": torch.zeros(1)}, r"MCTformer\+, which is not supported"),
        (lambda _: random_mctformer("v1").state_dict(), r"head.weight \(3, 8\) instead of \(3, 8, 3, 3\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(tmp_path: Path, changed: Any, message: str) -> None:
    path = saved(tmp_path / "weaktr.pth", changed(dict(STATE)))
    with pytest.raises(UserError, match=message) as caught:
        load_weaktr(VitCheckpoint.read(path), heads=2)
    line = caught.value.one_line()
    assert line.startswith(f"{path}: ")
    assert "\n" not in line


@pytest.mark.parametrize(("held", "asked"), [("v1", "v2"), ("v2", "v1")])
def test_the_other_version_of_mctformer_is_told(tmp_path: Path, held: Any, asked: Any) -> None:
    checkpoint = VitCheckpoint.read(saved(tmp_path / "mct.pth", random_mctformer(held).state_dict()))
    assert load_mctformer(checkpoint, held, heads=2).shape == TINY
    with pytest.raises(UserError, match=r"1 tensors of another shape: head\.weight"):
        load_mctformer(checkpoint, asked, heads=2)


def test_our_own_files_name_their_classes(tmp_path: Path) -> None:
    values = {"model": STATE, "class_names": ["b", "a", "c"], "epoch": 3}
    assert VitCheckpoint.read(saved(tmp_path / "own.pth", values)).class_names == ("b", "a", "c")
    assert VitCheckpoint.read(saved(tmp_path / "plain.pth", STATE)).class_names is None


def test_half_precision_files_are_computed_in_float32(tmp_path: Path) -> None:
    half = {name: value.half() for name, value in STATE.items()}
    network = load_weaktr(VitCheckpoint.read(saved(tmp_path / "half.pth", half)))
    assert {value.dtype for value in network.parameters()} == {torch.float32}
