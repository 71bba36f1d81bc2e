"""The output sink: modes, tables, words for times and sizes."""

from __future__ import annotations

import io
import json

import pytest

from weaksam_cli.console import Console, Mode, duration, format_table, size
from weaksam_cli.errors import UserError


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


HOSTILE = "写真 new\nline\r\t\x1b[2J\x9b1m\u202egnp\u2066\u200b\ufeff\x7f\udcff\0 Käse\u3000é.jpg"
WRITTEN = r"写真 new\nline\r\t\x1b[2J\x9b1m\u202egnp\u2066\u200b\ufeff\x7f\udcff\x00" + " Käse\u3000é.jpg"


def test_names_cannot_break_lines_or_speak_to_the_terminal() -> None:
    """F18: whatever says it, on either stream."""
    out, err = io.StringIO(), io.StringIO()
    console = Console(Mode.HUMAN, out, err)
    console.info(HOSTILE)
    console.warn(HOSTILE)
    console.error(HOSTILE)
    assert err.getvalue() == f"{WRITTEN}\nwarning: {WRITTEN}\nerror: {WRITTEN}\n"
    console.result(HOSTILE, "second")
    assert out.getvalue() == f"{WRITTEN}\nsecond\n"
    console.table(HOSTILE, [HOSTILE], [[HOSTILE]])
    assert out.getvalue().splitlines()[2:] == ["", WRITTEN, WRITTEN, "-" * len(WRITTEN), WRITTEN]


def test_json_lines_hold_names_as_they_are_without_speaking_to_the_terminal() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(Mode.JSON, out, err)
    console.result("", name=HOSTILE)
    console.table("", [HOSTILE], [])
    console.error(HOSTILE)
    lines = out.getvalue().splitlines()
    assert json.loads(lines[0])["name"] == json.loads(lines[1])["header"][0] == HOSTILE
    assert "写真" in lines[0]
    for line in (*lines, *err.getvalue().splitlines()):
        assert line.replace("\u3000", " ").isprintable()


def test_progress_on_a_terminal_shows_names_and_not_what_they_command() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    err = Terminal()
    with Console(Mode.HUMAN, io.StringIO(), err).progress(f"[red]{HOSTILE}", 2) as progress:
        progress.advance(2, f"[/nothing] {HOSTILE}")
    assert "\u202e" not in err.getvalue() and "\x1b[2J" not in err.getvalue()
    assert "[red]" in err.getvalue()


@pytest.mark.parametrize("where", [None, HOSTILE, "x" * 5_000_000])
@pytest.mark.parametrize("what", ["is bad", HOSTILE, "y" * 5_000_000])
def test_an_error_is_one_line_whatever_it_holds(where: str | None, what: str) -> None:
    text = UserError(what, where=where, remedy=what).one_line()
    assert len(text) < 2100 and len(text.splitlines()) == 1
    text.encode()


def test_numbers_stand_right_and_words_left() -> None:
    header, *rows = ["artifact", "measure", "value"], ["a", "x", "9.5 %"], ["bbb", "long one", "10.5 %"]
    lines = format_table(header, *rows).splitlines()
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
    times = iter([0.0, 60.0, 62.0, 66.0])  # the first image takes the time of loading, too
    monkeypatch.setattr("weaksam_cli.console.time.monotonic", lambda: next(times))
    with console.progress("maps", 20, done=4) as progress:
        progress.advance(2, "1 failed")
        progress.advance(2)
        progress.advance(4)
    assert err.getvalue().splitlines() == [
        "  maps: 6/20 images, 1 failed",
        "  maps: 8/20 images, about 12 s left",
        "  maps: 12/20 images, about 8 s left",
    ]


def test_a_narrow_encoding_is_no_error() -> None:
    class Ascii(io.StringIO):
        encoding = "ascii"

    out = Ascii()
    Console(Mode.HUMAN, out, io.StringIO()).result("Käse")
    assert out.getvalue() == "K?se\n"
