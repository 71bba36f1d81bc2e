"""Files of lines, and what is given as one by mistake."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from weaksam_cli.data.text_lines import text_lines
from weaksam_cli.errors import UserError


def test_lines_are_cut_at_line_ends_alone(tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    path.write_bytes("\ufeffa\r\n\n b\u2028c\x0cd \nlast".encode())
    assert list(text_lines(path, "a list")) == ["a", "", " b\u2028c\x0cd ", "last"]
    path.write_bytes(b"")
    assert list(text_lines(path, "a list")) == []


FAULTS = {
    "zero byte": (b"a\nb\0\n", "a file of 5 bytes whose line 2 holds a zero byte"),
    "not UTF-8": (b"a\n\xff\n", r"whose line 2 is no UTF-8 \(byte 0\)"),
    "too long": (b"a" * 5000, "a file of 5,000 bytes whose line 1 is longer than 4096 bytes"),
    "too many": (b"a\n" * 5, "line 4 is one too many"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_list_says_its_size_and_line(tmp_path: Path, name: str) -> None:
    data, message = FAULTS[name]
    (tmp_path / "l.txt").write_bytes(data)
    with pytest.raises(UserError, match=f"expected a list, got .*{message}"):
        list(text_lines(tmp_path / "l.txt", "a list", most=3))


def test_no_file_and_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "none", "no such file"),
        (tmp_path / "pipe", "something else than a file"),
    ):
        with pytest.raises(UserError, match=f"got {message}"):
            list(text_lines(path, "a list"))


def test_a_film_costs_no_memory(tmp_path: Path) -> None:
    """F9: a film of 3 GB that was given as a list took 15.8 GB."""
    film = tmp_path / "film.mkv"
    film.touch()
    os.truncate(film, 3 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="a file of 3,221,225,472 bytes whose line 1 holds a zero byte"):
            list(text_lines(film, "a list"))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
