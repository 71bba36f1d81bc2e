"""`weaksam report`: one HTML page of a run."""

from __future__ import annotations

from pathlib import Path

from weaksam_cli.artifacts.receipt import refuse_foreign
from weaksam_cli.cli.options import CommonOptions, build_context
from weaksam_cli.console import Console, size
from weaksam_cli.engine.context import Context
from weaksam_cli.report.collect import Run, read_run
from weaksam_cli.report.page import render

PAGE = "report.html"
IMAGES = 6
"""Of each section and split, unless another number is asked for."""


def report(options: CommonOptions, console: Console, output: Path | None, images: int) -> None:
    """Write the page of the run, whatever there is of it.

    Raises:
        UserError: there is no run; something that this program did not write stands in the page's place.
    """
    context = build_context(options, None, console)
    path = output or context.run.root / PAGE
    written = write_page(context, read_run(context), path, images)
    console.result(f"{path} ({size(written)}): open it in a browser", page=str(path), bytes=written)


def write_page(context: Context, run: Run, path: Path, images: int) -> int:
    """Write the page of a run; returns its number of bytes.

    Raises:
        UserError: as `report`.
    """
    refuse_foreign(path, overwrite=context.overwrite)
    data = render(run, images)
    context.ops.write_atomically(path, data)
    return len(data)
