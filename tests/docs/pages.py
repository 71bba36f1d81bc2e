"""The pages that people read, and the commands and code in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer.main

from weaksam_cli.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("stages/**/README.md"))]
_BLOCK = re.compile(r'^```(\w+)(?: title="([^"\n]+)")?\n(.*?)^```', flags=re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`(weaksam [^`\n]+)`")


@dataclass(frozen=True)
class Command:
    """A command as it stands in a page.

    Attributes:
        place: page and line.
        words: its words; the first is the program.
        needs: what it cannot run without, and a test does not have: `# needs SAM's weights` behind it.
        code: the exit code that the page promises: `# exit code 2` behind it.
    """

    place: str
    words: tuple[str, ...]
    needs: str | None
    code: int

    def __str__(self) -> str:
        return f"{self.place} {shlex.join(self.words)}"


def commands() -> list[Command]:
    """Every line of a `console` block that begins with `$`, in the order in which a reader meets them."""
    return [_command(place, line) for page in PAGES for place, line in _console_lines(page)]


def _console_lines(page: Path) -> Iterator[tuple[str, str]]:
    text = page.read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        if block[1] == "console":
            first = text[: block.start()].count("\n") + 2
            for number, line in enumerate(block[3].splitlines(), first):
                if line.startswith("$ "):
                    yield f"{page.relative_to(ROOT)}:{number}", line[2:]


def _command(place: str, line: str) -> Command:
    typed, _, comment = line.partition(" #")
    code = re.search(r"exit code (\d+)", comment)
    needs = re.search(r"needs (.*)", comment)
    return Command(place, tuple(shlex.split(typed)), needs and needs[1], int(code[1]) if code else 0)


def code_blocks(page: Path) -> list[str]:
    """Python blocks of a page that are no files."""
    blocks = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [block[3] for block in blocks if block[1] == "python" and not block[2]]


def files() -> dict[str, str]:
    """Files that the pages show, by name: blocks with a title."""
    texts = (page.read_text(encoding="utf-8") for page in PAGES)
    return {block[2]: block[3] for text in texts for block in _BLOCK.finditer(text) if block[2]}


def mentions() -> list[tuple[str, str]]:
    """Page and text of every `weaksam ...` in running text; a command may be cut short there."""
    return [
        (page.relative_to(ROOT).as_posix(), text)
        for page in PAGES
        for text in _SPAN.findall(_BLOCK.sub("", page.read_text(encoding="utf-8")))
    ]


@cache
def _program() -> Any:
    return typer.main.get_command(app)


def find_command(words: tuple[str, ...]) -> tuple[Any, list[str]]:
    """The command that is meant, and the words after its name.

    Raises:
        KeyError: there is no such command.
    """
    found, rest = _program(), list(words[1:])
    while rest and not rest[0].startswith("-") and hasattr(found, "commands"):
        found = found.commands[rest.pop(0)]
    return found, rest


def unknown_options(words: tuple[str, ...]) -> set[str]:
    """Options that the command does not have."""
    found, rest = find_command(words)
    known = {name for parameter in found.params for name in parameter.opts} | {"--help", "-h"}
    return {
        word.strip("[],;.").partition("=")[0] for word in rest if word.lstrip("[").startswith("-")
    } - known
