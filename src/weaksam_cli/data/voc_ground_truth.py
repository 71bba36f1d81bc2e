"""VOC layout: boxes and masks of the annotated objects, for `eval` and `report` alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weaksam_cli.core import masks as mask_codec
from weaksam_cli.core.boxes import area, as_boxes, voc_to_edges
from weaksam_cli.core.types import GroundTruth
from weaksam_cli.data.paths import role_of
from weaksam_cli.data.types import (
    AnnotatedImage,
    GroundTruthSplit,
    ReadOptions,
    Remarks,
    similar_spellings,
)
from weaksam_cli.data.voc import VocImage, read_images, voc_classes, voc_roles
from weaksam_cli.data.voc_layout import open_voc
from weaksam_cli.data.voc_xml import VocObject, text_of
from weaksam_cli.errors import UserError

MASKS = "SegmentationObject"


def read_voc_ground_truth(
    source: Path, split: str, options: ReadOptions, *, masks: bool = False
) -> GroundTruthSplit:
    """Annotated objects of one split, difficult ones included and flagged.

    Coordinates are 1-based pixels with both ends inside and may be fractions. An object whose box is missing, not
    finite or without extent, or lies wholly outside the image, is left out and listed as failed; one that stands out
    of the image by more than a pixel is kept as written and listed as a warning.

    Args:
        source: as for `read_voc`.
        split: name of the split.
        options: as for `read_voc`, so that class tables agree.
        masks: read `SegmentationObject/<id>.png` too, where value k is the k-th object of the XML and 255 is border.

    Raises:
        UserError: as `read_voc`, and when no object of the split has a box.
    """
    folder = open_voc(source, year=options.year, task=options.task)
    roles = dict(voc_roles(folder, options))
    wanted = {split: roles.get(split, role_of(split))}
    entries, remarks = read_images(folder, split, wanted[split], options.max_pixels)
    class_names = voc_classes(folder, options, {split: entries})
    _require_boxes(entries, split, folder.root)
    images: list[AnnotatedImage] = []
    for entry in entries:
        if entry.annotation is None:
            remarks.fail(entry.key, "no annotation file, so no ground truth")
            continue
        images.append(_annotated(entry, class_names, folder.root / MASKS if masks else None, remarks))
    return GroundTruthSplit(
        name=split,
        class_names=class_names,
        category_ids=tuple(range(1, len(class_names) + 1)),
        images=tuple(images),
        failed=tuple(remarks.failed),
        warnings=(*similar_spellings(class_names), *remarks.warnings),
    )


def outside(box: Sequence[float], height: int, width: int) -> str | None:
    """How a box lies to an image: "wholly", "partly" (by more than a pixel) or None; xyxy pixel edges."""
    left, top, right, bottom = box
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return "wholly"
    return "partly" if min(left, top) < -1 or right > width + 1 or bottom > height + 1 else None


def _require_boxes(entries: Sequence[VocImage], split: str, root: Path) -> None:
    objects = [item for entry in entries if entry.annotation for item in entry.annotation.objects]
    if objects and all(item.element.find("bndbox") is None for item in objects):
        raise UserError(
            f"the annotations of {split} have no boxes (<bndbox>), so there is no ground truth",
            where=str(root),
            remedy="Evaluate against annotations with boxes; training does not need them",
        )


def _annotated(
    entry: VocImage, class_names: Sequence[str], mask_folder: Path | None, remarks: Remarks
) -> AnnotatedImage:
    objects = entry.annotation.objects if entry.annotation else ()
    kept: list[int] = []
    boxes: list[tuple[float, float, float, float]] = []
    for index, item in enumerate(objects):
        box = _box(item, f"object {index + 1} ({item.name})", entry, remarks)
        if box is not None:
            kept.append(index)
            boxes.append(box)
    array = as_boxes(boxes)
    truth = GroundTruth(
        boxes=array,
        class_index=np.asarray([class_names.index(objects[index].name) for index in kept], dtype=np.int32),
        difficult=np.asarray([objects[index].difficult for index in kept], dtype=bool),
    )
    areas: NDArray[np.float32] = area(array)
    counts: tuple[bytes | None, ...] | None = None
    if mask_folder is not None:
        counts, mask_areas = _masks(mask_folder / f"{entry.key}.png", entry, kept, remarks)
        areas = np.where(mask_areas > 0, mask_areas, areas).astype(np.float32)
    return AnnotatedImage(entry.key, entry.height, entry.width, truth, areas, counts)


def _box(
    item: VocObject, name: str, entry: VocImage, remarks: Remarks
) -> tuple[float, float, float, float] | None:
    element = item.element.find("bndbox")
    if element is None:
        remarks.fail(entry.key, f"{name} has no <bndbox>")
        return None
    texts = [text_of(element, tag) for tag in ("xmin", "ymin", "xmax", "ymax")]
    try:
        corners = [float(text) for text in texts]
    except ValueError:
        remarks.fail(entry.key, f"{name}: a coordinate is no number in {texts}")
        return None
    if not all(math.isfinite(value) and abs(value) < 1e9 for value in corners):
        remarks.fail(entry.key, f"{name}: a coordinate is not finite in {texts}")
        return None
    left, top, right, bottom = (float(value) for value in voc_to_edges(as_boxes([corners]))[0])
    if right <= left or bottom <= top:
        remarks.fail(entry.key, f"{name}: the box {texts} has no extent")
        return None
    place = outside((left, top, right, bottom), entry.height, entry.width)
    if place == "wholly":
        remarks.fail(entry.key, f"{name}: the box {texts} lies outside the image")
        return None
    if place == "partly":
        remarks.warn(entry.key, f"{name}: the box {texts} stands out of the image")
    return left, top, right, bottom


def _masks(
    path: Path, entry: VocImage, kept: Sequence[int], remarks: Remarks
) -> tuple[tuple[bytes | None, ...], NDArray[np.float32]]:
    """RLE and area per kept object; None and 0 where the image has no mask file or the object no pixel."""
    values = _mask_values(path, entry, remarks)
    if values is None:
        return (None,) * len(kept), np.zeros(len(kept), dtype=np.float32)
    dense = (
        np.stack([values == index + 1 for index in kept])
        if kept
        else np.zeros((0, *values.shape), dtype=bool)
    )
    areas = dense.sum(axis=(1, 2)).astype(np.float32)
    encoded = mask_codec.encode(dense)
    return tuple(rle if size > 0 else None for rle, size in zip(encoded, areas, strict=True)), areas


def _mask_values(path: Path, entry: VocImage, remarks: Remarks) -> NDArray[np.uint8] | None:
    if not path.is_file():
        remarks.fail(entry.key, f"no mask file {MASKS}/{path.name}")
        return None
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("P", "L") or image.size != (entry.width, entry.height):
                remarks.fail(
                    entry.key,
                    f"{MASKS}/{path.name}: expected a palette or grey PNG of {entry.width} x {entry.height} pixels, "
                    f"got {image.mode} of {image.size[0]} x {image.size[1]}",
                )
                return None
            return np.asarray(image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        remarks.fail(entry.key, f"{MASKS}/{path.name} cannot be read ({error})")
        return None
