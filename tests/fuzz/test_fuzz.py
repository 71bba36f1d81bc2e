"""Hostile input of every kind through the command line: some cases of each reader; `make fuzz` runs 10,000."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.cases import run_unchanged, try_case
from tests.fuzz.corpus import make_corpus
from tests.fuzz.judge import findings
from tests.fuzz.process import Ended, run_forked
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


def _hang() -> None:
    while True:
        pass


def _fail() -> None:
    raise KeyError("x")


def _need_memory() -> None:
    assert b"x" * 2_500_000_000


def test_the_judge_sees_what_may_not_happen(tmp_path: Path) -> None:
    ended = run_forked([_fail, _hang, _need_memory, lambda: None], tmp_path, tmp_path, seconds=3)
    kinds = [[finding.kind for finding in findings(each)] for each in ended]
    assert kinds == [["traceback"], ["hang"], [], ["memory"]], "memory is known when the process ends"


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
