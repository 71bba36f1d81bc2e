"""Receipts that are not what they say: refused in one line, and made again with `--overwrite`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.artifacts.helpers import STAGE, context, step
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.receipt import read_receipt, receipt_path
from weaksam_cli.cli.app import app
from weaksam_cli.data.source import Source, write_source
from weaksam_cli.engine.steps import make
from weaksam_cli.errors import UserError

DEEP = "[" * 5000 + "]" * 5000
TEXTS: list[tuple[bytes, str]] = [
    (b"", "no valid JSON"),
    (b"{", "no valid JSON"),
    (b"[]", "expected an object"),
    (b"null", "expected an object"),
    (b'"text"', "expected an object"),
    (b"{}", "receipt_version: is missing"),
    (b"\xff\xfe{\x00}\x00", "UTF-16"),
    (b'{"artifact": "\xff"}', "no valid JSON"),
    (b'{"artifact": "\\ud800"}', "no valid JSON"),
    (b"PK\x03\x04", "no valid JSON"),
    (DEEP.encode(), "recursion limit"),
    (b'{"receipt_version": "1"}', "receipt_version: expected a valid integer, got '1'"),
    (b'{"receipt_version": 99}', "has version 99, this program reads up to 2"),
    (b'{"receipt_version": ' + b"9" * 4000 + b"}", "receipt_version: expected less than"),
    (b'{"receipt_version": ' + b"9" * 5000 + b"}", "out of range"),
    (b'{"receipt_version": 1}', "is missing"),
]
FIELDS: list[tuple[str, Any, str]] = [
    ("receipt_version", True, "receipt_version"),
    ("artifact", 3, r"artifact: expected a valid string, got 3"),
    ("size", -1, "size"),
    ("size", 1e30, "size"),
    ("images", 1 << 63, "images"),
    ("images", "11", "images"),
    ("wall_seconds", float("nan"), "wall_seconds"),
    ("wall_seconds", float("inf"), "wall_seconds"),
    ("wall_seconds", -1, "wall_seconds"),
    ("failed", {}, "failed: expected a valid array"),
    ("failed", [["i1", "broken"]], r"failed\[0\]"),
    ("failed", [{"image": "i1"}], r"failed\[0\]\.reason: is missing"),
    ("left_out", None, "left_out"),
    ("identity", [], "identity"),
    ("identity.seed", 1.5, "identity.seed"),
    ("identity.seed", float("nan"), "identity.seed"),
    ("identity.recipe", [], "identity.recipe"),
    ("identity.recipe", {"knob": float("nan")}, "identity.recipe"),
    ("identity.inputs", [], "identity.inputs"),
    ("identity.inputs", {"cam": "x"}, "identity.inputs.cam"),
    ("identity.inputs", {"cam": {"path": 1, "sha256": ""}}, "identity.inputs.cam.path"),
    ("identity.split", "../../x", "cannot be the name of a split"),
    ("identity.more", 1, "identity.more: is not known here"),
]  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of a receipt."""
    root = tmp_path_factory.mktemp("good")
    make(step(root / "a.h5"), STAGE, context(root))
    return receipt_path(root / "a.h5").read_text()


def refused(folder: Path, text: bytes, message: str) -> None:
    path = receipt_path(folder / "a.h5")
    path.write_bytes(text)
    with pytest.raises(UserError, match=message) as caught:
        read_receipt(folder / "a.h5")
    assert path.name in caught.value.one_line()
    assert len(caught.value.one_line()) < 500


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_what_is_no_receipt_is_refused(tmp_path: Path, number: int) -> None:
    refused(tmp_path, *TEXTS[number])


@pytest.mark.parametrize("number", range(len(FIELDS)))
def test_a_field_that_cannot_be_is_named(good: str, tmp_path: Path, number: int) -> None:
    name, value, message = FIELDS[number]
    content = json.loads(good)
    *outer, inner = name.split(".")
    (content[outer[0]] if outer else content)[inner] = value
    refused(tmp_path, json.dumps(content).encode(), message)


def gigabyte(path: Path) -> None:
    os.truncate(path, 10**9)


def deep(path: Path) -> None:
    path.write_text(DEEP)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(gigabyte, "has 1,000,000,000 bytes"), (deep, "recursion limit"), (pipe, "is no file")],
)
def test_every_reader_refuses_it_and_overwrite_makes_it_again(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "run" / "cam" / "a.h5"
    root = path.parent.parent
    make(step(path), STAGE, context(root))
    spoil(receipt_path(path))
    with pytest.raises(UserError, match=message):
        make(step(path), STAGE, context(root))
    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    write_source(FileOps(), root, Source(splits={}))
    result = CliRunner().invoke(app, ["status", "--run-dir", str(root)])
    assert (result.exit_code, "damaged" in result.output) == (0, True), result.output
    assert make(step(path), STAGE, context(root, overwrite=True)) == read_receipt(path)


@pytest.mark.parametrize("name", [f"{'n' * 250}.h5", "a.h5"])
def test_without_a_receipt_there_is_none(tmp_path: Path, name: str) -> None:
    """The receipt's own name may be longer than the file system allows; a link that leads nowhere is none either."""
    path = tmp_path / name
    if len(name) < 100:
        receipt_path(path).symlink_to(receipt_path(path))
    assert read_receipt(path) is None
