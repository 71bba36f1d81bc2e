"""`make gpu-check` on a machine without a GPU: that its page is written, and that a part that fails is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks import gpu_check


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--device", "cpu", "--tiny", "--out", str(page)])
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert ended.value.code == 0
    assert "| faster-rcnn-lite0-fpn | 2 | " in page.read_text()


def test_a_part_that_fails_is_named() -> None:
    section, ended_well = gpu_check.run("Title", ["-c", "raise SystemExit('no memory')"])
    assert not ended_well
    assert "**failed**, exit code 1: `no memory`" in section


def test_every_part_is_a_file_here() -> None:
    commands = [*gpu_check.parts(["a.jpg"], "cuda").values(), *gpu_check.tiny_parts([], "cpu").values()]
    assert all(Path(words[0]).is_file() for words in commands if words[0] != "-m")
