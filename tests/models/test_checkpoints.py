"""The one reader of checkpoints: every kind of file, hostile ones, and what a network misses in them."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from weaksam_cli.errors import UserError
from weaksam_cli.models.checkpoints import MAX_TENSORS, Checkpoint, mismatches, read_checkpoint, shapes_of


def read(path: Path) -> Checkpoint:
    return read_checkpoint(path, remedy="Get another one")


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


def _save(path: Path, module: nn.Module, kind: str) -> Path:
    state = module.state_dict()
    if kind == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3), check_trace=False), str(path))
    elif kind == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    elif kind == "arrays":
        arrays = {name: value.numpy() for name, value in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "epoch": 3}))
    elif kind == "old":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind == "parameters":
        torch.save({"state_dict": dict(module.named_parameters()) | {"steps": module.steps}}, path)
    else:
        torch.save({"model": state, "epoch": 3} if kind == "wrapped" else state, path)
    return path


KINDS = ["torchscript", "safetensors", "arrays", "old", "parameters", "wrapped", "plain"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_state_dict(tmp_path: Path, kind: str) -> None:
    module = _Small()
    found, wanted = read(_save(tmp_path / "small.pt", module, kind)), module.state_dict()
    assert found.tensors.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found.tensors[key].dtype == value.dtype
        assert found.tensors[key].shape == value.shape
        assert torch.equal(found.tensors[key], value)
    assert found.table == {"arrays": "model", "wrapped": "model", "parameters": "state_dict"}.get(kind, "")
    assert found.beside.get("epoch") == (3 if kind in ("arrays", "wrapped") else None)


def test_numbers_are_mapped_and_a_copy_where_they_are_changed(tmp_path: Path) -> None:
    """Two readers of one file do not see what the other writes, and the file stays as it is."""
    path = _save(tmp_path / "small.pt", _Small(), "plain")
    before = path.read_bytes()
    one, other = read(path).tensors["weight"], read(path).tensors["weight"]
    one.zero_()
    assert other.sum() == 15
    assert path.read_bytes() == before


def test_an_archive_whose_records_are_not_aligned(tmp_path: Path) -> None:
    path = _save(tmp_path / "small.pt", _Small(), "plain")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "odd.pt", "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    found = read(tmp_path / "odd.pt").tensors
    assert all(torch.equal(found[name], value) for name, value in read(path).tensors.items())


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.int16, torch.int8, torch.uint8, torch.bool]
)
def test_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    value = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    for new in (True, False):
        values = {"a": value, "b": value[0], "none": torch.zeros(0, dtype=dtype)}
        torch.save(values, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
        found = read(tmp_path / "a.pt").tensors
        assert torch.equal(found["a"], value) and torch.equal(found["b"], value[0])
        assert found["none"].shape == (0,) and found["none"].dtype == dtype


@pytest.mark.parametrize("old", [False, True])
def test_a_command_line_stands_beside_the_weights(tmp_path: Path, old: bool) -> None:
    values = {"model": {"a": torch.ones(2)}, "args": argparse.Namespace(lr=6e-4, device=torch.device("cpu"))}
    torch.save(values, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    assert read(tmp_path / "a.pt").tensors["a"].tolist() == [1, 1]


class _Command:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def _handmade(path: Path, data: bytes, *, compress: bool = False, script: bool = True) -> Path:
    how = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", how) as archive:
        if script:
            archive.writestr("m/constants.pkl", pickle.dumps(()))
        archive.writestr("m/data.pkl", data)
        archive.writestr("m/data/0", bytes(8))
    return path


@pytest.mark.parametrize("kind", ["torchscript", "archive", "old", "bare"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_what_stands_in_a_file_is_not_run(tmp_path: Path, kind: str, protocol: int) -> None:
    data = pickle.dumps({"a": _Command(f"touch {tmp_path}/run")}, protocol=protocol)
    path = tmp_path / "bad.pt"
    if kind == "bare":
        path.write_bytes(data)
    elif kind == "old":
        torch.save({"a": _Command(f"touch {tmp_path}/run")}, path, _use_new_zipfile_serialization=False)
    else:
        _handmade(path, data, script=kind == "torchscript")
    with pytest.raises(UserError, match=r"bad\.pt: refused: it holds \w+\.system"):
        read(path)
    assert not (tmp_path / "run").exists()
    pickle.loads(data)  # the same bytes do run where anything is looked up: the test can fail
    assert (tmp_path / "run").exists()


def _crafted() -> bytes:
    """F1: a dtype whose items are said to be 2 ** 30 bytes long, and an array that looks at 8 bytes through it."""
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00S8K\x00K\x01\x87Rq\x010"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87Rq\x02"
    state = b"(K\x01K\x01\x85h\x01\x89U\x08AAAAAAAAtb0"
    longer = b"h\x01(K\x03U\x01|NNNJ" + struct.pack("<i", 1 << 30) + b"K\x01K\x00tb0"
    window = b"cnumpy\nndarray\n(J" + struct.pack("<i", 1 << 28) + b"\x85X\x03\x00\x00\x00<f4h\x02tR"
    return b"\x80\x02" + dtype + array + state + longer + b"}U\x05model}U\x01a" + window + b"ss."


@pytest.mark.parametrize("name", ["R-50.pkl", "archive.pth", "bare.pth"])
def test_numpys_own_reconstruction_is_never_reached(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "archive.pth":
        _handmade(path, _crafted(), script=False)
    else:
        path.write_bytes(_crafted())
    with pytest.raises(UserError, match="refused: it holds a call of something that is no function of numpy"):
        read(path)


def _tree(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value] * 10
    return value


def _tensor_of(shape: tuple[int, ...], count: int, file: Path) -> Path:
    """An archive with one tensor of `shape`, all strides 0, of `count` numbers that are said to be in its record."""
    torch.save({"a": torch.zeros(2)}, file)
    with zipfile.ZipFile(file) as archive:
        name = next(item for item in archive.namelist() if item.endswith("data.pkl"))
        data = archive.read(name)
    sides = b"(" + b"".join(b"J" + struct.pack("<i", side) for side in shape) + b"t"
    data = data.replace(b"K\x02tq", b"J" + struct.pack("<i", count) + b"tq").replace(b"K\x02\x85", sides)
    return _handmade(file, data.replace(b"K\x01\x85", b"(" + b"K\x00" * len(shape) + b"t"), script=False)


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


EXPECTED = "expected a table of named tensors, got "
WRONG: dict[str, tuple[Any, str]] = {
    "integer keys": ({0: torch.ones(2), 1: torch.ones(1)}, EXPECTED + "one whose tensors are called 0, 1"),
    "inner integer keys": ({"model": {0: torch.ones(2)}}, EXPECTED + "one whose tensors are called 0"),
    "no tensors": ({"a": 1, "b": [2]}, EXPECTED + "a dictionary without tensors"),
    "nothing": ({}, EXPECTED + "an empty dictionary"),
    "a list": ([torch.zeros(1)], EXPECTED + "a list"),
    "a model that is a list": ({"model": [1, 2]}, EXPECTED + "a dictionary without tensors"),
    "a number": (3, EXPECTED + "3"),
    "a tree": (_tree(14), "refused: it holds values that are used so often"),
    "plain pickle": (pickle.dumps({"a": 1}), EXPECTED + "a dictionary without tensors"),
    "many": (
        pickle.dumps({str(number): np.zeros(0) for number in range(MAX_TENSORS + 1)}),
        EXPECTED + f"one of {MAX_TENSORS + 1}, more than any network has",
    ),
    "text arrays": (pickle.dumps({"a": np.array(["x"])}), EXPECTED + "a dictionary without tensors"),
    "an empty file": (b"", "got an empty file"),
    "html": (b"<html>not found</html>", "got other bytes"),
    "another zip file": (None, "expected an archive of torch, got another zip file"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_what_was_expected_and_what_was_got(tmp_path: Path, name: str) -> None:
    """F16."""
    content, message = WRONG[name]
    path = tmp_path / "x.pth"
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/b.txt", "x")
    else:
        path.write_bytes(content if isinstance(content, bytes) else _saved(content))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read(path)
    assert caught.value.where == str(path)
    assert "\n" not in caught.value.one_line()


def _old(contents: bytes) -> bytes:
    """A file of `torch.save` before version 1.6 with other contents: five pickles, then one number."""
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(1)}, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    ends = [match.end() for match in re.finditer(rb"\.(?=\x80\x02|\x01\x00{7})", data)]
    return data[: ends[2]] + contents + data[ends[3] :]


def _old_tensor(count: int, build: bytes = b"") -> bytes:
    """A pickle of `{"a": tensor}`, whose storage is said to have `count` numbers."""
    size = b"J" + struct.pack("<i", count)
    storage = b"((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu" + size + b"NtQK\x00K\x01\x85K\x01\x85t"
    tensor = b"ctorch._utils\n_rebuild_tensor\n" + storage + b"R" + (b"\x85R)b" if build else b"")
    return b"\x80\x02}U\x01a" + build + tensor + b"s."


def test_files_of_early_versions(tmp_path: Path) -> None:
    """A tensor of version 1, and a parameter with a state of its own."""
    path = tmp_path / "old.pth"
    for build in (b"", b"ctorch.nn.parameter\nParameter\n"):
        data = _old(_old_tensor(1, build))
        path.write_bytes(data[: data.rindex(b"]")] + b"]U\x010a." + struct.pack("<qf", 1, 3))
        assert read(path).tensors["a"].tolist() == [3]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"\x80\x02]q\x00" + b"".join(b"](" + b"h%c" % n * 10 + b"eq%c" % (n + 1) for n in range(14)) + b")R.", "a call"),
        (_old_tensor(1 << 30), "1073741824 numbers in"),
    ],
)  # fmt: skip
def test_hostile_contents_of_an_old_file(tmp_path: Path, contents: bytes, message: str) -> None:
    """F13: with 400 bytes `torch.load` wrote a message without end."""
    path = tmp_path / "old.pth"
    path.write_bytes(_old(contents))
    with pytest.raises(UserError, match=f"refused: it holds {message}"):
        read(path)


def test_a_compressed_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are compressed"):
        read(_handmade(tmp_path / "bomb.pt", pickle.dumps({}), compress=True))


@pytest.mark.parametrize(
    ("shape", "count", "message"),
    [
        ((2,), 2, ""),
        ((1 << 30, 1 << 30), 2, "larger than its 2 numbers"),
        ((2,), 1 << 30, "1073741824 numbers in"),
        ((2,), 3, "not in the archive"),
    ],
)
def test_a_tensor_has_the_numbers_that_it_says(
    tmp_path: Path, shape: tuple[int, ...], count: int, message: str
) -> None:
    path = _tensor_of(shape, count, tmp_path / "a.pt")
    if not message:
        assert read(path).tensors["a"].tolist() == [0, 0]
        return
    with pytest.raises(UserError, match=message):
        read(path)


@pytest.mark.parametrize("kind", ["torchscript", "plain", "old", "safetensors", "arrays"])
@pytest.mark.parametrize("part", [0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_told(tmp_path: Path, kind: str, part: float) -> None:
    path = _save(tmp_path / "small.pt", _Small(), kind)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(
        UserError, match=r"truncated or damaged|not a readable pickle|weights alone|other bytes|empty"
    ):
        read(path)


@pytest.mark.parametrize("kind", ["torchscript", "plain"])
def test_a_damaged_archive_is_read_or_told(tmp_path: Path, kind: str) -> None:
    """F16: a damaged directory of the zip file was a traceback."""
    path = _save(tmp_path / "small.pt", _Small(), kind)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for place in [*rng.integers(0, len(whole), 60), *range(len(whole) - 22, len(whole))]:
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            read(path)
        except UserError as error:
            assert error.where == str(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        read(tmp_path / "none.pt")


def test_differences_are_named() -> None:
    network = nn.Linear(2, 3)
    state = {"weight": torch.zeros(3, 4), "other": torch.zeros(1)}
    assert mismatches(shapes_of(network), state) == [
        "1 tensors missing: bias",
        "1 tensors unexpected: other",
        "1 tensors of another shape: weight (3, 4) instead of (3, 2)",
    ]
    assert len(mismatches(shapes_of(network), state, more_allowed=True)) == 2
