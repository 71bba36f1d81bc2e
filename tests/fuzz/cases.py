"""Cases: a number and a reader are always the same input."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.judge import ESCAPED, Finding, findings, snapshot, touched
from tests.fuzz.process import Ended, run_here, run_programs
from tests.fuzz.readers import READERS, Command, Reader
from weaksam_cli.artifacts import digest

_SIGNED = ".receipt.json"
_FILM = 3 << 30
"""Bytes of a file that nobody should read as a whole; it takes no room on the disk."""


@dataclass(frozen=True)
class Tried:
    """What a case did.

    Attributes:
        commands: as they were run, with how each ended.
        found: what is wrong.
    """

    commands: Sequence[tuple[Command, Ended]]
    found: Sequence[Finding]


def try_case(corpus: Path, name: str, number: int, place: Path) -> Tried:
    """Lay the case out below the empty folder `place` and run its commands."""
    reader, rng, work = READERS[name], Random(f"{name} {number}"), work_folder(place)
    lay_out(corpus, reader, work)
    if reader.arguments is None:
        file = rng.choice(_files(reader, work))
        mutate(rng, reader, file)
        commands = _commands(reader, file, work)
    else:
        commands = [*reader.arguments(rng)]
    log = place / "log"
    log.mkdir()
    before = snapshot(place / "box")
    ended = run_programs(commands, work, log)
    found = [fault for each in ended for fault in findings(each)]
    if reader.writes is not None:
        # What an export was made of lies hidden beside it.
        allowed = [f"x/y/work/{hidden}{start}" for start in reader.writes for hidden in ("", ".")]
        found += touched(before, snapshot(place / "box"), allowed)
    with contextlib.suppress(FileNotFoundError):
        ESCAPED.unlink()
    return Tried([*zip(commands, ended, strict=True)], found)


def run_unchanged(corpus: Path, place: Path) -> Iterator[tuple[str, Command, Ended]]:
    """Every reader on its good input: what a case would show that found nothing, and that its commands do read the file.

    The commands run in this process, which so imports all that the children need.
    """
    for name, reader in READERS.items():
        if reader.arguments is None:
            folder = place / name
            lay_out(corpus, reader, work_folder(folder))
            (folder / "log").mkdir()
            for command in _commands(reader, _files(reader, work_folder(folder))[0], work_folder(folder)):
                yield name, command, run_here(command, work_folder(folder))


def work_folder(place: Path) -> Path:
    """The working folder of a case, some folders deep: `../..` is watched, too."""
    return place / "box" / "x" / "y" / "work"


def lay_out(corpus: Path, reader: Reader, work: Path) -> None:
    """Copy what a reader needs into the new folder `work`; a run knows the absolute place of its dataset."""
    work.mkdir(parents=True)
    for need in reader.needs:
        (work / need).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (corpus / need).is_dir() else shutil.copy2)(corpus / need, work / need)
    for source in work.glob("runs/*/labels/source.json"):
        source.write_text(
            source.read_text().replace(json.dumps(str(corpus))[1:-1], json.dumps(str(work))[1:-1])
        )


def _files(reader: Reader, work: Path) -> list[Path]:
    return sorted(path for pattern in reader.files for path in work.glob(pattern))


def _commands(reader: Reader, file: Path, work: Path) -> list[Command]:
    """The commands of a reader about one file; words that are not needed for it are left out."""
    name, stage = str(file.relative_to(work)), file.name.partition("-")[0]
    words = {
        "file": name,
        "artifact": name.removesuffix(_SIGNED),
        "stage": stage,
        "source": "voc" * (stage == "data"),
    }

    def filled(word: str) -> str:
        return re.sub(r"\{(file|artifact|stage|source)\}", lambda match: words[match[1]], word)

    return [tuple(filled(word) for word in command if filled(word)) for command in reader.commands]


def mutate(rng: Random, reader: Reader, file: Path) -> None:
    """Change the file, or put something else in its place; its receipt, where it has one, may go along with it."""
    if rng.random() < 0.04:
        _replace(rng, file)
        return
    data = rng.choice(reader.mutators)(rng, file.read_bytes())
    file.write_bytes(data)
    receipt = file.with_name(file.name + _SIGNED)
    if receipt.is_file():
        if rng.random() < 0.4:
            receipt.unlink()
        elif rng.random() < 0.9:
            content = json.loads(receipt.read_text())
            content |= {"sha256": digest.of_bytes(data), "size": len(data)}
            receipt.write_text(json.dumps(content))


def _replace(rng: Random, file: Path) -> None:
    """Something under this name that is no ordinary file."""
    file.unlink()
    kind = rng.randrange(7)
    if kind == 0:
        file.mkdir()
    elif kind == 1:
        os.mkfifo(file)
    elif kind == 2:
        with file.open("wb") as handle:
            handle.truncate(_FILM)
    elif kind < 6:
        file.symlink_to(("/dev/zero", file.name, "/nowhere")[kind - 3])
