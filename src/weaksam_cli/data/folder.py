"""Labels without boxes: a folder a class, or a table `image,label;label` in a CSV file with optional column `split`."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from filecmp import cmp
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from pydantic import Field

from weaksam_cli.core.names import first_few, plain_word
from weaksam_cli.data.dataset import (
    SPLIT_NAMES,
    DatasetSplit,
    ImageRecord,
    ReadRecipe,
    Remarks,
    check_class,
    choose_splits,
    given_folder,
    in_class_order,
    inside,
    numbered,
    role_of,
)
from weaksam_cli.data.images import SUFFIXES, find_images
from weaksam_cli.errors import UserError, suggestion

LOOKS_LIKE: Final = "labels.csv, and folders of images named by class"
WHOLE: Final = "trainval"
HELD_OUT: Final = "test"
SEPARATOR: Final = ";"
_IMAGE: Final = ("image", "images", "file_name", "filename", "path")
_LABEL: Final = ("label", "labels", "class", "classes")
_SPLIT: Final = ("split",)


class Recipe(ReadRecipe):
    """How class folders or a CSV table are read.

    Attributes:
        test_share: class folders without splits: share of the images put into a split `test` by a hash of their key.
    """

    method: Literal["folder"] = "folder"
    test_share: float = Field(default=0.0, ge=0, lt=1)


@dataclass(frozen=True)
class Labelled:
    """An image and its labels before the image was opened; `labels` is None when nobody said."""

    key: str
    path: Path
    labels: frozenset[str] | None


def likeness(source: Path) -> int:
    """1 where there is a table, or an image in some folder: whatever has a layout of its own has that, too."""
    if csv_file(source) is not None:
        return 1
    return int(source.is_dir() and any(path.suffix.lower() in SUFFIXES for path in source.glob("*/**/*")))


def read(source: Path, recipe: Recipe, images: Path | None = None) -> tuple[DatasetSplit, ...]:
    """Splits of a CSV table or of class folders: see `read_csv` and `read_class_folders`.

    Raises:
        UserError: as they do.
    """
    table = csv_file(source)
    if table is not None:
        return read_csv(table, recipe, images)
    if not source.is_dir():
        raise UserError(
            "no such folder", where=str(source), remedy="Give a folder of class folders, or a CSV file"
        )
    return read_class_folders(source, recipe)


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


def read_class_folders(source: Path, recipe: Recipe) -> tuple[DatasetSplit, ...]:
    """Splits of `source/class/...` or `source/split/class/...` with image-level labels.

    The first folder is the class, however deep the image lies. The same image put into several class folders
    (same file name and same bytes) is one image with all these labels, under the first of its paths; equal names
    alone mean nothing, since many collections number their images per class. An image outside of every class
    folder is listed as failed. Without split folders everything is `trainval`, unless `test_share` asks for a `test`
    split: then an image belongs to it when the hash of its key says so, which no other image can change.

    Raises:
        UserError: without a class folder, an image, or a split asked for; or for a class not in the list given.
    """
    given = _split_folders(source)
    if given and recipe.test_share > 0:
        raise UserError(
            "the folders are splits already, so no share can be held out",
            where=str(source),
            remedy="Leave out the test share, or give the folder of one split",
        )
    remarks = {name: Remarks() for name in given or (WHOLE,)}
    if given:
        parts = {name: label_by_folder(source / name, f"{name}/", remarks[name]) for name in given}
    else:
        labelled = label_by_folder(source, "", remarks[WHOLE])
        out = {item.key for item in labelled if held_out(item.key, recipe.test_share)}
        parts = {WHOLE: [item for item in labelled if item.key not in out]}
        if recipe.test_share > 0:
            parts[HELD_OUT] = [item for item in labelled if item.key in out]
    return _open_splits(source, parts, recipe, remarks)


def label_by_folder(root: Path, prefix: str, remarks: Remarks) -> list[Labelled]:
    """All images below `root` labelled by the first folder below it; keys start with `prefix`."""
    first_of: dict[tuple[str, int], list[str]] = {}
    labels: dict[str, set[str]] = {}
    for key in find_images(root):
        parts = PurePosixPath(key).parts
        if len(parts) == 1:
            remarks.fail(prefix + key, "lies in no class folder")
            continue
        twins = first_of.setdefault((parts[-1], (root / key).stat().st_size), [])
        same = next((twin for twin in twins if cmp(root / twin, root / key, shallow=False)), None)
        if same is None:
            twins.append(key)
            labels[key] = {parts[0]}
        else:
            labels[same].add(parts[0])
    return [Labelled(prefix + key, root / key, frozenset(names)) for key, names in labels.items()]


def held_out(key: str, share: float) -> bool:
    """Whether an image belongs to the test part, by the SHA-256 of its key."""
    digest = hashlib.sha256(key.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def read_csv(path: Path, recipe: Recipe, images: Path | None) -> tuple[DatasetSplit, ...]:
    """Splits of a CSV file with image-level labels.

    The header names the columns `image` and `label`, and may name `split`; without it all rows are `trainval`. Labels
    are separated by semicolons; an empty cell means that nobody labelled the image (None). Several rows of one
    image are taken together. Paths are relative to `images`, else to the folder of the table, else to `images`
    beside it. UTF-8, with or without a byte order mark; cells with commas or line breaks stand in double quotes.

    Raises:
        UserError: naming the line, for an image that does not exist, a path that leaves the root, a row that does
            not fit the header, the name of a split that cannot name a file, or an image in two splits.
    """
    rows = _read_rows(path)
    root = given_folder(images) if images is not None else _find_root(path, rows)
    return _open_splits(path, _by_split(path, root, rows), recipe, {})


def _split_folders(source: Path) -> tuple[str, ...]:
    """The folders of `source` when all of them are named as splits (`train`, `val`, ...), else ()."""
    names = sorted(
        child.name for child in source.iterdir() if child.is_dir() and not child.name.startswith(".")
    )
    return tuple(names) if names and all(name.casefold() in SPLIT_NAMES for name in names) else ()


def _open_splits(
    source: Path,
    parts: Mapping[str, Sequence[Labelled]],
    recipe: Recipe,
    remarks: Mapping[str, Remarks],
) -> tuple[DatasetSplit, ...]:
    """Open the images of the splits that the recipe asks for; the class table comes from all `parts`."""
    roles = choose_splits(recipe.splits, parts, {name: role_of(name) for name in parts}, source)
    class_names = _classes(source, parts, recipe)
    splits = []
    for name, role in roles.items():
        noted = remarks.get(name, Remarks())
        records = []
        for item in parts[name]:
            size = noted.size_of(item.key, item.path, recipe.max_pixels)
            if size is not None:
                labels = None if item.labels is None else in_class_order(item.labels, class_names)
                records.append(ImageRecord(item.key, item.path, *size, labels))
        noted.require(records, name, source)
        ids, told = numbered(class_names), noted.told(class_names)
        splits.append(DatasetSplit(name, class_names, ids, tuple(records), *told, role=role))
    return tuple(splits)


def _classes(source: Path, parts: Mapping[str, Sequence[Labelled]], recipe: Recipe) -> tuple[str, ...]:
    found = {name: item.key for part in parts.values() for item in part for name in item.labels or ()}
    if recipe.classes is not None:
        for name, key in sorted(found.items()):
            check_class(name, recipe.classes, where=f"{source}: {key}")
        return recipe.classes
    if not found:
        raise UserError(
            "no labelled image here", where=str(source), remedy="Put the images into one folder per class"
        )
    return tuple(sorted(found))


@dataclass(frozen=True)
class _Row:
    line: int
    image: str
    labels: frozenset[str] | None
    split: str


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
                where = f"{path}, line {reader.line_num}"
                plain_word(name, "split", where=where)
                inside(Path("the folder of the images"), cells[image].strip(), where=where)
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
        got = "several of them" if found else f"the columns {', '.join(header) or 'nothing'}"
        raise _error(
            path, 1, f"expected one column {names[0]!r}, got {got}", "Begin the table with: image,label"
        )
    return found[0]


def _labels(cell: str) -> frozenset[str] | None:
    names = frozenset(name.strip() for name in cell.split(SEPARATOR) if name.strip())
    return names or None


def _error(path: Path, line: int, what: str, remedy: str) -> UserError:
    return UserError(what, where=f"{path}, line {line}", remedy=remedy)


def _find_root(path: Path, rows: list[_Row]) -> Path:
    for place in (path.parent, path.parent / "images"):
        if any((place / row.image).is_file() for row in rows):
            return place
    raise _error(
        path,
        rows[0].line,
        f"the image {rows[0].image!r} and all others are missing in {path.parent} and in images/ beside the table",
        "Say where the images are with --images FOLDER",
    )


def _by_split(path: Path, root: Path, rows: list[_Row]) -> dict[str, list[Labelled]]:
    merged: dict[str, _Row] = {}
    for row in rows:
        if not (root / row.image).is_file():
            known = find_images(root)
            what = f"there is no image {row.image!r} in {root}{suggestion(row.image, known)}"
            raise _error(path, row.line, what, f"There: {first_few(known, 20)}")
        key = PurePosixPath(row.image).as_posix()
        earlier = merged.setdefault(key, row)
        if earlier.split != row.split:
            raise _error(
                path,
                row.line,
                f"{key!r} belongs to {row.split!r} here and to {earlier.split!r} in line {earlier.line}",
                "Keep it in one split",
            )
        union = (earlier.labels or frozenset()) | (row.labels or frozenset())
        merged[key] = replace(earlier, labels=union or None)
    parts: dict[str, list[Labelled]] = {}
    for key, row in merged.items():
        parts.setdefault(row.split, []).append(Labelled(key, root / key, row.labels))
    return parts
