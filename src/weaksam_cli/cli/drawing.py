"""`weaksam inspect FILE --image KEY --draw OUT.png`: an image with what an artifact says about it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, PngImagePlugin

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps, cam_schema, fuse_scales, read_class_maps
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.points import POINTS, read_points
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.receipt import OUR_NAME, read_receipt, refuse_foreign
from weaksam_cli.core.types import Detections, Points
from weaksam_cli.data.detections import own_labels, read_detections
from weaksam_cli.data.images import SUFFIXES, read_image
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.data.source import SOURCE_FILE, read_source
from weaksam_cli.errors import UserError, nearest

_COLOURS = (
    "#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#42d4f4", "#f032e6", "#bfef45", "#fabed4", "#dcbeff",
)  # fmt: skip
_MOST_PROPOSALS = 25
_MOST_DETECTIONS = 12
_SHARE_OF_BEST = 0.5
"""Detections are drawn down to this share of the best score of their class in the image."""
_SHORTEST_SIDE = 320


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse an output that is no PNG, or in whose place something stands that this program did not write.

    Raises:
        UserError: it is so.
    """
    if output.suffix.lower() != ".png":
        raise UserError("a drawing is a PNG", where=str(output), remedy="Give a path ending in .png")
    refuse_foreign(output, overwrite=overwrite)


def draw_artifact(
    path: Path, key: str, output: Path, *, kinds: Sequence[str] = KINDS, images: Path | None = None
) -> None:
    """Write a PNG of one image of an artifact; `kinds` of maps and points are drawn.

    The image is looked for in the folder `images`, else where the receipt says that the images lay, else by the labels
    of the run directory around the file.

    Raises:
        UserError: the image is not found, or the image is not in the artifact.
    """
    labels = labels_of(path)
    if path.suffix == ".h5":
        canvas = _draw_hdf5(path, key, _pixels(path, key, labels, images), kinds)
    elif labels is None:
        raise no_labels(path)
    else:
        found = detections_of(path, key, labels)
        canvas = _draw_detections(_pixels(path, key, labels, images), found, labels.class_names)
    mark, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    mark.add_text("Software", OUR_NAME)
    canvas.save(buffer, "png", pnginfo=mark)
    FileOps().write_atomically(output, buffer.getvalue())


def labels_of(path: Path) -> Labels | None:
    """The labels of the images that an artifact is about.

    They are those of its receipt in the run directory around it, else a JSON document's own table of images.

    Returns:
        The labels, with the folder of images as it was noted (it may be gone); None where there are none.

    Raises:
        UserError: the file, its receipt or the labels are damaged.
    """
    receipt = read_receipt(path)
    split = receipt.identity.split if receipt else path.stem
    noted = receipt.identity.inputs.get("data") if receipt else None
    for folder in path.absolute().parents:
        file = folder / (noted.path if noted else f"labels/{split}.json")
        if (folder / SOURCE_FILE).is_file() and file.is_file():
            return read_labels(file, _noted_root(folder, file.stem))
    return own_labels(path) if path.suffix == ".json" else None


def _noted_root(run: Path, split: str) -> Path:
    source = read_source(run).splits.get(split)
    return run / source.image_root if source else run


def detections_of(path: Path, key: str, labels: Labels) -> Detections:
    """The boxes of one image in a JSON artifact.

    Raises:
        UserError: a file that does not fit the labels; no such image.
    """
    found = read_detections(path, labels)
    if key not in found:
        raise UserError(f"there is no image {key!r}", where=str(path), remedy=nearest(key, list(found)))
    return found[key]


def no_labels(path: Path) -> UserError:
    """For an artifact whose images nothing around it names."""
    what = "no run directory with this split around the file, so its images are not known"
    places = "runs/<dataset>/<stage>/<split>.*"
    remedy = f"Look at files where they lie, {places}, or (HDF5) name the images' folder with --images"
    return UserError(what, where=str(path), remedy=remedy)


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


def _draw_hdf5(path: Path, key: str, pixels: NDArray[np.uint8], kinds: Sequence[str]) -> Image.Image:
    with open_artifact(path) as artifact:
        kind = artifact.format_name
        if kind == POINTS.name:
            found = {kind: points for kind, points in read_points(artifact, key).items() if kind in kinds}
            return _draw_points(pixels, found, artifact.table("class_names"))
        if kind == PROPOSALS.name:
            return _draw_proposals(pixels, artifact.rows(key, "boxes").astype(np.float32))
        if kind == cam_schema().name:
            maps = read_class_maps(artifact, key)
            if maps.image_size != pixels.shape[:2]:
                what = "the maps are those of an image of {1} x {0} pixels".format(*maps.image_size)
                raise UserError(f"{what}, {key!r} has {pixels.shape[1]} x {pixels.shape[0]}", where=str(path))
            return _draw_maps(pixels, maps, artifact.table("class_names"), kinds)
    raise UserError(f"{kind} cannot be drawn", where=str(path))


class _Canvas:
    """An image, enlarged where it is small, to draw on in its own coordinates."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._factor = max(1.0, _SHORTEST_SIDE / min(pixels.shape[:2]))
        height, width = (round(side * self._factor) for side in pixels.shape[:2])
        self.image = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
        self._pen = ImageDraw.Draw(self.image)

    def box(self, box: NDArray[np.float32], colour: str, width: int, text: str = "") -> None:
        left, top, *rest = (float(value) * self._factor for value in box)
        self._pen.rectangle([left, top, *rest], outline=colour, width=width)
        self._text((left + 4, top + 3), text, colour)

    def dot(self, x: int, y: int, colour: str, text: str) -> None:
        x_centre, y_centre = (x + 0.5) * self._factor, (y + 0.5) * self._factor
        self._pen.circle((x_centre, y_centre), 6, outline="black", fill=colour, width=1)
        self._text((x_centre + 8, y_centre - 6), text, colour)

    def title(self, text: str) -> None:
        self._text((4, 4), text, "white")

    def _text(self, place: tuple[float, float], text: str, colour: str) -> None:
        self._pen.text(place, text, fill=colour, stroke_width=2, stroke_fill="black", font_size=17)


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _draw_points(pixels: NDArray[np.uint8], points: dict[str, Points], names: Sequence[str]) -> Image.Image:
    canvas = _Canvas(pixels)
    for kind, found in points.items():
        for (x, y), index in zip(found.xy.tolist(), found.class_index.tolist(), strict=True):
            canvas.dot(x, y, _colour(index), f"{names[index] if index >= 0 else '-'} ({kind})")
    return canvas.image


def _draw_proposals(pixels: NDArray[np.uint8], boxes: NDArray[np.float32]) -> Image.Image:
    canvas = _Canvas(pixels)
    for index, box in enumerate(boxes[:_MOST_PROPOSALS]):
        canvas.box(box, _colour(index), 2)
    canvas.title(f"{min(len(boxes), _MOST_PROPOSALS)} of {len(boxes)} proposals")
    return canvas.image


def _draw_detections(pixels: NDArray[np.uint8], found: Detections, names: Sequence[str]) -> Image.Image:
    canvas = _Canvas(pixels)
    # A class is drawn at all when its best detection reaches half of the image's.
    best = np.asarray([found.scores[found.class_index == index].max() for index in found.class_index])
    good = (found.scores >= _SHARE_OF_BEST * best) & (best >= _SHARE_OF_BEST * best.max(initial=0))
    shown = [row for row in np.argsort(-found.scores, kind="stable") if good[row]][:_MOST_DETECTIONS]
    for row in reversed(shown):
        index = int(found.class_index[row])
        canvas.box(found.boxes[row], _colour(index), 3, f"{names[index]} {found.scores[row]:.2f}")
    return canvas.image


def _draw_maps(
    pixels: NDArray[np.uint8], maps: ClassMaps, names: Sequence[str], kinds: Sequence[str]
) -> Image.Image:
    tiles = []
    for kind, name in enumerate(KINDS):
        fused = fuse_scales(maps, kind, *maps.image_size) if name in kinds else None
        if fused is None:
            continue
        flat = fused.mean(axis=1) if fused.ndim == 4 else fused
        for index, heat in zip(maps.classes(), flat, strict=True):
            canvas = _Canvas(_overlay(pixels, heat))
            canvas.title(f"{names[index]} ({name})")
            tiles.append(np.asarray(canvas.image))
    return Image.fromarray(np.concatenate(tiles, axis=1)) if tiles else _Canvas(pixels).image


def _overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    from matplotlib import colormaps

    coloured = colormaps["turbo"](np.clip(heat, 0, 1))[..., :3] * 255
    mixed: NDArray[np.uint8] = (0.5 * pixels + 0.5 * coloured).astype(np.uint8)
    return mixed
