"""An artifact as a notebook shows it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weaksam_cli.artifacts.reader import Artifact

_MOST_NAMES = 20


def artifact_html(artifact: Artifact) -> str:
    """A small table: what the file is, how many images it has, and its datasets; every text of the file is escaped."""
    attributes = artifact.attributes
    about: dict[str, object] = {
        "file": artifact.path.name,
        "format": f"{artifact.format_name} {artifact.format_version}",
        **{name: attributes[name] for name in ("dataset", "split", "seed") if name in attributes},
        "images": f"{len(artifact):,}, {len(artifact.failed):,} failed, {int(artifact.offsets[-1]):,} rows",
    }
    if "class_names" in artifact.names:
        names = artifact.table("class_names")
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        about["classes"] = ", ".join(names[:_MOST_NAMES]) + more
    rows = [_row("th", ["dataset", "shape", "type"])]
    rows += [
        _row("td", [name, " x ".join(map(str, shape)), kind]) for name, shape, kind in artifact.datasets()
    ]
    head = [_row("td", item) for item in about.items()]
    return f"<table>{''.join(head)}</table><table>{''.join(rows)}</table>"


def _row(tag: str, cells: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"
