"""Checkpoints and models on disk."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from weaksam_cli.errors import UserError
from weaksam_cli.training.checkpoint import (
    Checkpoint,
    load_model,
    model_bytes,
    read_checkpoint,
    read_metadata,
)


def _checkpoint() -> Checkpoint:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return Checkpoint(7, model.state_dict(), optimizer.state_dict(), {}, "recipe")


def test_round_trip(tmp_path: Path) -> None:
    saved, path = _checkpoint(), tmp_path / "checkpoint.pt"
    path.write_bytes(saved.to_bytes())
    loaded = read_checkpoint(path, "recipe")
    assert loaded is not None
    assert loaded.iteration == 7
    assert torch.equal(loaded.model["weight"], saved.model["weight"])
    assert torch.equal(
        loaded.optimizer["state"][0]["momentum_buffer"], saved.optimizer["state"][0]["momentum_buffer"]
    )


def test_no_file_is_no_checkpoint(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "checkpoint.pt", "recipe") is None


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(_checkpoint().to_bytes())
    with pytest.raises(UserError, match="another recipe"):
        read_checkpoint(path, "other")


@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_damaged_file_is_named(tmp_path: Path, size: int) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(_checkpoint().to_bytes()[:size])
    with pytest.raises(UserError, match=r"checkpoint\.pt"):
        read_checkpoint(path, "recipe")


@pytest.mark.parametrize(
    "content", [b"", b"x" * 200, b"weaksam-training-checkpoint 1 " + b"0" * 64 + b"\nPK"]
)
def test_other_contents_and_versions_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="Remove the file"):
        read_checkpoint(path, "recipe")


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    """It resumed silently to another model: zip files have checksums, which torch does not look at."""
    path, data = tmp_path / "checkpoint.pt", _checkpoint().to_bytes()
    for position in range(0, len(data), 37):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(UserError, match="Remove the file"):
            read_checkpoint(path, "recipe")


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    path.write_bytes(replace(_checkpoint(), extras={"x": _Evil()}).to_bytes())
    with pytest.raises(UserError, match="cannot be loaded safely"):
        read_checkpoint(path, "recipe")
    assert not (tmp_path / "pwned").exists()


def test_model_round_trip_is_deterministic(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    data = model_bytes(model, {"b": "2", "a": "1"})
    assert data == model_bytes(model, {"a": "1", "b": "2"})
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    load_model(other, path)
    assert read_metadata(path) == {"a": "1", "b": "2"}
    assert model_bytes(other, {"a": "1", "b": "2"}) == data


def test_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes(nn.Linear(3, 2), {}))
    with pytest.raises(UserError, match="another model"):
        load_model(nn.Linear(2, 2), path)
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="safetensors"):
        load_model(nn.Linear(2, 2), path)
    with pytest.raises(UserError, match="no such file"):
        load_model(nn.Linear(2, 2), tmp_path / "absent")


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 10_000])
def test_hostile_metadata_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(save({"a": torch.zeros(1)}, metadata={"weaksam": text}))
    with pytest.raises(UserError, match=r"m.safetensors"):
        read_metadata(path)
