"""A table of image-level labels, CSV or TSV: `image,label;label`, one column a class, or a row an object."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from weaksam_cli.core.names import plain_word
from weaksam_cli.data.annotations import RawBox, RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.dataset import SPLIT_NAMES, ReadRecipe, likely_folders, role_of
from weaksam_cli.data.images import SUFFIXES
from weaksam_cli.data.outlines import numbers
from weaksam_cli.data.xml_files import beginning
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "labels.csv with the columns image and label"
WHOLE: Final = "trainval"
MAX_BYTES: Final = 512 * 1000**2
_MAX_CELL: Final = 1_000_000
_SUFFIXES: Final = (".csv", ".tsv")
_IMAGE: Final = (
    "image", "images", "file_name", "filename", "path", "file", "image_path", "filepath", "image_name", "img", "image_id",
    "imageid", "id",
)  # fmt: skip
_LABEL: Final = (
    "label",
    "labels",
    "class",
    "classes",
    "tags",
    "tag",
    "category",
    "class_name",
    "labelname",
    "label_name",
)
_SPLIT: Final = ("split", "set", "subset", "fold", "partition")
_BOX: Final = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"))


class Recipe(ReadRecipe):
    """How a table is read.

    Attributes:
        separator: what stands between the labels of a cell; null looks at the whole column.
    """

    method: Literal["table"] = "table"
    separator: Literal[";", "|", ",", " "] | None = None


@dataclass(frozen=True)
class Row:
    """A row: the image, the text in its label cell or the labels of its columns, split and box."""

    line: int
    image: str
    cell: str | None
    labels: tuple[str, ...]
    split: str
    box: RawBox | str | None = None


def likeness(source: Path) -> int:
    """2 for a table by its name, or where it names images that lie around it; a stray table is none."""
    files = table_files(source)
    if not files:
        return 0
    return 2 if source.is_file() or all(map(_names_images, files.values())) else 0


def table_files(source: Path) -> dict[str, Path]:
    """Split -> table: `source` itself, `labels.csv`, the only table in the folder, or those that are named as splits."""
    if source.is_file():
        return {WHOLE: source} if source.suffix.casefold() in _SUFFIXES else {}
    if not source.is_dir():
        return {}
    if (source / "labels.csv").is_file():
        return {WHOLE: source / "labels.csv"}
    found = [
        path for path in sorted(source.iterdir()) if path.suffix.casefold() in _SUFFIXES and path.is_file()
    ]
    if len(found) == 1:
        return {WHOLE: found[0]}
    named = {re.split(r"[_\W]", path.stem.casefold())[0]: path for path in found}
    return {name: path for name, path in named.items() if name in SPLIT_NAMES}


def read(source: Path, recipe: Recipe, images: Path | None = None, *, boxes: bool) -> RawDataset:
    """What a table says.

    The header names a column of images and either one of labels, or one column a class with 0 and 1; it may name a split,
    and the corners of a box. An empty label cell means that nobody labelled the image (None). Several rows of one image are
    taken together. UTF-8, with or without a byte order mark; cells with commas or line breaks stand in double quotes.

    Raises:
        UserError: naming the line, for a row that does not fit the header, or the name of a split that cannot name a file.
    """
    files = table_files(source)
    if not files:
        raise UserError("no table here", where=str(source), remedy="Give a CSV file: image,label")
    tables = {name: Table(path, name) for name, path in files.items()}
    rows = {name: table.rows for name, table in tables.items()}
    if len(tables) == 1:
        rows = _by_split(next(iter(tables.values())).rows)
    split_cell, warnings = _splitter([row for part in rows.values() for row in part], recipe.separator)
    where = next(iter(files.values()))

    def split(name: str) -> RawSplit:
        found = list(_images(rows[name], split_cell, boxes))
        places = likely_folders(where.parent, images, name)
        return RawSplit(name, where, found, places, keeps_unlabelled=True)

    roles = {name: role_of(name) for name in rows}
    has_boxes = any(row.box is not None for part in rows.values() for row in part)
    return RawDataset(where, tuple(rows), roles, split, has_boxes=has_boxes, warnings=warnings)


class Table:
    """The rows of a file.

    Raises:
        UserError: no table, no such columns, a row that does not fit.
    """

    def __init__(self, path: Path, split: str) -> None:
        self.path, self._split = path, split
        size = path.stat().st_size
        if size > MAX_BYTES:
            what = f"has {size / 1e6:,.0f} MB, and at most {MAX_BYTES / 1e6:,.0f} MB are read"
            raise UserError(what, where=str(path), remedy="Divide it into several tables")
        csv.field_size_limit(_MAX_CELL)
        line = 1
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                first = stream.readline(_MAX_CELL)
                stream.seek(0)
                reader = csv.reader(stream, strict=True, skipinitialspace=True, delimiter=_delimiter(first))
                self._header([cell.strip() for cell in next(reader, [])])
                self.rows = []
                for cells in reader:
                    line = reader.line_num
                    if any(cell.strip() for cell in cells):
                        self.rows.append(self._row(cells, line))
        except UnicodeDecodeError:
            raise UserError("the file is not UTF-8", where=str(path), remedy="Save it as UTF-8") from None
        except csv.Error as error:
            raise self._error(line, str(error), "Check the quotes") from None
        except OSError as error:
            raise UserError(
                f"the file cannot be read ({error})", where=str(path), remedy="Check it"
            ) from None
        if not self.rows:
            raise UserError("the table has no rows", where=str(path), remedy="Give one image per row")

    def _header(self, header: list[str]) -> None:
        lower = [cell.casefold().replace(" ", "_") for cell in header]
        self._width = len(header)
        self._image = self._column(lower, _IMAGE)
        self._splits = next((lower.index(name) for name in _SPLIT if name in lower), None)
        corners = next((names for names in _BOX if set(names) <= set(lower)), None)
        self._corners = None if corners is None else [lower.index(name) for name in corners]
        self._label = next((lower.index(name) for name in _LABEL if name in lower), None)
        self._classes: dict[int, str] = {}
        if self._label is None:
            rest = {self._image, self._splits}
            self._classes = {index: name for index, name in enumerate(header) if index not in rest and name}
        if self._label is None and not self._classes:
            raise self._error(
                1, f"expected a column 'label', got {', '.join(header)}", "Begin with: image,label"
            )

    def _column(self, header: list[str], names: tuple[str, ...]) -> int:
        found = next((header.index(name) for name in names if name in header), None)
        if found is None:
            got = ", ".join(header)[:200] or "nothing"
            raise self._error(
                1, f"expected a column {names[0]!r}, got the columns {got}", "Begin with: image,label"
            )
        return found

    def _row(self, cells: list[str], line: int) -> Row:
        if len(cells) != self._width:
            raise self._error(
                line,
                f"expected {self._width} columns, got {len(cells)}",
                "Separate labels by ';' and put cells with commas into double quotes",
            )
        split = self._split
        if self._splits is not None:
            split = plain_word(
                cells[self._splits].strip() or WHOLE, "split", where=f"{self.path}, line {line}"
            )
        box: RawBox | str | None = None
        if self._corners is not None:
            values = numbers([cells[index] for index in self._corners])
            box = (
                "a coordinate is no number"
                if values is None
                else (values[0], values[1], values[2], values[3])
            )
        image = PurePosixPath(cells[self._image].strip()).as_posix()
        if self._label is not None:
            return Row(line, image, cells[self._label].strip(), (), split, box)
        return Row(line, image, None, tuple(self._ticked(cells, line)), split, box)

    def _ticked(self, cells: list[str], line: int) -> Iterable[str]:
        """The classes whose columns say 1."""
        for index, name in self._classes.items():
            value = cells[index].strip().casefold()
            if value in ("1", "1.0", "true", "yes", "x"):
                yield name
            elif value not in ("", "0", "0.0", "false", "no", "-1"):
                raise self._error(
                    line,
                    f"there is no column 'label', and the column {name!r} holds {value[:40]!r}, which is neither 0 nor 1",
                    "Begin with: image,label",
                )

    def _error(self, line: int, what: str, remedy: str) -> UserError:
        return UserError(what, where=f"{self.path}, line {line}", remedy=remedy)


def _delimiter(line: str) -> str:
    """What parts the cells of a header: the commonest of tab, semicolon and comma."""
    return max(",", ";", "\t", key=line.count)


def _names_images(path: Path) -> bool:
    """Whether the first rows of a table name images that lie around it."""
    try:
        lines = beginning(path).decode("utf-8-sig", "ignore").splitlines()[1:6]
    except (OSError, ValueError):
        return False
    cells = [cell.strip().strip('"') for line in lines for cell in re.split(r"[,;\t]", line)]
    names = [cell for cell in cells if cell.casefold().endswith(SUFFIXES)]
    names += [cell + suffix for cell in cells if cell and "/" not in cell for suffix in (".jpg", ".png")]
    places = likely_folders(path.parent, None)
    return any((place / name).is_file() for name in names[:200] for place in places if len(name) < 200)


def _by_split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each split.

    Raises:
        UserError: an image stands in two splits.
    """
    parts: dict[str, list[Row]] = {}
    owner: dict[str, Row] = {}
    for row in rows:
        earlier = owner.setdefault(row.image, row)
        if earlier.split != row.split:
            raise UserError(
                f"{row.image!r} belongs to {row.split!r} here and to {earlier.split!r} in line {earlier.line}",
                where=f"line {row.line}",
                remedy="Keep it in one split",
            )
        parts.setdefault(row.split, []).append(row)
    return parts


def _splitter(
    rows: Sequence[Row], separator: str | None
) -> tuple[Callable[[str], tuple[str, ...]], tuple[str, ...]]:
    """How label cells are parted, and what is to be told of it.

    A semicolon always parts labels. A bar or a comma does when most of the parts are labels of their own elsewhere in the
    column, or when a part occurs in several combinations; else it belongs to the name.
    """
    cells = Counter(row.cell for row in rows if row.cell)
    chosen = [separator] if separator else [";"]
    warnings = []
    for mark in () if separator else ("|", ","):
        holding = [cell for cell in cells if mark in cell]
        parts = Counter(part.strip() for cell in holding for part in cell.split(mark))
        known = sum(part in cells or count > 1 for part, count in parts.items())
        if holding and 2 * known >= len(parts):
            chosen.append(mark)
            warnings.append(
                f"labels are parted at {mark!r}, as in {holding[0]!r}; --set separator=';' keeps them whole"
            )
        elif holding:
            warnings.append(
                f"labels such as {holding[0]!r} hold {mark!r} and are taken whole; --set separator='{mark}' parts them"
            )
    spaced = [cell for cell in cells if " " in cell and all(part in cells for part in cell.split())]
    if spaced and not separator:
        warnings.append(f"labels such as {spaced[0]!r} may be several in one; --set separator=' ' parts them")
    pattern = re.compile("|".join(map(re.escape, chosen)))

    def split(cell: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part.strip() for part in pattern.split(cell) if part.strip()))

    return split, tuple(warnings)


def _images(
    rows: Sequence[Row], split_cell: Callable[[str], tuple[str, ...]], boxes: bool
) -> Iterable[RawImage]:
    """The images of rows, each with the objects of all its rows."""
    merged: dict[str, list[Row]] = {}
    for row in rows:
        merged.setdefault(row.image, []).append(row)
    for name, found in merged.items():
        objects = [
            RawObject(label, title=f"line {row.line}", box=row.box if boxes else None)
            for row in found
            for label in (row.labels if row.cell is None else split_cell(row.cell))
        ]
        unknown = not objects and all(row.cell == "" for row in found)
        yield RawImage(name, None if unknown else tuple(objects))
