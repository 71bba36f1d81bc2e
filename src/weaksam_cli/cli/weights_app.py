"""`weaksam weights` and its sub-commands, declared as those of `weaksam_cli.cli.app` are."""

from __future__ import annotations

from typing import Annotated

import typer

from weaksam_cli.cli.options import PLAIN, declare

weights_app = typer.Typer(**PLAIN)
_WHERE = ("weights_dir", "json")


@declare(weights_app.callback(invoke_without_command=True), *_WHERE, work="weights:begin")
def _weights_alone(context: typer.Context) -> None:
    """Published weights: what the recipes need, what is here; check and fetch files."""


@declare(weights_app.command("list"), *_WHERE, work="weights:list_files")
def _list() -> None:
    """Every file that a recipe can need, with size, SHA-256, licence and origin (the default)."""


@declare(weights_app.command("verify"), *_WHERE, work="weights:verify_files")
def _verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE-OR-NAME...]", help="Files, recipes or profiles; default: every file that is here."
        ),
    ] = None,
) -> None:
    """Compare size and SHA-256 with what is published; name the tensors that differ."""


@declare(weights_app.command("fetch"), *_WHERE, work="weights:fetch_files")
def _fetch(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Files, recipes or profiles (all files that these need)."),
    ],
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Also take a file of which no checksum is known.")
    ] = False,
) -> None:
    """Download files that are not here, or go on with it (the network is used here and by `data --fetch` only)."""
