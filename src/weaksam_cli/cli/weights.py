"""`weaksam weights`: which published files the recipes need, whether they are here and whole, and how to get them."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weaksam_cli.cli import options as opt
from weaksam_cli.cli.guard import guarded
from weaksam_cli.console import Console, Mode, format_table, size
from weaksam_cli.errors import ExitCode, UserError

if TYPE_CHECKING:
    from weaksam_cli.models.weights.catalogue import Verdict, WeightsFile, WeightsFinder

weights_app = typer.Typer(
    help="Published weights: what the recipes need, what is here; check and fetch files.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_NO_TERMINAL = (100_000, 24)
"""Columns where nobody looks: one line a file, however long, for grep and cut."""


@weights_app.callback(invoke_without_command=True)
def _weights(
    context: typer.Context, weights_dir: opt.WeightsOption = None, json: opt.JsonOption = False
) -> None:
    """Published weights: what the recipes need, what is here; check and fetch files."""
    context.obj = opt.CommonOptions(weights_dir=weights_dir, json=json)
    if context.invoked_subcommand is None:
        list_weights(context)


@weights_app.command("list")
def list_weights(
    context: typer.Context, weights_dir: opt.WeightsOption = None, json: opt.JsonOption = False
) -> None:
    """Every file that a recipe can need, with size, SHA-256, licence and origin (the default)."""
    _run(context, weights_dir, json, lambda finder, _, console: show_list(finder, console))


@weights_app.command("verify")
def verify(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE-OR-NAME...]", help="Files, recipes or profiles; default: every file that is here."
        ),
    ] = None,
    weights_dir: opt.WeightsOption = None,
    json: opt.JsonOption = False,
) -> None:
    """Compare size and SHA-256 with what is published; name the tensors that differ."""
    _run(context, weights_dir, json, lambda finder, _, console: verify_files(files or [], finder, console))


@weights_app.command("fetch")
def fetch(
    context: typer.Context,
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Files, recipes or profiles (all files that these need)."),
    ],
    weights_dir: opt.WeightsOption = None,
    unverified: Annotated[
        bool,
        typer.Option("--unverified", help="Also take a file of which no checksum is known."),
    ] = False,
    json: opt.JsonOption = False,
) -> None:
    """Download files that are not here; an interrupted download is gone on with (the only use of the network)."""

    def work(finder: WeightsFinder, folder: Path, console: Console) -> list[UserError]:
        return fetch_files(names, finder, folder, console, unverified=unverified)

    _run(context, weights_dir, json, work)


def _run(
    context: typer.Context,
    weights_dir: Path | None,
    json: bool,
    work: Callable[[WeightsFinder, Path, Console], list[UserError]],
) -> None:
    """Do the work of a sub-command and tell its faults, a line each; options may stand before its name, too."""
    before: opt.CommonOptions = context.obj
    options = replace(before, weights_dir=weights_dir or before.weights_dir, json=json or before.json)
    console = options.console()
    with guarded(console):
        from weaksam_cli.models.weights.catalogue import WeightsFinder, default_folders, download_folder

        noted = opt.read_file_settings().weights_dir
        given = options.weights_dir or (Path(noted) if noted else None)
        finder = WeightsFinder(default_folders(given, os.environ))
        faults = work(finder, download_folder(given, os.environ), console)
        for fault in faults:
            console.error(fault.one_line())
    raise typer.Exit(ExitCode.USER if faults else ExitCode.OK)


# ---------------------------------------------------------------- list
def show_list(finder: WeightsFinder, console: Console) -> list[UserError]:
    """Print every file of the catalogue: a line a file where nobody looks, a few lines a file on a terminal.

    Raises:
        UserError: when the catalogue or a recipe is not readable.
    """
    from weaksam_cli.models.weights.catalogue import read_catalogue, read_needs

    files, needs = read_catalogue().files, read_needs()
    found = {item.name: finder.find(item.name) for item in files}
    if console.mode is Mode.JSON:
        for item in files:
            path = found[item.name]
            console.result(
                "", file=item.name, needed_by=needs.get(item.name, ()), state=_state(item, path),
                path=str(path) if path else None, **item.model_dump(mode="json", exclude={"name"}),
            )  # fmt: skip
        return []
    columns = shutil.get_terminal_size(_NO_TERMINAL).columns
    here, looked = sum(path is not None for path in found.values()), ", ".join(map(str, finder.folders))
    console.result(_wrapped(f"{here} of {len(files)} published files are here; looked in {looked}", columns))
    heads = [
        [
            item.name,
            size(item.size) if item.size else "-",
            _state(item, found[item.name]),
            item.licence or "not known",
        ]
        for item in files
    ]
    header = ["file", "size", "state", "licence"]
    if columns == _NO_TERMINAL[0]:
        rows = [
            [*head, ", ".join(needs.get(item.name, ())) or "-", str(found[item.name] or "-"), item.checksum,
             item.url or item.origin]
            for item, head in zip(files, heads, strict=True)
        ]  # fmt: skip
        console.table("", [*header, "needed by", "found", "SHA-256", "origin"], rows)
    else:
        table = format_table(header, heads).splitlines()
        lines = table[:2]
        for item, head in zip(files, table[2:], strict=True):
            users = ", ".join(needs.get(item.name, ())) or "no recipe of this version"
            texts = [f"{item.what}; for {users}", f"SHA-256 {item.checksum}", item.url or item.origin]
            if path := found[item.name]:
                texts.append(f"found: {path} ({path.stat().st_size} bytes)")
            lines += [head, *(_wrapped(text, columns, "    ") for text in texts)]
        console.result("\n" + "\n".join(lines))
    console.result(
        "\nGet one: weaksam weights fetch FILE (or RECIPE)\n"
        "Compare checksums of what is here: weaksam weights verify"
    )
    return []


def _state(item: WeightsFile, path: Path | None) -> str:
    """What a look at the file's size tells."""
    if path is None:
        return "missing"
    if item.size is None:
        return "here"
    return "ok" if path.stat().st_size == item.size else "wrong size"


def _wrapped(text: str, columns: int, indent: str = "") -> str:
    """Lines of a terminal; addresses and paths stay whole, so that they can be copied."""
    return textwrap.fill(
        text,
        columns,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


# ---------------------------------------------------------------- verify
def verify_files(texts: Sequence[str], finder: WeightsFinder, console: Console) -> list[UserError]:
    """Check files, all that are found when none is named, and print a row for each; returns what is wrong."""
    from weaksam_cli.models.weights.catalogue import (
        byte_progress,
        check_file,
        read_catalogue,
        read_needs,
        select,
    )

    catalogue, needs = read_catalogue(), read_needs()
    found = [(finder.find(item.name), item) for item in catalogue.files if not texts]
    targets: list[tuple[Path, WeightsFile | None]] = [(path, item) for path, item in found if path]
    faults = []
    for text in texts:
        try:
            if Path(text).is_file():
                targets.append((Path(text), catalogue.find(Path(text).name)))
            else:
                targets += [(finder.require(item.name), item) for item in select(catalogue, needs, text)]
        except UserError as error:
            faults.append(error)
    verdicts = []
    for path, entry in targets:
        with byte_progress(console, f"reading {path.name}", path.stat().st_size) as advance:
            verdicts.append(check_file(path, entry, catalogue, advance))
    _print_verdicts(verdicts, console)
    if not targets and not faults:
        console.result(f"nothing to verify in {', '.join(map(str, finder.folders))}")
    return [*faults, *(verdict.fault for verdict in verdicts if verdict.fault)]


def _print_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    from weaksam_cli.models.weights.catalogue import FileState

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
def fetch_files(
    texts: Sequence[str], finder: WeightsFinder, folder: Path, console: Console, *, unverified: bool
) -> list[UserError]:
    """Download what is not there into `folder`; returns what cannot be had.

    Raises:
        UserError: for a name that means nothing; nothing is downloaded then.
    """
    from weaksam_cli.models.weights.catalogue import read_catalogue, read_needs, select

    catalogue, needs = read_catalogue(), read_needs()
    wanted = {item.name: item for text in texts for item in select(catalogue, needs, text)}
    faults = []
    for item in wanted.values():
        try:
            _fetch_one(item, finder.find(item.name), folder, console, unverified=unverified)
        except UserError as error:
            faults.append(error)
    return faults


def _fetch_one(
    item: WeightsFile, found: Path | None, folder: Path, console: Console, *, unverified: bool
) -> None:
    from weaksam_cli.artifacts import digest
    from weaksam_cli.models.weights.download import fetch_file

    if found is not None:
        if _state(item, found) == "wrong size":
            raise UserError(
                f"a file of another size ({found.stat().st_size} bytes, expected {item.size}) is in the way",
                where=str(found),
                remedy="See what it is with `weaksam weights verify`, remove it, and fetch again",
            )
        console.result(f"{item.name} is here: {found}", file=item.name, path=str(found), fetched=False)
        return
    path = fetch_file(item, folder, console, unverified=unverified)
    sha256 = item.sha256 or digest.of_file(path)
    console.result(
        f"{path}: {size(path.stat().st_size)}, SHA-256 {sha256}{'' if item.pinned else ' (compared with nothing)'}",
        file=item.name, path=str(path), fetched=True, sha256=sha256,
    )  # fmt: skip
