"""`weaksam inspect FILE --image ID --draw OUT.png`: an image with what an artifact says about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps, cam_schema, fuse_scales, read_class_maps
from weaksam_cli.artifacts.points import POINTS, read_points
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.core.types import Detections, Points
from weaksam_cli.data.detections import read_detections
from weaksam_cli.data.images import SUFFIXES, read_image
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.data.source import SOURCE_FILE, image_root, read_source
from weaksam_cli.errors import UserError

_COLOURS = (
    "#e6194b",
    "#3cb44b",
    "#ffe119",
    "#4363d8",
    "#f58231",
    "#42d4f4",
    "#f032e6",
    "#bfef45",
    "#fabed4",
    "#dcbeff",
)
_MOST_PROPOSALS = 25
_MOST_DETECTIONS = 12
_SHARE_OF_BEST = 0.5
"""Detections are drawn down to this share of the best score of their class in the image."""
_SHORTEST_SIDE = 320


def draw_artifact(
    path: Path, image_id: str, output: Path, *, kinds: Sequence[str] = KINDS, images: Path | None = None
) -> None:
    """Write a PNG of one image of an artifact; `kinds` of maps and points are drawn.

    The image is looked for in the folder `images`, else where the receipt says that the images lay, else by the labels
    of the run directory around the file.

    Raises:
        UserError: the image is not found, or the image is not in the artifact.
    """
    root = images or _noted_root(path)
    if path.suffix == ".h5" and root is not None:
        canvas = _draw_hdf5(path, image_id, read_image(_find_image(root, image_id, path)), kinds)
    else:
        canvas = _draw_in_run(path, image_id, kinds)
    try:
        canvas.save(output)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot be written: {error}", where=str(output), remedy="Give a path ending in .png"
        ) from error


def _draw_in_run(path: Path, image_id: str, kinds: Sequence[str]) -> Image.Image:
    labels = _labels_of(path)
    image = labels.by_key().get(image_id)
    if image is None:
        raise UserError(f"there is no image {image_id!r} in {labels.path.name}", where=str(path))
    pixels = labels.read_image(image)
    if path.suffix == ".h5":
        return _draw_hdf5(path, image_id, pixels, kinds)
    detections = read_detections(path, labels).get(image_id, Detections.empty())
    return _draw_detections(pixels, detections, labels.class_names)


def _noted_root(path: Path) -> Path | None:
    """The folder of images in the receipt of an artifact that belongs to no dataset."""
    record = read_receipt(path)
    noted = record.identity.inputs.get("images") if record else None
    return None if noted is None else path.parent / noted.path


def _find_image(root: Path, image_id: str, path: Path) -> Path:
    """The image of a key, with its suffix added where the key has none."""
    for suffix in ("", *SUFFIXES):
        if (root / f"{image_id}{suffix}").is_file():
            return root / f"{image_id}{suffix}"
    raise UserError(
        f"the image {image_id!r} is not in {root}",
        where=str(path),
        remedy="Name the folder of the images with --images",
    )


def _labels_of(path: Path) -> Labels:
    for folder in path.absolute().parents:
        if (folder / SOURCE_FILE).is_file():
            source = read_source(folder)
            split = path.stem
            if split in source.splits:
                return read_labels(folder / "labels" / f"{split}.json", image_root(folder, source))
    raise UserError(
        "no run directory with this split around the file, so its images cannot be found",
        where=str(path),
        remedy="Draw files where they lie, runs/<dataset>/<stage>/<split>.*, or name the images' folder with --images",
    )


def _draw_hdf5(path: Path, image_id: str, pixels: NDArray[np.uint8], kinds: Sequence[str]) -> Image.Image:
    with open_artifact(path) as artifact:
        kind = artifact.format_name
        if kind == POINTS.name:
            found = {
                kind: points for kind, points in read_points(artifact, image_id).items() if kind in kinds
            }
            return _draw_points(pixels, found, artifact.table("class_names"))
        if kind == PROPOSALS.name:
            return _draw_proposals(pixels, artifact.rows(image_id, "boxes").astype(np.float32))
        if kind == cam_schema(0).name:
            return _draw_maps(
                pixels, read_class_maps(artifact, image_id), artifact.table("class_names"), kinds
            )
    raise UserError(f"{kind} cannot be drawn", where=str(path))


def _enlarged(pixels: NDArray[np.uint8]) -> tuple[Image.Image, float]:
    factor = max(1.0, _SHORTEST_SIDE / min(pixels.shape[:2]))
    size = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS), factor


def _draw_points(pixels: NDArray[np.uint8], points: dict[str, Points], names: Sequence[str]) -> Image.Image:
    canvas, factor = _enlarged(pixels)
    pen = ImageDraw.Draw(canvas)
    for kind, found in points.items():
        for (x, y), index in zip(found.xy.tolist(), found.class_index.tolist(), strict=True):
            centre = (x + 0.5) * factor, (y + 0.5) * factor
            colour = _COLOURS[index % len(_COLOURS)]
            pen.circle(centre, 6, outline="black", fill=colour, width=1)
            name = names[index] if index >= 0 else "-"
            _text(pen, (centre[0] + 8, centre[1] - 6), f"{name} ({kind})", colour)
    return canvas


def _draw_proposals(pixels: NDArray[np.uint8], boxes: NDArray[np.float32]) -> Image.Image:
    canvas, factor = _enlarged(pixels)
    pen = ImageDraw.Draw(canvas)
    for index, box in enumerate(boxes[:_MOST_PROPOSALS]):
        pen.rectangle(
            [float(value) * factor for value in box], outline=_COLOURS[index % len(_COLOURS)], width=2
        )
    _text(pen, (4, 4), f"{min(len(boxes), _MOST_PROPOSALS)} of {len(boxes)} proposals", "white")
    return canvas


def _draw_detections(pixels: NDArray[np.uint8], found: Detections, names: Sequence[str]) -> Image.Image:
    canvas, factor = _enlarged(pixels)
    pen = ImageDraw.Draw(canvas)
    order = np.argsort(-found.scores, kind="stable")
    best = {
        index: found.scores[found.class_index == index].max() for index in set(found.class_index.tolist())
    }
    good = [
        row for row in order.tolist() if found.scores[row] >= _least_score(best, int(found.class_index[row]))
    ]
    shown = good[:_MOST_DETECTIONS]
    for row in reversed(shown):
        colour = _COLOURS[int(found.class_index[row]) % len(_COLOURS)]
        box = [float(value) * factor for value in found.boxes[row]]
        pen.rectangle(box, outline=colour, width=3)
        _text(
            pen,
            (box[0] + 4, box[1] + 3),
            f"{names[int(found.class_index[row])]} {found.scores[row]:.2f}",
            colour,
        )
    return canvas


def _least_score(best: Mapping[int, float], index: int) -> float:
    """A class is drawn at all when its best detection reaches half of the image's."""
    top = max(best.values())
    return float(best[index] if best[index] >= _SHARE_OF_BEST * top else np.inf) * _SHARE_OF_BEST


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
            canvas, _ = _enlarged(_overlay(pixels, heat))
            _text(ImageDraw.Draw(canvas), (4, 4), f"{names[index]} ({name})", "white")
            tiles.append(canvas)
    return _beside(tiles or [_enlarged(pixels)[0]])


def _overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    from matplotlib import colormaps

    coloured = colormaps["turbo"](np.clip(heat, 0, 1))[..., :3] * 255
    mixed: NDArray[np.uint8] = (0.5 * pixels + 0.5 * coloured).astype(np.uint8)
    return mixed


def _beside(tiles: Sequence[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (sum(tile.width for tile in tiles), max(tile.height for tile in tiles)))
    left = 0
    for tile in tiles:
        sheet.paste(tile, (left, 0))
        left += tile.width
    return sheet


def _text(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: str) -> None:
    pen.text(place, text, fill=colour, stroke_width=2, stroke_fill="black", font_size=17)
