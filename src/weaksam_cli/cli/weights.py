"""`weaksam weights`: which published files the recipes need, whether they are here and whole, and how to get them."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weaksam_cli.cli import options as opt
from weaksam_cli.cli.guard import guarded
from weaksam_cli.console import Console, Mode, format_table, size
from weaksam_cli.errors import ExitCode, UserError
from weaksam_cli.models.weights.finder import WeightsFinder, default_folders, download_folder

if TYPE_CHECKING:
    from weaksam_cli.models.weights.catalogue import Catalogue, Needs, WeightsFile
    from weaksam_cli.models.weights.check import Verdict

weights_app = typer.Typer(
    help="Published weights: what the recipes need, what is here; check and fetch files.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Found = dict[str, Path | None]
"""Name of a file -> where it is."""

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
    options = _merged(context, weights_dir, json)
    console = options.console()
    with guarded(console):
        show_list(WeightsFinder(default_folders(_given_folder(options), os.environ)), console)


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
    options = _merged(context, weights_dir, json)
    console = options.console()
    with guarded(console):
        finder = WeightsFinder(default_folders(_given_folder(options), os.environ))
        code = verify_files(files or [], finder, console)
    raise typer.Exit(code)


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
    options = _merged(context, weights_dir, json)
    console = options.console()
    with guarded(console):
        given = _given_folder(options)
        finder = WeightsFinder(default_folders(given, os.environ))
        code = fetch_files(names, finder, download_folder(given, os.environ), console, unverified=unverified)
    raise typer.Exit(code)


def _merged(context: typer.Context, weights_dir: Path | None, json: bool) -> opt.CommonOptions:
    """The options of a sub-command, or else those that stood before it."""
    before: opt.CommonOptions = context.obj
    return replace(before, weights_dir=weights_dir or before.weights_dir, json=json or before.json)


def _given_folder(options: opt.CommonOptions) -> Path | None:
    settings = opt.read_file_settings()
    return options.weights_dir or (Path(settings.weights_dir) if settings.weights_dir else None)


# ---------------------------------------------------------------- list
def show_list(finder: WeightsFinder, console: Console) -> None:
    """Print every file of the catalogue: a table where it fits into the terminal, else a few lines a file.

    Raises:
        UserError: when the catalogue or a recipe is not readable.
    """
    from weaksam_cli.models.weights.catalogue import read_catalogue, read_needs

    files, needs = read_catalogue().files, read_needs()
    found: Found = {item.name: finder.find(item.name) for item in files}
    states = {item.name: _state(item, found[item.name]) for item in files}
    if console.mode is Mode.JSON:
        for item in files:
            path = found[item.name]
            fields = item.model_dump(mode="json", exclude={"name"})
            users = needs.get(item.name, ())
            place = str(path) if path else None
            console.result("", file=item.name, needed_by=users, state=states[item.name], path=place, **fields)
        return
    columns = shutil.get_terminal_size(_NO_TERMINAL).columns
    here = sum(path is not None for path in found.values())
    looked = ", ".join(map(str, finder.folders))
    console.result(_wrapped(f"{here} of {len(files)} published files are here; looked in {looked}", columns))
    table = _table(files, needs, found, states)
    fits = max(map(len, table.splitlines())) <= columns
    console.result("\n" + (table if fits else _blocks(files, needs, found, states, columns)))
    console.result(
        "\nGet one: weaksam weights fetch FILE (or RECIPE)\n"
        "Compare checksums of what is here: weaksam weights verify"
    )


def _state(item: WeightsFile, path: Path | None) -> str:
    """What a look at the file's size tells."""
    if path is None:
        return "missing"
    if item.size is None:
        return "here"
    return "ok" if path.stat().st_size == item.size else "wrong size"


def _facts(item: WeightsFile, state: str) -> tuple[str, str, str, str]:
    return (item.name, size(item.size) if item.size else "-", state, item.licence or "not known")


def _digest(item: WeightsFile) -> str:
    return item.sha256 or (f"{item.sha256_prefix}..." if item.sha256_prefix else "not pinned")


def _table(files: Sequence[WeightsFile], needs: Needs, found: Found, states: dict[str, str]) -> str:
    rows = []
    for item in files:
        name, amount, state, licence = _facts(item, states[item.name])
        users = ", ".join(needs.get(item.name, ())) or "-"
        place = str(found[item.name] or "-")
        rows.append([name, users, amount, state, place, licence, _digest(item), item.url or item.origin])
    header = ["file", "needed by", "size", "state", "found", "licence", "SHA-256", "origin"]
    return format_table(header, rows)


def _blocks(
    files: Sequence[WeightsFile], needs: Needs, found: Found, states: dict[str, str], columns: int
) -> str:
    heads = format_table(["file", "size", "state", "licence"], [_facts(f, states[f.name]) for f in files])
    lines = heads.splitlines()[:2]
    for item, head in zip(files, heads.splitlines()[2:], strict=True):
        users = ", ".join(needs.get(item.name, ())) or "no recipe of this version"
        path = found[item.name]
        texts = [f"{item.what}; for {users}", f"SHA-256 {_digest(item)}", item.url or item.origin]
        if path is not None:
            texts.append(f"found: {path} ({path.stat().st_size} bytes)")
        lines += [head, *(_wrapped(text, columns, "    ") for text in texts)]
    return "\n".join(lines)


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
def verify_files(texts: Sequence[str], finder: WeightsFinder, console: Console) -> ExitCode:
    """Check files, all that are found when none is named, and print a row for each and a line for each fault."""
    from weaksam_cli.models.weights.catalogue import read_catalogue, read_needs
    from weaksam_cli.models.weights.check import byte_progress, check_file

    catalogue = read_catalogue()
    targets, faults = _targets(texts, catalogue, read_needs(), finder)
    verdicts = []
    for path, item in targets:
        with byte_progress(console, f"reading {path.name}", path.stat().st_size) as advance:
            verdicts.append(check_file(path, item, catalogue, advance))
    _print_verdicts(verdicts, console)
    if not targets and not faults:
        console.result(f"nothing to verify in {', '.join(map(str, finder.folders))}")
    return _end(console, [*faults, *(verdict.fault for verdict in verdicts if verdict.fault)])


def _targets(
    texts: Sequence[str], catalogue: Catalogue, needs: Needs, finder: WeightsFinder
) -> tuple[list[tuple[Path, WeightsFile | None]], list[UserError]]:
    """The files to check, each with what it should be, and what was named in vain."""
    from weaksam_cli.models.weights.catalogue import select

    if not texts:
        found = [(finder.find(item.name), item) for item in catalogue.files]
        return [(path, item) for path, item in found if path is not None], []
    targets: list[tuple[Path, WeightsFile | None]] = []
    faults = []
    for text in texts:
        path = Path(text)
        if path.is_file():
            targets.append((path, catalogue.find(path.name)))
            continue
        try:
            targets += [(finder.require(item.name), item) for item in select(catalogue, needs, text)]
        except UserError as error:
            faults.append(error)
    return targets, faults


def _print_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    from weaksam_cli.models.weights.check import FileState

    if console.mode is Mode.JSON:
        for verdict in verdicts:
            name = verdict.entry.name if verdict.entry else None
            fault = verdict.fault.one_line() if verdict.fault else None
            console.result(
                "", path=str(verdict.path), file=name, state=verdict.state.value, size=verdict.size,
                sha256=verdict.sha256 or None, fault=fault,
            )  # fmt: skip
        return
    if verdicts:
        rows = [
            [item.path.name, size(item.size), item.state.value, str(item.path.parent)] for item in verdicts
        ]
        console.table("", ["file", "size", "state", "folder"], rows)
    for verdict in verdicts:
        line = f"{verdict.path.name}: {verdict.size} bytes, SHA-256 {verdict.sha256}"
        if verdict.state is FileState.UNKNOWN:
            console.result(f"{line}: no file of the catalogue")
        elif verdict.state is FileState.NOT_PINNED:
            console.result(f"{line}: nothing to compare it with")
        elif verdict.entry and not verdict.fault and verdict.entry.name != verdict.path.name:
            console.result(
                f"{verdict.path.name} is {verdict.entry.name}: give it this name, and recipes find it"
            )


def _end(console: Console, faults: Sequence[UserError]) -> ExitCode:
    for fault in faults:
        console.error(fault.one_line())
    return ExitCode.USER if faults else ExitCode.OK


# ---------------------------------------------------------------- fetch
def fetch_files(
    texts: Sequence[str], finder: WeightsFinder, folder: Path, console: Console, *, unverified: bool
) -> ExitCode:
    """Download what is not there into `folder`; what cannot be had is told at the end, a line each.

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
    return _end(console, faults)


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
