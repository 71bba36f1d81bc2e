"""The results file as a table for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from weaksam_cli.console import Console


def show_results(path: Path, console: Console) -> None:
    """Print a results file, a row a measure."""
    content = json.loads(path.read_bytes())
    rows = [
        [
            f"{item['stage']}{'@' + item['variant'] if item['variant'] else ''}",
            item["name"],
            format_value(item),
        ]
        for item in content["measures"]
    ]
    title = f"{content['dataset']} {content['split']}: {content['images']} images ({path})"
    console.table(title, ["artifact", "measure", "value"], rows)


def format_value(item: dict[str, Any]) -> str:
    """Shares in percent, counts as they are."""
    if item["value"] is None:
        return "-"
    return f"{100 * item['value']:.1f} %" if item["share"] else f"{item['value']:.1f}"
