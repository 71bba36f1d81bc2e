"""What `weaksam all` says in the end: what was found, how sure it is, how long it took, and where to go from here."""

from __future__ import annotations

import shlex

from weaksam_cli.cli.report import IMAGES, PAGE, write_page
from weaksam_cli.console import duration
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.stages import STAGE_NAMES
from weaksam_cli.errors import UserError
from weaksam_cli.report.cards import title_of
from weaksam_cli.report.classes import boxes_an_image, class_rows
from weaksam_cli.report.collect import Run, SplitRun, read_run
from weaksam_cli.retrain.choice import named

_MOST_CLASSES = 30


def sum_up(context: Context) -> None:
    """Print the boxes of each class and the times of the stages, write the page, and say where all of it is."""
    console, run = context.console, read_run(context)
    _print_classes(run, context)
    _print_times(run, context)
    page = context.run.root / PAGE
    try:
        write_page(context, run, page, IMAGES)
        console.result(f"see it:      {page}", page=str(page))
    except UserError as error:  # the stages are done all the same
        console.warn(error.one_line())
    last = run.last
    if last is None or not last.final:
        return
    if last.choice is not None:
        text = f"detector:    {named(last.choice.use)} ({last.choice.reason()})"
        console.result(text, use=last.choice.use, choice=last.choice.model_dump())
    path = last.paths[last.final]
    console.result(f"detections:  {path}", detections=str(path))
    again = f"weaksam predict IMAGES --run-dir {shlex.quote(str(context.run.root))} -o found.json"
    console.result(f"new images:  {again}", command=again)


def _print_classes(run: Run, context: Context) -> None:
    train, last = run.split_of_role("train"), run.last
    rows = class_rows(train, last, boxes_an_image(run))
    if train is None or last is None or not rows:
        return
    shown = sorted(rows, key=lambda row: (-row.images, row.name))[:_MOST_CLASSES]
    cells = [
        [
            row.name, str(row.images), str(row.pseudo), str(row.detections),
            "-" if row.best is None else f"{row.best:.2f}",
        ]
        for row in shown
    ]  # fmt: skip
    header = ["class", f"images ({train.name})", "pseudo boxes", f"detections ({last.name})", "score"]
    context.console.table(_title(last, boxes_an_image(run)), header, cells)
    if len(rows) > len(shown):
        context.console.result(f"... and {len(rows) - len(shown)} more classes", more=len(rows) - len(shown))


def _title(last: SplitRun, most: float) -> str:
    detector = title_of(last.final) if last.final else "no detector"
    shown = f"detections: the best {most:g} an image, as many as pseudo boxes"
    score = "score: mean of the best of an image"
    if last.final == "wsod":
        score += ", which ranks boxes and is no probability"
    return f"what was found ({detector}; {shown}; {score})"


def _print_times(run: Run, context: Context) -> None:
    seconds = dict.fromkeys(STAGE_NAMES, 0.0)
    for line in run.artifacts:
        if line.receipt is not None and line.stage in seconds:
            seconds[line.stage] += line.receipt.wall_seconds
    parts = [f"{name} {duration(value)}" for name, value in seconds.items() if value]
    whole = sum(seconds.values())
    context.console.result(f"time:        {duration(whole)} ({', '.join(parts)})", seconds=seconds)
