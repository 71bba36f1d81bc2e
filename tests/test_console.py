"""The output sink: modes, tables, words for times and sizes."""

from __future__ import annotations

import io
import json

import pytest

from weaksam_cli.console import Console, Mode, duration, format_table, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (42.4, "42 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (7500, "2 h 05 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (17_234, "17.2 kB"), (5.6e9, "5.6 GB")]
)
def test_size(count: float, text: str) -> None:
    assert size(count) == text


def test_names_cannot_break_lines_or_speak_to_the_terminal() -> None:
    err = io.StringIO()
    console = Console(Mode.HUMAN, io.StringIO(), err)
    console.info("  写真 new\nline\r\t\x1b[2J\x9b1m.jpg")
    console.warn("a\nb")
    assert err.getvalue() == "  写真 new\\nline\\r\\t\\x1b[2J\\x9b1m.jpg\nwarning: a\\nb\n"


def test_numbers_stand_right_and_words_left() -> None:
    lines = format_table(
        ["artifact", "measure", "value"], [["a", "x", "9.5 %"], ["bbb", "long one", "10.5 %"]]
    ).splitlines()
    assert lines[0] == "artifact  measure    value"
    assert lines[2] == "a         x          9.5 %"
    assert lines[3] == "bbb       long one  10.5 %"


@pytest.mark.parametrize("mode", list(Mode))
def test_results_go_to_stdout_and_the_rest_to_stderr(mode: Mode) -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(mode, out, err)
    console.info("working")
    console.warn("odd")
    console.result("42", answer=42)
    console.table("t", ["a"], [["1"]])
    console.error("bad")
    if mode is Mode.HUMAN:
        assert out.getvalue() == "42\n\nt\na\n-\n1\n"
        assert err.getvalue() == "working\nwarning: odd\nerror: bad\n"
    elif mode is Mode.QUIET:
        assert out.getvalue() == ""
        assert err.getvalue() == "warning: odd\nerror: bad\n"
    else:
        events = [json.loads(line) for line in out.getvalue().splitlines()]
        assert [event["event"] for event in events] == ["info", "warning", "result", "table", "error"]
        assert events[2]["answer"] == 42


def test_progress_without_a_terminal_is_lines_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    console = Console(Mode.HUMAN, io.StringIO(), err)
    monkeypatch.setattr("weaksam_cli.console._LineProgress.interval", -1.0)
    with console.progress("maps", 10, done=4) as progress:
        progress.advance(2, "1 failed")
        progress.advance(4)
    assert "maps: 6/10 images, about 0 s left, 1 failed" in err.getvalue()
    assert "10/10" in err.getvalue()


def test_a_narrow_encoding_is_no_error() -> None:
    class Ascii(io.StringIO):
        encoding = "ascii"

    out = Ascii()
    Console(Mode.HUMAN, out, io.StringIO()).result("Käse")
    assert out.getvalue() == "K?se\n"
