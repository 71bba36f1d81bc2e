"""CSV layout: a table `image,label;label` with a header, and optionally a column `split`."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from weaksam_cli.data.folder import WHOLE, Labelled, build_splits, require_splits
from weaksam_cli.data.images import find_images
from weaksam_cli.data.paths import inside, role_of, suggestion
from weaksam_cli.data.types import DatasetSplit, ReadOptions, Role
from weaksam_cli.errors import UserError

SEPARATOR: Final = ";"
_IMAGE: Final = ("image", "images", "file_name", "filename", "path")
_LABEL: Final = ("label", "labels", "class", "classes")
_SPLIT: Final = ("split",)


@dataclass(frozen=True)
class _Row:
    line: int
    image: str
    labels: frozenset[str] | None
    split: str


def csv_file(source: Path) -> Path | None:
    """The table that `source` means: itself, or `labels.csv`, or the only csv file in the folder."""
    if source.is_file():
        return source if source.suffix.casefold() == ".csv" else None
    if not source.is_dir():
        return None
    if (source / "labels.csv").is_file():
        return source / "labels.csv"
    found = [path for path in source.iterdir() if path.suffix.casefold() == ".csv" and path.is_file()]
    return found[0] if len(found) == 1 else None


def read_csv(source: Path, options: ReadOptions) -> tuple[DatasetSplit, ...]:
    """Splits of a CSV file with image-level labels.

    The header names the columns `image` and `label`, and may name `split`; without it all rows are `trainval`. Labels
    are separated by semicolons; an empty cell means that nobody labelled the image (None). Several rows of one
    image are taken together. Paths are relative to `images_root`, else to the folder of the table, else to `images`
    beside it. UTF-8, with or without a byte order mark; cells with commas or line breaks stand in double quotes.

    Raises:
        UserError: naming the line, for an image that does not exist, a path that leaves the root, a row that does
            not fit the header, or an image in two splits.
    """
    path = csv_file(source)
    if path is None:
        raise UserError("no CSV file here", where=str(source), remedy="Give the file, or name it labels.csv")
    rows = _read_rows(path)
    root = _images_root(path, rows, options.images_root)
    parts = _by_split(path, root, rows)
    roles: Mapping[str, Role] = options.splits or {name: role_of(name) for name in parts}
    require_splits(roles, parts, path)
    return build_splits(path, parts, roles, options, {})


def _read_rows(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True, skipinitialspace=True)
            header = [cell.strip().casefold() for cell in next(reader, [])]
            image, label = _column(path, header, _IMAGE), _column(path, header, _LABEL)
            split = _column(path, header, _SPLIT) if _SPLIT[0] in header else None
            rows: list[_Row] = []
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise _error(
                        path,
                        reader.line_num,
                        f"expected {len(header)} columns, got {len(cells)}",
                        "Separate labels by ';' and put cells with commas into double quotes",
                    )
                name = WHOLE if split is None else cells[split].strip() or WHOLE
                rows.append(_Row(reader.line_num, cells[image].strip(), _labels(cells[label]), name))
    except UnicodeDecodeError:
        raise UserError("the file is not UTF-8", where=str(path), remedy="Save it as UTF-8") from None
    except csv.Error as error:
        raise _error(path, reader.line_num, str(error), "Check the quotes") from None
    except OSError as error:
        raise UserError(
            f"the file cannot be read ({error})", where=str(path), remedy="Check the file"
        ) from None
    if not rows:
        raise UserError("the table has no rows", where=str(path), remedy="Give one image per row")
    return rows


def _column(path: Path, header: list[str], names: tuple[str, ...]) -> int:
    found = [index for index, cell in enumerate(header) if cell in names]
    if len(found) != 1:
        met = "several of them" if found else f"the columns {', '.join(header) or 'nothing'}"
        raise _error(
            path, 1, f"expected one column {names[0]!r}, got {met}", "Begin the table with: image,label"
        )
    return found[0]


def _labels(cell: str) -> frozenset[str] | None:
    names = frozenset(name.strip() for name in cell.split(SEPARATOR) if name.strip())
    return names or None


def _error(path: Path, line: int, what: str, remedy: str) -> UserError:
    return UserError(what, where=f"{path}, line {line}", remedy=remedy)


def _images_root(path: Path, rows: list[_Row], given: Path | None) -> Path:
    if given is not None:
        if not given.is_dir():
            raise UserError("no such folder of images", where=str(given), remedy="Check --images")
        return given
    for place in (path.parent, path.parent / "images"):
        if any(_resolve(path, place, row).is_file() for row in rows):
            return place
    raise _error(
        path,
        rows[0].line,
        f"the image {rows[0].image!r} and all others are missing in {path.parent} and in images/ beside the table",
        "Say where the images are with --images FOLDER",
    )


def _resolve(path: Path, root: Path, row: _Row) -> Path:
    return inside(root, row.image, where=f"{path}, line {row.line}")


def _by_split(path: Path, root: Path, rows: list[_Row]) -> dict[str, list[Labelled]]:
    merged: dict[str, _Row] = {}
    for row in rows:
        if not _resolve(path, root, row).is_file():
            remedy = suggestion(row.image, find_images(root))
            raise _error(path, row.line, f"there is no image {row.image!r} in {root}", remedy)
        key = PurePosixPath(row.image).as_posix()
        earlier = merged.setdefault(key, row)
        if earlier.split != row.split:
            raise _error(
                path,
                row.line,
                f"{key!r} belongs to {row.split!r} here and to {earlier.split!r} in line {earlier.line}",
                "Keep it in one split",
            )
        if earlier.labels is not None or row.labels is not None:
            union = (earlier.labels or frozenset()) | (row.labels or frozenset())
            merged[key] = _Row(earlier.line, row.image, union, row.split)
    parts: dict[str, list[Labelled]] = {}
    for key, row in merged.items():
        parts.setdefault(row.split, []).append(Labelled(key, root / key, row.labels))
    return parts
