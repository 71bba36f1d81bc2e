from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from weaksam_cli.errors import UserError
from weaksam_cli.models.clip.torchscript import is_torchscript, read_torchscript


class _Small(nn.Module):
    """Parameters, a buffer, a nested module, tensors that share and stride storage, and every kind of attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3).half())
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.Identity())
        self.register_buffer("steps", torch.tensor(7))
        self.turned = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
        self.name, self.number, self.listed = "x", 3, [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) @ torch.ones(4, 3) + self.weight.float()[0] + self.turned.sum() + self.steps


def _archive(path: Path, module: nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3), check_trace=False), str(path))
    return path


def _handmade(path: Path, data: bytes, *, compress: bool = False) -> Path:
    how = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("m/constants.pkl", pickle.dumps(()))
        archive.writestr("m/data.pkl", data)
    return path


def test_an_archive_gives_the_state_dict_of_its_module(tmp_path: Path) -> None:
    module = _Small()
    path = _archive(tmp_path / "small.pt", module)
    assert is_torchscript(path)
    found, wanted = read_torchscript(path), module.state_dict()
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype
        assert found[key].shape == value.shape
        assert torch.equal(found[key], value)


class _Command:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [2, 5])
def test_what_stands_in_an_archive_is_not_run(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"a": _Command(f"touch {tmp_path}/run")}, protocol=protocol)
    path = _handmade(tmp_path / "bad.pt", data)
    with pytest.raises(UserError, match=r"bad\.pt"):
        read_torchscript(path)
    assert not (tmp_path / "run").exists()
    pickle.loads(data)  # the same bytes do run where anything is looked up: the test can fail
    assert (tmp_path / "run").exists()


def test_a_compressed_record_is_refused(tmp_path: Path) -> None:
    path = _handmade(tmp_path / "bomb.pt", pickle.dumps({}), compress=True)
    with pytest.raises(UserError, match="is compressed"):
        read_torchscript(path)


def test_other_files_are_no_torchscript_archives(tmp_path: Path) -> None:
    plain = tmp_path / "plain.pt"
    torch.save({"a": torch.zeros(1)}, plain)
    text = tmp_path / "text.pt"
    text.write_text("hello")
    assert not is_torchscript(plain)
    assert not is_torchscript(text)


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_truncated_archive_is_told(tmp_path: Path, part: float) -> None:
    whole = _archive(tmp_path / "small.pt", _Small()).read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(UserError, match=r"cut\.pt"):
        read_torchscript(cut)
