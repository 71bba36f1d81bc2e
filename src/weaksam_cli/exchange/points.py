"""The published text files of point prompts (spec 02 §2): one file an image, one line a point.

A line is `column row class value`, and the map's index after it for cross-attention points. Each kind of class activation
maps has a folder of its own: `coarse/`, `fine/`, `cross/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from weaksam_cli.artifacts.class_maps import KINDS
from weaksam_cli.artifacts.points import POINTS, points_to_rows, read_points
from weaksam_cli.core.types import Points
from weaksam_cli.data.image_names import ImageNames
from weaksam_cli.data.labels import LabelledImage, Labels
from weaksam_cli.data.text_lines import text_lines
from weaksam_cli.errors import UserError
from weaksam_cli.exchange.formats import Incoming, Outgoing, Remarks, Source, Written, match_images

SCHEMA: Final = POINTS
WRITES: Final = {"points": "a folder of text files, pixels counted from 0"}
TAKES: Final = frozenset({"kind"})

_FIELDS: Final = ("column", "row", "class", "value", "map index")
_LIMITS: Final = (2**31, 2**31, 2**31, float("inf"), 2**15)
_COCO_SPLITS: Final = ("train2014", "val2014")
_WITH_MAP_INDEX: Final = "cross"
_MOST_POINTS: Final = 1_000_000


def write(outgoing: Outgoing, name: str) -> Written:
    """A file for each image and kind of the artifact; an image that failed has empty ones.

    Raises:
        UserError: two images would have one file.
    """
    files: dict[str, bytes] = {}
    rows = 0
    for key in outgoing.keys:
        failed = key in outgoing.artifact.failed
        found = {} if failed else read_points(outgoing.artifact, key)
        file = point_file_name(PurePosixPath(key).stem, str(outgoing.order or ""))
        if f"{KINDS[0]}/{file}" in files:
            raise UserError(
                f"two images would have the file {file}, the second is {key!r}",
                where=str(outgoing.artifact.path),
                remedy="Name the images of one folder with --order",
            )
        for kind in KINDS:
            points = found.get(kind, Points.empty())
            text = format_points(points, with_map_index=kind == _WITH_MAP_INDEX)
            files[f"{kind}/{file}"] = text.encode()
            rows += len(points)
    return Written(files, rows)


def point_file_name(image_id: str, image_list: str = "") -> str:
    """File name of an image's points.

    The published code puts `COCO_train2014_` or `COCO_val2014_` before the id when the path of its image list
    contains the split's name.
    """
    prefix = next((f"COCO_{split}_" for split in _COCO_SPLITS if split in image_list), "")
    return f"{prefix}{image_id}.txt"


def format_points(points: Points, *, with_map_index: bool) -> str:
    """The text of a file.

    A point without class (-1) is written as class 0: the format has no other way, and the published clustering
    does the same.
    """
    lines = []
    for (column, row), class_index, value, map_index in zip(
        points.xy, points.class_index, points.value, points.map_index, strict=True
    ):
        line = f"{column} {row} {max(class_index, 0)} {value:.3f}"
        lines.append(f"{line} {map_index}\n" if with_map_index else f"{line}\n")
    return "".join(lines)


def parse_points(lines: Iterable[str], *, where: str) -> Points:
    """Points of the lines of a file; lines of four and five fields may stand side by side.

    Args:
        lines: content of the file; an empty one has no points.
        where: name of the file, for messages.

    Raises:
        UserError: for a line that does not fit the format.
    """
    rows = [_numbers(line, number, where) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        return Points.empty()
    table = np.asarray(rows, dtype=np.float64)
    return Points(
        table[:, :2].astype(np.int32),
        table[:, 2].astype(np.int32),
        table[:, 3].astype(np.float32),
        table[:, 4].astype(np.int16),
    )


def _numbers(line: str, number: int, where: str) -> tuple[float, ...]:
    fields = line.split()
    try:
        values = (*map(int, fields[:3]), float(fields[3]), *map(int, fields[4:]), *[0] * (len(fields) == 4))
        fits = all(abs(value) < limit for value, limit in zip(values, _LIMITS, strict=True))
    except (ValueError, IndexError):
        fits = False
    if not fits:
        raise UserError(
            f"line {number} is not `{' '.join(_FIELDS[:4])}` with an optional {_FIELDS[4]}: {line.strip()[:80]!r}",
            where=where,
            remedy="Write four or five numbers a line, separated by spaces",
        )
    return values


def read_point_file(path: Path) -> Points:
    """The points of a file.

    Raises:
        UserError: for a file that cannot be read or a line that does not fit the format.
    """
    lines = text_lines(path, "a file of points", most=_MOST_POINTS, remedy="Check the path")
    return parse_points(lines, where=str(path))


def files(source: Source) -> dict[str, Path]:
    """`kind/name.txt` -> file, of all files that are read.

    Raises:
        UserError: no folder, no text file in it, or an unknown kind.
    """
    return {f"{kind}/{path.name}": path for kind, paths in _by_kind(source) for path in paths}


def _by_kind(source: Source) -> Iterator[tuple[str, list[Path]]]:
    """Kind and text files: of the folders below the source, or of the source itself for one kind."""
    folder, kind = source.path, source.kind
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
    for name, place in [(kind, folder)] if kind is not None else [(name, folder / name) for name in below]:
        found = sorted(path for path in place.glob("*.txt") if path.is_file())
        if not found:
            raise UserError("holds no .txt file", where=str(place))
        yield name, found


def read(source: Source, labels: Labels) -> Incoming:
    """The points of all kinds for the images of a split that have a file of any kind.

    A file is named by an image's key or id, with or without `COCO_train2014_`.

    Raises:
        UserError: see `files`; a line that does not fit, a point outside of its image, a class that the labels do not
            have; no file for any image of the split.
    """
    images, names, remarks = labels.by_key(), ImageNames.of_labels(labels), Remarks()
    by_image: dict[str, list[tuple[int, Points]]] = {}
    for kind, paths in _by_kind(source):
        found, stems = Remarks(), [path.stem for path in paths]
        for key, position in match_images(stems, names, found, where=str(paths[0].parent)).items():
            points = read_point_file(paths[position])
            _check(points, images[key], len(labels.class_names), paths[position])
            by_image.setdefault(key, []).append((KINDS.index(kind), points))
        remarks.strangers += [f"{kind}/{name}" for name in found.strangers]
    rows = {
        key: points_to_rows(by_image[key], (image.height, image.width))
        for key, image in images.items()
        if key in by_image
    }
    remarks.missing = [key for key in images if key not in rows]
    return Incoming(rows, {"class_names": labels.class_names, "kind_names": KINDS}, remarks)


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
