"""The rows of a table of labels: what its columns are called in real life, and files of any size and content."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Final, TextIO

from weaksam_cli.core.names import first_few, plain_word
from weaksam_cli.data.annotations import RawBox
from weaksam_cli.data.images import SUFFIXES
from weaksam_cli.data.outlines import numbers
from weaksam_cli.errors import UserError

WHOLE: Final = "trainval"
_MAX_BYTES: Final = 512 * 1000**2
MAX_ROWS: Final = 1_000_000
_MAX_RECORD: Final = 1_000_000
_IMAGE: Final = (
    "image", "images", "filename", "filepath", "imagepath", "imagename", "imagefile", "path", "file", "img", "imgpath",
    "imgname", "photo", "picture", "imageid", "imageindex", "imgid", "id", "idcode",
)  # fmt: skip
_LABEL: Final = ("classname", "labelname", "categoryname", "label", "labels", "class", "classes", "tag", "tags",
                 "category", "categories")  # fmt: skip
_NUMBERED: Final = ("classid", "labelid", "categoryid")
_SPLIT: Final = ("split", "set", "subset", "fold", "partition", "isvalid")
_BOX: Final = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
    ("roix1", "roiy1", "roix2", "roiy2"),
)
_NO_CLASS: Final = ("", "unnamed0", "unlabeled", "width", "height", "confidence", *_NUMBERED)
_FORMULA_AS_TEXT: Final = re.compile("^'(?=[-=+@])")
"""What keeps a spreadsheet from running a label; `weaksam export` writes it so."""
_RETINANET: Final = ["path", "x1", "y1", "x2", "y2", "class"]
_YES: Final = ("1", "1.0", "true", "yes", "x")
_NO: Final = ("", "0", "0.0", "false", "no", "-1", "-1.0")
_EXCEL: Final = re.compile(r"sep=([,;|:\t])\s*")
"""A first line by which Excel knows what parts the cells."""
_REMEDY: Final = "Begin with: image,label"


class NoLabelsError(UserError):
    """The columns of a table do not say what images show: it is about something else, or has the images of a test alone."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row: the image, the text in its label cell or the labels of its columns, split and box."""

    line: int
    image: str
    cell: str | None
    labels: tuple[str, ...]
    split: str
    box: RawBox | str | None = None


@dataclass
class Columns:
    """Which column of a table holds what.

    Attributes:
        width: how many there are.
        image: the names of images.
        label: the labels of a row; None where every class has a column.
        classes: column -> class.
        split: the split of a row.
        corners: xmin, ymin, xmax, ymax.
        confidence: Open Images' certainty, 0 where a person saw that the class is not there.
        is_guess: whether the labels are in the only column whose name says nothing.
        warnings: what is to be told.
    """

    width: int
    image: int
    label: int | None
    classes: dict[int, str]
    split: int | None
    is_valid: bool
    corners: tuple[int, ...] | None
    confidence: int | None
    is_guess: bool
    warnings: list[str] = field(default_factory=list)


class Table:
    """A table of labels.

    Attributes:
        path: the file.
        columns: what its columns hold.
        rows: those with content; the first `most` where that is given.

    Raises:
        UserError: no table, no such columns, a row that does not fit, or a size beyond bounds.
    """

    def __init__(self, path: Path, split: str, most: int | None = None) -> None:
        self.path, self._split, self._line = path, split, 1
        try:
            if (size := path.stat().st_size) > _MAX_BYTES:
                what = f"has {size:,} bytes, and at most {_MAX_BYTES:,} are read"
                raise UserError(what, where=str(path), remedy="Divide it into several tables")
            with path.open(encoding="utf-8-sig", newline="") as stream:
                records = self._records(stream)
                header, first = next(records, (1, [])), next(records, (1, []))
                implied = _implied(header[1])
                self.columns = self._columns(implied or header[1], (header if implied else first)[1])
                ahead = ([header] if implied else []) + ([first] if first[1] else [])
                records = chain(ahead, records)
                self.rows = [self._row(line, cells) for line, cells in islice(records, most or MAX_ROWS)]
                if most is None and next(records, None) is not None:
                    raise self._error(
                        self._line, f"has more than {MAX_ROWS:,} rows", "Divide it into several tables"
                    )
        except UnicodeDecodeError:
            raise UserError(
                "the file is not UTF-8 (perhaps UTF-16 or Latin-1)",
                where=str(path),
                remedy="Save it as UTF-8",
            ) from None
        except csv.Error as error:
            raise self._error(self._line, str(error), "Is this a table? Check the quotes") from None
        except OSError as error:
            raise UserError(
                f"the file cannot be read ({error})", where=str(path), remedy="Check it"
            ) from None
        if not self.rows:
            raise UserError("the table has no rows", where=str(path), remedy="Give one image per row")
        if implied:
            self.columns.warnings.append(
                f"{path.name} names no columns; they are taken as {','.join(implied)}"
            )

    def _records(self, stream: TextIO) -> Iterator[tuple[int, list[str]]]:
        first = stream.readline(_MAX_RECORD)
        told = _EXCEL.fullmatch(first)
        if told is None:
            stream.seek(0)
        delimiter, before = (_delimiter(first), 1) if told is None else (told[1], 2)
        lines, self._line = _Lines(stream), before
        reader = csv.reader(lines, strict=True, skipinitialspace=True, delimiter=delimiter)
        for cells in reader:
            lines.size = 0
            if any(cell.strip() for cell in cells):
                yield self._line, [cell.strip() for cell in cells]
            self._line = reader.line_num + before

    def _columns(self, header: list[str], first: Sequence[str]) -> Columns:
        names = [re.sub(r"[\W_]+", "", cell.casefold()) for cell in header]
        image = self._image(names, header, first)
        split, confidence = _first_of(_SPLIT, names), _first_of(("confidence",), names)
        corners = next((tuple(map(names.index, four)) for four in _BOX if set(four) <= set(names)), None)
        label = _label(names, header)
        used = {image, split, confidence, *(corners or ())}
        rest = {
            index: name
            for index, name in enumerate(header)
            if label is None and index not in used and names[index] not in _NO_CLASS
        }
        others = [header[index] for index, name in enumerate(names) if name in _LABEL and index != label]
        warnings = []
        if label is not None and others:
            told = f"the column {header[label]!r} of {self.path.name} is taken for the labels, not {first_few(others)}"
            warnings.append(told)
        is_guess = False
        if label is None and len(rest) == 1 and first:
            only = next(iter(rest))
            if only < len(first) and first[only].casefold() not in (*_YES, *_NO):
                label, rest, is_guess = only, {}, True
                warnings = [f"the column {header[only]!r} of {self.path.name} is taken for the labels"]
        if label is None and not rest:
            label = _first_of(_NUMBERED, names)
            if label is None:
                raise self._no_labels(1, f"expected a column 'label', got {', '.join(header)[:200]}")
        is_valid = split is not None and names[split] == "isvalid"
        return Columns(
            len(header), image, label, rest, split, is_valid, corners, confidence, is_guess, warnings
        )

    def _image(self, names: Sequence[str], header: Sequence[str], first: Sequence[str]) -> int:
        """The column of images: called so, and of several the one that holds names of files."""
        holding = [index for index, cell in enumerate(first) if cell.casefold().endswith(SUFFIXES)]
        called = [names.index(name) for name in _IMAGE if name in names]
        found = [index for index in called if index in holding] or called or holding
        if not found or found[0] >= len(names):
            got = ", ".join(header)[:200] or "nothing"
            raise self._no_labels(1, f"expected a column 'image', got the columns {got}")
        return found[0]

    def _row(self, line: int, cells: list[str]) -> Row:
        columns = self.columns
        while len(cells) > columns.width and not cells[-1]:
            cells.pop()
        if len(cells) != columns.width:
            raise self._error(
                line,
                f"expected {columns.width} columns, got {len(cells)}",
                "Separate labels by ';' and put cells with commas into double quotes",
            )
        split, box = self._split, None
        if columns.split is not None:
            split = cells[columns.split] or WHOLE
            if columns.is_valid:
                split = "valid" if split.casefold() in _YES else "train"
            split = plain_word(split, "split", where=f"{self.path}, line {line}")
        if columns.corners is not None:
            values = numbers([cells[index] for index in columns.corners])
            box = "a coordinate is no number" if values is None else _box(values)
        image = PurePosixPath(cells[columns.image]).as_posix()
        if columns.label is None:
            return Row(line, image, None, tuple(self._ticked(line, cells)), split, box)
        cell = _FORMULA_AS_TEXT.sub("", cells[columns.label])
        cell = "" if cell in ("NaN", "nan") else cell  # what pandas makes of an empty one
        is_absent = columns.confidence is not None and cells[columns.confidence] in _NO[1:]
        if is_absent or (not cell and columns.corners is not None):  # a row an object, and here is none
            return Row(line, image, None, (), split, None)
        return Row(line, image, cell, (), split, box)

    def _ticked(self, line: int, cells: list[str]) -> Iterator[str]:
        """The classes whose columns say 1."""
        for index, name in self.columns.classes.items():
            value = cells[index].casefold()
            if value in _YES:
                yield name
            elif value not in _NO:
                what = f"{name[:80]!r} holds {value[:40]!r}, which is neither 0 nor 1"
                raise self._no_labels(line, f"there is no column 'label', and {what}")

    def _no_labels(self, line: int, what: str) -> UserError:
        return NoLabelsError(what, where=f"{self.path}, line {line}", remedy=_REMEDY)

    def _error(self, line: int, what: str, remedy: str) -> UserError:
        return UserError(what, where=f"{self.path}, line {line}", remedy=remedy)


class _Lines:
    """The lines of a file, of a bounded length and without zero bytes; `size` counts the characters of a record."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.size = stream, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text = self._stream.readline(_MAX_RECORD)
        self.size += len(text)
        if self.size >= _MAX_RECORD:
            raise csv.Error(f"a row has {_MAX_RECORD:,} characters or more")
        if "\0" in text:
            raise csv.Error("a zero byte, so this is no text")
        if not text:
            raise StopIteration
        return text


def _delimiter(line: str) -> str:
    """What parts the cells of a header: the commonest of tab, semicolon and comma."""
    return max(",", ";", "\t", key=line.count)


def _implied(cells: Sequence[str]) -> list[str]:
    """The columns of a table whose first line is a row and no header, where that is certain."""
    if not cells or not cells[0].casefold().endswith(SUFFIXES):
        return []
    if len(cells) == len(_RETINANET) and (numbers(cells[1:5]) or not any(cells[1:])):
        return _RETINANET
    return ["image", "label"] if len(cells) == 2 else []


def _label(names: Sequence[str], header: Sequence[str]) -> int | None:
    """The column of labels: called so, else the only one whose last word is one (`Finding Labels`)."""
    last = [re.split(r"[\W_]+", name.casefold().strip())[-1] for name in header]
    found = [index for index, word in enumerate(last) if word in _LABEL]
    named = _first_of(_LABEL, names)
    return found[0] if named is None and len(found) == 1 else named


def _first_of(wanted: Sequence[str], names: Sequence[str]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _box(values: Sequence[float]) -> RawBox:
    return values[0], values[1], values[2], values[3]
