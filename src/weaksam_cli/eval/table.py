"""The results file as a table for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from weaksam_cli.console import Console


def show_results(path: Path, console: Console) -> None:
    """Print a results file, a row a measure."""
    content = json.loads(path.read_bytes())
    of_sources = [item for item in content["measures"] if source_of(item)]
    rows = [
        [label(item), item["name"], format_value(item)]
        for item in content["measures"]
        if item not in of_sources
    ]
    title = f"{content['dataset']} {content['split']}: {content['images']} images ({path})"
    console.table(title, ["artifact", "measure", "value"], rows)
    if of_sources:
        console.table("recall of every source of proposals alone", *source_table(of_sources))
    for line in gains(content["measures"]):
        console.result(line, gain=line)


def gains(measures: list[dict[str, Any]]) -> list[str]:
    """What retraining changed: the headline AP50 of every retrained detector beside the weakly supervised one's."""
    headline = next((item["name"] for item in measures if item["name"].startswith("VOC AP50")), None)
    found = [item for item in measures if item["name"] == headline and item["value"] is not None]
    before = next((item for item in found if item["stage"] == "wsod" and not item["variant"]), None)
    if before is None:
        return []
    return [
        f"{label(item)}: {headline} {format_value(before)} -> {format_value(item)} "
        f"({100 * (item['value'] - before['value']):+.1f})"
        for item in found
        if item["stage"] == "retrain"
    ]


def source_of(item: dict[str, Any]) -> str:
    """The source of the proposals that a measure is about; '' for all of them, and for other measures."""
    return str(item["name"].partition(": ")[2]) if item["stage"] == "propose" else ""


def source_table(measures: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, one row an artifact and source, of measures of single sources."""
    values: dict[tuple[str, str], dict[str, str]] = {}
    for item in measures:
        name = item["name"].partition(": ")[0].removeprefix("recall at ")
        values.setdefault((label(item), source_of(item)), {})[name] = format_value(item)
    columns = list(dict.fromkeys(name for row in values.values() for name in row))
    rows = [
        [artifact, source, *(row.get(name, "") for name in columns)]
        for (artifact, source), row in values.items()
    ]
    return ["artifact", "source", *columns], rows


def label(item: dict[str, Any]) -> str:
    """`stage` or `stage@variant`."""
    return f"{item['stage']}@{item['variant']}" if item["variant"] else str(item["stage"])


def format_value(item: dict[str, Any]) -> str:
    """Shares in percent, counts as they are."""
    if item["value"] is None:
        return "-"
    return f"{100 * item['value']:.1f} %" if item["share"] else f"{item['value']:.1f}"
