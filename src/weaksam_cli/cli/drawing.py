"""`weaksam inspect FILE --image KEY --draw OUT.png`: an image with what an artifact says about it.

Pseudo instance labels come with what was chosen before there were masks, in three rows (the paper's Figure 4).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps, cam_schema, class_heat, read_class_maps
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.points import POINTS, read_points
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.artifacts.receipt import OUR_NAME, read_receipt, refuse_foreign
from weaksam_cli.core.drawing import Canvas, colour, draw_detections, letters_are_missing, overlay, sheet
from weaksam_cli.core.types import Detections, Points
from weaksam_cli.data.artifact_labels import labels_of, no_labels, of_image
from weaksam_cli.data.detections import has_masks, read_detections
from weaksam_cli.data.images import SUFFIXES, read_image
from weaksam_cli.data.labels import Labels
from weaksam_cli.errors import UserError, nearest
from weaksam_cli.pgt.compared import detections_behind, selections
from weaksam_cli.predict.trained import run_of

_MOST_PROPOSALS = 25
_MOST_DETECTIONS = 12
_SHARE_OF_BEST = 0.5
"""Where no threshold is given, detections are drawn down to this share of the best score of their class in the image."""
_WIDEST_ROW = 5
"""Images side by side, where there are several rows of the same images."""
_LONGEST_TILE = 640
"""Pixels of the longer side of an image among several."""
Draw = Callable[[str, NDArray[np.uint8]], NDArray[np.uint8]]
"""From an image's key and pixels to what is drawn of it."""


@dataclass(frozen=True)
class What:
    """What is drawn of an artifact.

    Attributes:
        kinds: of maps and points.
        least_score: of detections; None: half of the best of their class in the image, and no more than a dozen.
        longest: pixels of the longer side of an image, at most.
        titled: each image bears its key.
    """

    kinds: Sequence[str] = KINDS
    least_score: float | None = None
    longest: int | None = None
    titled: bool = False

    def title(self, key: str, text: str = "") -> str:
        """What stands in the corner of an image."""
        return " · ".join(part for part in (key if self.titled else "", text) if part)


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse an output that is no PNG, or in whose place something stands that this program did not write.

    Raises:
        UserError: it is so.
    """
    if output.suffix.lower() != ".png":
        raise UserError("a drawing is a PNG", where=str(output), remedy="Give a path ending in .png")
    refuse_foreign(output, overwrite=overwrite)


def draw_artifact(
    path: Path,
    keys: Sequence[str],
    output: Path,
    *,
    kinds: Sequence[str] = KINDS,
    images: Path | None = None,
    least_score: float | None = None,
) -> list[str]:
    """Write a PNG of images of an artifact, several as a sheet.

    An image is looked for in the folder `images`, else where the receipt says that the images lay, else by the labels
    of the run directory around the file.

    Args:
        path: the artifact.
        keys: of the images, at least one.
        output: the PNG.
        kinds: of maps and points that are drawn.
        images: a folder.
        least_score: of detections; None: half of the best of their class in the image, and no more than a dozen.

    Returns:
        Names of classes with letters that no font of this machine has.

    Raises:
        UserError: an image is not found, or is not in the artifact.
    """
    labels, several = labels_of(path), len(keys) > 1
    what = What(kinds, least_score, _LONGEST_TILE if several else None, several)
    with _opened(path, labels, what) as (rows, names):
        shown = {key: _pixels(path, key, labels, images) for key in keys}
        drawn = [[draw(key, pixels) for key, pixels in shown.items()] for draw in rows]
    FileOps().write_atomically(output, png_bytes(_arranged(drawn)))
    return [name for name in names if letters_are_missing(name)]


def _arranged(rows: Sequence[Sequence[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """One row as a square sheet; several, which are of the same images, below each other."""
    if len(rows) == 1:
        return sheet(rows[0], math.ceil(math.sqrt(len(rows[0]))))
    across = math.ceil(len(rows[0]) / math.ceil(len(rows[0]) / _WIDEST_ROW))
    parts = [[row[start : start + across] for row in rows] for start in range(0, len(rows[0]), across)]
    return sheet([sheet([tile for row in part for tile in row], len(part[0])) for part in parts], 1)


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG that bears our mark (see `refuse_foreign`) of pixels, uint8 RGB (h, w, 3)."""
    mark, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    mark.add_text("Software", OUR_NAME)
    Image.fromarray(pixels).save(buffer, "png", pnginfo=mark)
    return buffer.getvalue()


def _pixels(path: Path, key: str, labels: Labels | None, images: Path | None) -> NDArray[np.uint8]:
    entry = labels.by_key().get(key) if labels else None
    record = read_receipt(path)
    noted = record.identity.inputs.get("images") if record else None
    root = images or (path.parent / noted.path if noted else None)
    if root is not None:
        names = [*([entry.file_name] if entry else []), *(f"{key}{suffix}" for suffix in ("", *SUFFIXES))]
        found = next((root / name for name in names if (root / name).is_file()), None)
        if found is None:
            remedy = "Name the folder of the images with --images"
            raise UserError(f"the image {key!r} is not in {root}", where=str(path), remedy=remedy)
        return read_image(found)
    if labels is None or labels.image_root == Path():
        raise no_labels(path)
    if entry is None:
        what = f"there is no image {key!r} in {labels.path.name}"
        raise UserError(what, where=str(path), remedy=nearest(key, labels.keys))
    return labels.read_image(entry)


@contextmanager
def _opened(path: Path, labels: Labels | None, what: What) -> Iterator[tuple[list[Draw], list[str]]]:
    """What draws an image of an artifact, for each row of the sheet, and the names of the classes that it writes."""
    if path.suffix == ".h5":
        with open_artifact(path) as artifact:
            names = artifact.table("class_names") if artifact.format_name != PROPOSALS.name else []
            drawing: Draw = partial(_draw_rows, artifact, names, what)
            yield [drawing], names
    elif labels is None:
        raise no_labels(path)
    else:
        found = read_detections(path, labels, masks=True)
        rows = {} if what.least_score is not None else _selections(path, labels, found)
        draw = partial(_draw_boxes, path, labels, what)
        parts: list[Draw] = [partial(draw, every, name) for name, every in rows.items()]
        yield parts or [partial(draw, found, "")], labels.class_names


def _selections(
    path: Path, labels: Labels, found: Mapping[str, Detections]
) -> dict[str, dict[str, Detections]]:
    """Pseudo instance labels and what was chosen before them; nothing where these are none, or the detections are gone."""
    record, run = read_receipt(path), run_of(path)
    if record is None or run is None or not has_masks(found):
        return {}
    source = detections_behind(path, run.root)
    if source is None:
        return {}
    return selections(read_detections(source, labels), found, labels, record.identity.recipe)


def _draw_boxes(
    path: Path,
    labels: Labels,
    what: What,
    found: Mapping[str, Detections],
    text: str,
    key: str,
    pixels: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    chosen = of_image(found, key, path)
    chosen = chosen if text else _chosen(chosen, what.least_score)
    _refuse_other_size(chosen, labels, key, pixels, path)
    title = what.title(key, text)
    return draw_detections(pixels, chosen, labels.class_names, title=title, longest=what.longest)


def _refuse_other_size(
    found: Detections, labels: Labels, key: str, pixels: NDArray[np.uint8], path: Path
) -> None:
    """Masks are of the size that the labels say; run lengths of another cannot be drawn."""
    entry = labels.by_key()[key]
    if found.masks is not None and (entry.height, entry.width) != pixels.shape[:2]:
        text = f"the masks are those of an image of {entry.width} x {entry.height} pixels"
        raise UserError(f"{text}, {key!r} has {pixels.shape[1]} x {pixels.shape[0]}", where=str(path))


def _draw_rows(
    artifact: Artifact, names: Sequence[str], what: What, key: str, pixels: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    kind = artifact.format_name
    if kind == POINTS.name:
        return _draw_points(pixels, read_points(artifact, key), names, what, key)
    if kind == PROPOSALS.name:
        return _draw_proposals(pixels, artifact.rows(key, "boxes").astype(np.float32), what, key)
    if kind == cam_schema().name:
        maps = read_class_maps(artifact, key)
        if maps.image_size != pixels.shape[:2]:
            text = "the maps are those of an image of {1} x {0} pixels".format(*maps.image_size)
            text += f", {key!r} has {pixels.shape[1]} x {pixels.shape[0]}"
            raise UserError(text, where=str(artifact.path))
        return _draw_maps(pixels, maps, names, what, key)
    raise UserError(f"{kind} cannot be drawn", where=str(artifact.path))


def _draw_points(
    pixels: NDArray[np.uint8], points: Mapping[str, Points], names: Sequence[str], what: What, key: str
) -> NDArray[np.uint8]:
    canvas = Canvas(pixels, what.longest)
    canvas.title(what.title(key))
    tagged: set[tuple[str, int]] = set()
    for kind in (kind for kind in points if kind in what.kinds):
        for (x, y), index in zip(points[kind].xy.tolist(), points[kind].class_index.tolist(), strict=True):
            # A tag for each would hide the image.
            text = "" if (kind, index) in tagged else f"{names[index] if index >= 0 else '-'} ({kind})"
            tagged.add((kind, index))
            canvas.dot(x, y, colour(index), text)
    return canvas.pixels()


def _draw_proposals(
    pixels: NDArray[np.uint8], boxes: NDArray[np.float32], what: What, key: str
) -> NDArray[np.uint8]:
    canvas = Canvas(pixels, what.longest)
    for index, box in enumerate(boxes[:_MOST_PROPOSALS]):
        canvas.box(box, colour(index))
    canvas.title(what.title(key, f"{min(len(boxes), _MOST_PROPOSALS)} of {len(boxes)} proposals"))
    return canvas.pixels()


def _chosen(found: Detections, least_score: float | None) -> Detections:
    if least_score is not None:
        return found.take(found.scores >= least_score)
    # A class is drawn at all when its best detection reaches half of the image's.
    best = found.best_scores(int(found.class_index.max(initial=0)) + 1)[found.class_index]
    good = (found.scores >= _SHARE_OF_BEST * best) & (best >= _SHARE_OF_BEST * best.max(initial=0))
    rows = np.argsort(-found.scores, kind="stable")
    return found.take(rows[good[rows]][:_MOST_DETECTIONS] if len(rows) else rows)


def _draw_maps(
    pixels: NDArray[np.uint8], maps: ClassMaps, names: Sequence[str], what: What, key: str
) -> NDArray[np.uint8]:
    tiles = []
    for kind, name in enumerate(KINDS):
        every = class_heat(maps, kind, *maps.image_size) if name in what.kinds else None
        if every is None:
            continue
        for index, heat in zip(maps.classes(), every, strict=True):
            canvas = Canvas(overlay(pixels, heat), what.longest)
            canvas.title(what.title(key, f"{names[index]} ({name})"))
            tiles.append(canvas.pixels())
    return sheet(tiles, len(tiles), gap=0) if tiles else Canvas(pixels, what.longest).pixels()
