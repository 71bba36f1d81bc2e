"""Folders of the published point text files: one .txt an image, four or five columns (spec 02 §2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weaksam_cli.artifacts.class_maps import KINDS
from weaksam_cli.core.types import Points
from weaksam_cli.data.labels import LabelledImage, Labels
from weaksam_cli.errors import UserError
from weaksam_cli.exchange.fitting import Remarks, match_images
from weaksam_cli.exchange.image_names import ImageNames

_FIELDS = ("column", "row", "class", "value", "map index")


@dataclass(frozen=True)
class KindFolder:
    """The point files of one kind of class activation maps.

    Attributes:
        kind: index into `KINDS`.
        folder: where they lie.
        files: the .txt files in it, by name.
    """

    kind: int
    folder: Path
    files: tuple[Path, ...]


def point_folders(folder: Path, kind: str | None) -> list[KindFolder]:
    """The folders of point files: `coarse/`, `fine/` and `cross/` below `folder`, or `folder` itself for one kind.

    Args:
        folder: what was given.
        kind: coarse, fine or cross; needed where the files lie in `folder` itself.

    Raises:
        UserError: no folder, no text file in it, or an unknown kind.
    """
    if not folder.is_dir():
        raise UserError("expected a folder of point files, one .txt an image", where=str(folder))
    below = [name for name in KINDS if (folder / name).is_dir()]
    if kind is None and not below:
        raise UserError(
            "points of which kind? Their files do not say",
            where=str(folder),
            remedy=f"Give --kind {', '.join(KINDS)}, or put them into folders of these names",
        )
    if kind is not None and (kind not in KINDS or below):
        what = f"holds folders for {', '.join(below)}" if below else f"there is no kind {kind!r}"
        raise UserError(what, where="--kind", remedy=f"Allowed: {', '.join(KINDS)}, for files of one kind")
    places = {kind: folder} if kind is not None else {name: folder / name for name in below}
    found = [
        KindFolder(KINDS.index(name), place, tuple(sorted(place.glob("*.txt"))))
        for name, place in places.items()
    ]
    for item in found:
        if not item.files:
            raise UserError("holds no .txt file", where=str(item.folder))
    return found


def read_point_folder(folder: KindFolder, labels: Labels, remarks: Remarks) -> dict[str, Points]:
    """Points by image key, for the images of the split that have a file.

    A file is named by an image's key or id, with or without `COCO_train2014_`.

    Raises:
        UserError: a line that does not fit, a point outside of its image, a class that the labels do not have; no
            file for any image of the split.
    """
    images = labels.by_key()
    names = [path.stem for path in folder.files]
    positions = match_images(names, ImageNames.of_labels(labels), remarks, where=str(folder.folder))
    found = {}
    for key, position in positions.items():
        path = folder.files[position]
        points = read_point_file(path)
        _check(points, images[key], len(labels.class_names), path)
        found[key] = points
    return found


def _check(points: Points, image: LabelledImage, n_classes: int, path: Path) -> None:
    outside = (points.xy < 0) | (points.xy >= [image.width, image.height])
    if outside.any():
        x, y = points.xy[outside.any(axis=1)][0]
        raise UserError(
            f"image {image.key!r} is {image.width} x {image.height} pixels, and a point lies at {x} {y}",
            where=str(path),
            remedy="The file belongs to another image",
        )
    wrong = points.class_index[(points.class_index < 0) | (points.class_index >= n_classes)]
    if wrong.size:
        raise UserError(
            f"class {int(wrong[0])} does not exist: the labels have {n_classes}, counted from 0",
            where=str(path),
            remedy="Give the labels of the dataset that the points were made for",
        )


def read_point_file(path: Path) -> Points:
    """Read a file of the published format.

    Raises:
        UserError: for a file that cannot be read or a line that does not fit the format.
    """
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), remedy="Check the path") from error
    return parse_points(text, where=str(path))


def parse_points(text: str, *, where: str) -> Points:
    """Points of the text of a file; lines of four and five fields may stand side by side.

    Args:
        text: content of the file; an empty one has no points.
        where: name of the file, for messages.

    Raises:
        UserError: for a line that does not fit the format.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            column, row, class_index, value = int(fields[0]), int(fields[1]), int(fields[2]), float(fields[3])
            map_index = int(fields[4]) if len(fields) > 4 else 0
            too_many = len(fields) > len(_FIELDS)
        except (ValueError, IndexError):
            too_many = True
        if too_many:
            raise UserError(
                f"line {number} is not `{' '.join(_FIELDS[:4])}` with an optional {_FIELDS[4]}: {line.strip()!r}",
                where=where,
                remedy="Write four or five numbers a line, separated by spaces",
            )
        rows.append((column, row, class_index, value, map_index))
    if not rows:
        return Points.empty()
    table = np.asarray(rows, dtype=np.float64)
    return Points(
        table[:, :2].astype(np.int32),
        table[:, 2].astype(np.int32),
        table[:, 3].astype(np.float32),
        table[:, 4].astype(np.int16),
    )
