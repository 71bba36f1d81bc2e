"""Hostile input of every kind through the command line: some cases of each reader; `make fuzz` runs 10,000."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import pytest

from tests.fuzz.cases import lay_out, run_unchanged, try_case
from tests.fuzz.corpus import make_corpus
from tests.fuzz.judge import findings
from tests.fuzz.process import Ended, run_forked, run_programs
from tests.fuzz.readers import READERS

CASES = 3
REFUSED = {("torchscript", "clip-templates")}
"""No file of a few kilobytes is a CLIP."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Good inputs; by then everything is imported, and what this process has stays as it is for its children."""
    made = make_corpus(tmp_path_factory.mktemp("fuzz") / "corpus")
    place = made.parent / "unchanged"
    refused = {(name, command[0]) for name, command, ended in run_unchanged(made, place) if ended.code}
    assert refused == REFUSED
    shutil.rmtree(place)
    gc.freeze()
    yield made
    gc.unfreeze()


@pytest.mark.parametrize("name", READERS)
def test_hostile_input_ends_in_words(corpus: Path, tmp_path: Path, name: str) -> None:
    """No traceback, no hang, not too much memory, nothing touched, one line of error: see `judge`."""
    for number in range(CASES):
        place = tmp_path / str(number)
        place.mkdir()
        tried = try_case(corpus, name, number, place)
        assert not tried.found, f"python -m tests.fuzz --reader {name} --case {number}"
        shutil.rmtree(place)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _many_names(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["kind_names"]
        file.create_dataset("kind_names", (1_000_000,), h5py.string_dtype(), chunks=True, compression="gzip")
    path.with_name(path.name + ".receipt.json").unlink()


def _no_such_split(path: Path) -> None:
    path.write_text(path.read_text().replace('"name": "trainval"', '"name": "elsewhere"'))


IMPORT = (
    "import",
    "theirs/mmdet.pkl",
    "--format",
    "mmdet",
    "--labels",
    "runs/tiny/labels/trainval.json",
    "-o",
    "out.h5",
)
RUN = ("--dataset", "tiny", "--split", "trainval")
FOUND: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {
    "a number of 5,000 digits": ("weaksam.toml", lambda path: path.write_text(f"seed = {'1' * 5000}"), ("status",)),
    "brackets in brackets": ("weaksam.toml", lambda path: path.write_text(f"seed = {'[' * 5000}"), ("status",)),
    "a truth value that is none": ("list.txt", Path.unlink, ("pgt", *RUN, "--set", "max_boxes=!!bool maybe")),
    "a pickle that never ends": ("theirs/mmdet.pkl", _pipe, IMPORT),
    "an order that never ends": ("order.txt", _pipe, (*IMPORT, "--order", "order.txt")),
    "maps that link to themselves": ("runs/tiny/cam/trainval.h5", _link_to_itself, ("prompt", *RUN)),
    "a million names": ("runs/tiny/prompts/trainval.h5", _many_names, ("inspect", "runs/tiny/prompts/trainval.h5")),
    "another split than the dataset's": ("runs/tiny/labels/source.json", _no_such_split, ("eval", *RUN)),
}  # fmt: skip
"""Found by `make fuzz`: a file, what happens to it, and the command that ended badly."""


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(corpus: Path, tmp_path: Path, name: str) -> None:
    file, change, command = FOUND[name]
    work = tmp_path / "work"
    lay_out(corpus, READERS["options"], work)
    change(work / file)
    (ended,) = run_programs([command], work, tmp_path)
    assert not findings(ended)


def _hang() -> None:
    while True:
        pass


def _fail() -> None:
    raise KeyError("x")


def _need_memory() -> None:
    assert b"x" * 2_500_000_000


def test_the_judge_sees_what_may_not_happen(tmp_path: Path) -> None:
    ended = run_forked([_hang], tmp_path, tmp_path, seconds=1)
    ended += run_forked([_fail, _need_memory, lambda: None], tmp_path, tmp_path, seconds=60)
    kinds = [[finding.kind for finding in findings(each)] for each in ended]
    assert kinds == [["hang"], ["traceback"], [], ["memory"]], "memory is known when the process ends"


@pytest.mark.parametrize(
    ("code", "err", "what"),
    [
        (2, "warning: a\nerror: b\n", []),
        (2, "error: a\nb\n", ["an error of several lines"]),
        (2, "oh\n", ["exit code 2 without an error line"]),
        (0, "warning: \x1b[2J\n", ["control characters on stderr: '\\x1b'"]),
        (1, "", ["exit code 1"]),
        (-11, "", ["exit code -11"]),
    ],
)  # fmt: skip
def test_messages_are_one_line_of_plain_text(code: int, err: str, what: list[str]) -> None:
    assert [finding.what for finding in findings(Ended(code, 0.1, 0, b"", err.encode()))] == what
