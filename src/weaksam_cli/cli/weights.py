"""`weaksam weights`: which published files the recipes need, whether they are here and whole, and how to get them."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import typer

from weaksam_cli.artifacts import digest
from weaksam_cli.cli.options import CommonOptions, build_context
from weaksam_cli.console import Console, Mode, byte_progress, format_table, size
from weaksam_cli.errors import ExitCode, UserError
from weaksam_cli.models.weights.catalogue import (
    FileState,
    Verdict,
    WeightsFile,
    check_file,
    read_catalogue,
    read_needs,
    select,
)

_NO_TERMINAL = (100_000, 24)
"""Columns where nobody looks: one line a file, however long, for grep and cut."""
_HEADER = ("file", "size", "state", "licence", "needed by", "found", "SHA-256", "origin")
_NARROW = 4
"""So many columns are a table on a terminal, and the others are lines below each row."""


def begin(options: CommonOptions, console: Console, context: typer.Context) -> None:
    """`weaksam weights` alone lists; options before a sub-command's name are meant for it."""
    given = {"weights_dir": options.weights_dir, "json": options.json}
    context.default_map = dict.fromkeys(("list", "verify", "fetch"), given)
    if context.invoked_subcommand is None:
        list_files(options, console)


def _end(faults: Sequence[UserError], console: Console) -> None:
    """Tell what could not be done, a line each."""
    for fault in faults:
        console.error(fault.one_line())
    if faults:
        sys.exit(ExitCode.USER)


# ---------------------------------------------------------------- list
def list_files(options: CommonOptions, console: Console) -> None:
    """Print every file of the catalogue: a line a file where nobody looks, a few lines a file on a terminal.

    Raises:
        UserError: when the catalogue or a recipe is not readable.
    """
    finder = build_context(options, None, console).weights
    files, needs = read_catalogue().files, read_needs()
    found = [finder.find(item.name) for item in files]
    if console.mode is Mode.JSON:
        for item, path in zip(files, found, strict=True):
            console.result(
                "", file=item.name, needed_by=needs.get(item.name, ()), state=_state(item, path),
                path=str(path) if path else None, **item.model_dump(mode="json", exclude={"name"}),
            )  # fmt: skip
        return
    rows = [
        [item.name, size(item.size) if item.size else "-", _state(item, path), item.licence or "not known",
         ", ".join(needs.get(item.name, ())) or "-", f"{path} ({path.stat().st_size} bytes)" if path else "-",
         item.checksum, item.url or item.origin]
        for item, path in zip(files, found, strict=True)
    ]  # fmt: skip
    columns = shutil.get_terminal_size(_NO_TERMINAL).columns
    here, looked = sum(path is not None for path in found), ", ".join(map(str, finder.folders))
    console.result(*_wrapped(f"{here} of {len(files)} published files are here; looked in {looked}", columns))
    if columns == _NO_TERMINAL[0]:
        console.table("", _HEADER, rows)
    else:
        header, rule, *heads = format_table(*(row[:_NARROW] for row in (_HEADER, *rows))).splitlines()
        console.result("", header, rule)
        for head, item, row in zip(heads, files, rows, strict=True):
            more = zip(("for", "found", "SHA-256", "get it from"), row[_NARROW:], strict=True)
            texts = [item.what, *(f"{name}: {value}" for name, value in more if value != "-")]
            console.result(head, *(line for text in texts for line in _wrapped(text, columns, "    ")))
    console.result(
        "",
        "Get one: weaksam weights fetch FILE (or RECIPE)",
        "Compare checksums of what is here: weaksam weights verify",
    )


def _state(item: WeightsFile, path: Path | None) -> str:
    """What a look at the file's size tells."""
    if path is None:
        return "missing"
    if item.size is None:
        return "here"
    return "ok" if path.stat().st_size == item.size else "wrong size"


def _wrapped(text: str, columns: int, indent: str = "") -> list[str]:
    """Lines of a terminal; addresses and paths stay whole, so that they can be copied."""
    return textwrap.wrap(
        text, columns, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )  # fmt: skip


# ---------------------------------------------------------------- verify
def verify_files(options: CommonOptions, console: Console, names: Sequence[str] | None) -> None:
    """Check files, all that are found when none is named, and print a row for each, then what is wrong."""
    finder, catalogue, needs = build_context(options, None, console).weights, read_catalogue(), read_needs()
    found = [(finder.find(item.name), item) for item in catalogue.files if not names]
    targets: list[tuple[Path, WeightsFile | None]] = [(path, item) for path, item in found if path]
    faults = []
    for name in names or ():
        try:
            if Path(name).is_file():
                targets.append((Path(name), catalogue.find(Path(name).name)))
            else:
                targets += [(finder.require(item.name), item) for item in select(catalogue, needs, name)]
        except UserError as error:
            faults.append(error)
    verdicts = []
    for path, entry in targets:
        with byte_progress(console, f"reading {path.name}", path.stat().st_size) as advance:
            verdicts.append(check_file(path, entry, catalogue, advance))
    _print_verdicts(verdicts, console)
    if not targets and not faults:
        console.result(f"nothing to verify in {', '.join(map(str, finder.folders))}")
    _end([*faults, *(verdict.fault for verdict in verdicts if verdict.fault)], console)


def _print_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    if console.mode is Mode.JSON:
        for item in verdicts:
            console.result(
                "", path=str(item.path), file=item.entry.name if item.entry else None, state=item.state.value,
                size=item.size, sha256=item.sha256 or None, fault=item.fault.one_line() if item.fault else None,
            )  # fmt: skip
        return
    rows = [[item.path.name, size(item.size), item.state.value, str(item.path.parent)] for item in verdicts]
    if rows:
        console.table("", ["file", "size", "state", "folder"], rows)
    for item in verdicts:
        line = f"{item.path.name}: {item.size} bytes, SHA-256 {item.sha256}"
        if item.state is FileState.UNKNOWN:
            console.result(f"{line}: no file of the catalogue")
        elif item.state is FileState.NOT_PINNED:
            console.result(f"{line}: nothing to compare it with")
        elif item.entry and not item.fault and item.entry.name != item.path.name:
            console.result(f"{item.path.name} is {item.entry.name}: give it this name, and recipes find it")


# ---------------------------------------------------------------- fetch
def fetch_files(options: CommonOptions, console: Console, names: Sequence[str], unverified: bool) -> None:
    """Download what is not there, then tell what cannot be had.

    Raises:
        UserError: for a name that means nothing; nothing is downloaded then.
    """
    from weaksam_cli.models.weights.download import fetch_file

    finder, catalogue, needs = build_context(options, None, console).weights, read_catalogue(), read_needs()
    wanted = {item.name: item for name in names for item in select(catalogue, needs, name)}
    faults = []
    for item in wanted.values():
        try:
            found = finder.find(item.name)
            if found is None:
                path = fetch_file(item, finder.downloads, console, unverified=unverified)
                sha256, compared = (
                    item.sha256 or digest.of_file(path),
                    "" if item.pinned else " (compared with nothing)",
                )
                text = f"{path}: {size(path.stat().st_size)}, SHA-256 {sha256}{compared}"
                console.result(text, file=item.name, path=str(path), fetched=True, sha256=sha256)
            elif _state(item, found) != "wrong size":
                console.result(
                    f"{item.name} is here: {found}", file=item.name, path=str(found), fetched=False
                )
            else:
                raise UserError(
                    f"a file of another size ({found.stat().st_size} bytes, expected {item.size}) is in the way",
                    where=str(found),
                    remedy="See what it is with `weaksam weights verify`, remove it, and fetch again",
                )
        except UserError as error:
            faults.append(error)
    _end(faults, console)
