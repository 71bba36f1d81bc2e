"""A table of image-level labels, CSV or TSV: `image,label;label`, one column a class, or a row an object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from weaksam_cli.core.names import first_few
from weaksam_cli.data.annotations import RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.dataset import (
    ANNOTATION_FOLDERS,
    SPLIT_NAMES,
    ReadRecipe,
    likely_folders,
    role_of,
    split_word,
    subfolders,
)
from weaksam_cli.data.image_files import ImageFiles
from weaksam_cli.data.table.cells import splitter
from weaksam_cli.data.table.rows import MAX_ROWS, WHOLE, NoLabelsError, Row, Table
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "labels.csv with the columns image and label"
_SUFFIXES: Final = (".csv", ".tsv")
_PROBES: Final = 20


class Recipe(ReadRecipe):
    """How a table is read.

    Attributes:
        separator: what stands between the labels of a cell; null looks at the whole column.
    """

    method: Literal["table"] = "table"
    separator: str | None = Field(None, min_length=1, max_length=5)


def likeness(source: Path) -> int:
    """2 for a table by its name, or where it names images that lie around it; else a stray table is hardly one."""
    if source.is_file():
        return 2 if table_files(source) else 0
    return min((_likeness(path, split, source) for split, path in table_files(source).items()), default=0)


def _likeness(path: Path, split: str, source: Path) -> int:
    try:
        table = Table(path, split, _PROBES)
    except UserError:
        return int(path.name == "labels.csv")
    try:
        ImageFiles([row.image for row in table.rows], likely_folders(path.parent, None, split, source), path)
    except UserError:
        return 1  # less than class folders, which come first
    return 1 if table.columns.is_guess else 2


def table_files(source: Path) -> dict[str, Path]:
    """Split -> table: `source` itself, `labels.csv`, the only table in the folder, or those that are named as splits.

    Else those in folders that are named as splits (Roboflow), or in the folder of annotations.
    """
    if source.is_file():
        return {_split_of(source): source} if source.suffix.casefold() in _SUFFIXES else {}
    found = _tables(source)
    if main := [path for path in found if path.name == "labels.csv"] or (found if len(found) == 1 else []):
        return {_split_of(main[0]): main[0]}
    if named := {word: path for path in reversed(found) if (word := split_word(path.stem))}:
        return {word: path for word, path in named.items() if _says_labels(path, word)} or named
    below = {child.name: _tables(child) for child in subfolders(source) if split_word(child.name)}
    if parts := {name: paths[0] for name, paths in below.items() if len(paths) == 1}:
        return parts
    inner = [child for child in subfolders(source) if child.name.casefold() in (*ANNOTATION_FOLDERS, "data")]
    return next((files for child in inner if (files := table_files(child))), {})


def _says_labels(path: Path, split: str) -> bool:
    """False for a table without labels, as that of a test beside `train.csv`."""
    try:
        Table(path, split, 1)
    except NoLabelsError:
        return False
    except UserError:
        pass  # `read` says what is wrong with it
    return True


def _tables(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.casefold() in _SUFFIXES and path.is_file())


def _split_of(path: Path) -> str:
    folder = path.parent.name
    return split_word(path.stem) or (folder if folder.casefold() in SPLIT_NAMES else WHOLE)


def read(source: Path, recipe: Recipe, images: Path | None = None, *, boxes: bool) -> RawDataset:
    """What a table says.

    The header names a column of images and either one of labels, or one column a class with 0 and 1; it may name a split,
    and the corners of a box. An empty label cell means that nobody labelled the image (None), but beside corners that it
    shows no object. Several rows of one image are taken together. UTF-8, with or without a byte order mark; cells with
    commas or line breaks stand in double quotes.

    Raises:
        UserError: naming the line, for a row that does not fit the header, or the name of a split that cannot name a file.
    """
    files = table_files(source)
    if not files:
        raise UserError("no table here", where=str(source), remedy="Give a CSV file: image,label")
    tables = {name: Table(path, name) for name, path in files.items()}
    rows = {name: table.rows for name, table in tables.items()}
    if len(tables) == 1:
        rows = _by_split(next(iter(tables.values())))
    cells = (row.cell for part in rows.values() for row in part if row.cell)
    split_cell, warnings = splitter(cells, recipe.separator)
    where = next(iter(files.values()))

    def split(name: str) -> RawSplit:
        path = files.get(name, where)
        found = list(_images(rows[name], split_cell, boxes, path))
        places = likely_folders(path.parent, images, name, source if source.is_dir() else None)
        return RawSplit(name, path, found, places, keeps_unlabelled=True)

    told = [text for table in tables.values() for text in table.columns.warnings]
    if others := [
        path.name for path in _tables(where.parent) if path not in files.values() and source.is_dir()
    ]:
        told.append(f"tables that are not read: {first_few(others)}")
    roles = {name: role_of(name) for name in rows}
    has_boxes = any(table.columns.corners is not None for table in tables.values())
    return RawDataset(where, tuple(rows), roles, split, has_boxes=has_boxes, warnings=(*told, *warnings))


def _by_split(table: Table) -> dict[str, list[Row]]:
    """The rows of each split.

    Raises:
        UserError: an image stands in two splits.
    """
    parts: dict[str, list[Row]] = {}
    owner: dict[str, Row] = {}
    for row in table.rows:
        earlier = owner.setdefault(row.image, row)
        if earlier.split != row.split:
            raise UserError(
                f"{row.image!r} belongs to {row.split!r} here and to {earlier.split!r} in line {earlier.line}",
                where=f"{table.path}, line {row.line}",
                remedy="Keep it in one split",
            )
        parts.setdefault(row.split, []).append(row)
    return parts


def _images(
    rows: Sequence[Row], split_cell: Callable[[str], tuple[str, ...]], boxes: bool, path: Path
) -> Iterable[RawImage]:
    """The images of rows, each with the objects of all its rows.

    Raises:
        UserError: there are more labels than are read.
    """
    merged: dict[str, list[Row]] = {}
    for row in rows:
        merged.setdefault(row.image, []).append(row)
    count = 0
    for name, found in merged.items():
        objects = [
            RawObject(label, title=f"line {row.line}", box=row.box if boxes else None)
            for row in found
            for label in (row.labels if row.cell is None else split_cell(row.cell))
        ]
        count += len(objects)
        if count > MAX_ROWS:
            raise UserError(
                f"has more than {MAX_ROWS:,} labels", where=str(path), remedy="Divide it into several tables"
            )
        unknown = not objects and all(row.cell == "" for row in found)
        yield RawImage(name, None if unknown else tuple(objects))
