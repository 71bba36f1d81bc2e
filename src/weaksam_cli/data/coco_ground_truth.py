"""COCO layout: boxes and masks of the annotated objects, for `eval` and `report` alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from weaksam_cli.core.boxes import as_boxes, xywh_to_xyxy
from weaksam_cli.core.types import GroundTruth
from weaksam_cli.data.coco import CocoEntry, class_table, read_images
from weaksam_cli.data.coco_json import CocoAnnotation, CocoFile, coco_roles, read_coco_file
from weaksam_cli.data.paths import role_of
from weaksam_cli.data.types import (
    AnnotatedImage,
    GroundTruthSplit,
    ReadOptions,
    Remarks,
    similar_spellings,
)
from weaksam_cli.data.voc_ground_truth import outside
from weaksam_cli.errors import UserError


def read_coco_ground_truth(
    source: Path, split: str, options: ReadOptions, *, masks: bool = False
) -> GroundTruthSplit:
    """Annotated objects of one split; crowds are included and flagged difficult.

    An object whose `bbox` is missing, malformed, not finite or without extent, or lies wholly outside the image, is
    left out and listed as failed; one that stands out by more than a pixel is kept and listed as a warning.

    Args:
        source: as for `read_coco`.
        split: name of the split.
        options: as for `read_coco`, so that class tables agree.
        masks: turn `segmentation` (polygons, or run lengths in either form) into compressed RLE too.

    Raises:
        UserError: as `read_coco`, and when no object of the split has a box.
    """
    chosen = options.splits or {}
    roles = coco_roles(source, ReadOptions(splits={split: chosen.get(split, role_of(split))}))
    path, _ = roles[split]
    file = read_coco_file(path)
    _require_boxes(file)
    class_names, category_ids = class_table(file, options)
    entries, remarks = read_images(source, split, file, options)
    images = tuple(
        _annotated(
            image, (file.annotations or {}).get(image.entry.image_id, ()), category_ids, masks, remarks
        )
        for image in entries
    )
    return GroundTruthSplit(
        name=split,
        class_names=class_names,
        category_ids=category_ids,
        images=images,
        failed=tuple(remarks.failed),
        warnings=(*similar_spellings(class_names), *remarks.warnings),
    )


def _require_boxes(file: CocoFile) -> None:
    if file.annotations is None:
        raise UserError(
            "there are no annotations, so there is no ground truth",
            where=str(file.path),
            remedy="Evaluate on a split with annotations",
        )
    objects = [item for items in file.annotations.values() for item in items]
    if objects and all(item.raw.get("bbox") is None for item in objects):
        raise UserError(
            "the annotations have no boxes (bbox), so there is no ground truth",
            where=str(file.path),
            remedy="Evaluate against annotations with boxes; training does not need them",
        )


def _annotated(
    image: CocoEntry,
    objects: Sequence[CocoAnnotation],
    category_ids: Sequence[int],
    masks: bool,
    remarks: Remarks,
) -> AnnotatedImage:
    key = image.entry.file_name
    kept: list[CocoAnnotation] = []
    boxes: list[list[float]] = []
    for item in objects:
        name = f"annotation {item.raw.get('id', '?')}"
        box = _box(item.raw.get("bbox"), name, image, remarks)
        if box is not None:
            kept.append(item)
            boxes.append(box)
    truth = GroundTruth(
        boxes=xywh_to_xyxy(as_boxes(boxes)),
        class_index=np.asarray([category_ids.index(item.category_id) for item in kept], dtype=np.int32),
        difficult=np.asarray([item.crowd for item in kept], dtype=bool),
    )
    areas = [_area(item.raw, box) for item, box in zip(kept, boxes, strict=True)]
    return AnnotatedImage(
        key=key,
        height=image.height,
        width=image.width,
        objects=truth,
        areas=np.asarray(areas, dtype=np.float32),
        masks=tuple(_mask(item.raw, image, remarks) for item in kept) if masks else None,
        image_id=image.entry.image_id,
    )


def _box(value: Any, name: str, image: CocoEntry, remarks: Remarks) -> list[float] | None:
    """The `bbox` (left, top, width, height) as floats, or None after noting why not."""
    key = image.entry.file_name
    if not (isinstance(value, list) and len(value) == 4 and all(_is_number(number) for number in value)):
        remarks.fail(key, f"{name}: expected a bbox of four finite numbers, got {str(value)[:60]}")
        return None
    left, top, width, height = (float(number) for number in value)
    if width <= 0 or height <= 0:
        remarks.fail(key, f"{name}: the bbox {value} has no extent")
        return None
    place = outside((left, top, left + width, top + height), image.height, image.width)
    if place == "wholly":
        remarks.fail(key, f"{name}: the bbox {value} lies outside the image")
        return None
    if place == "partly":
        remarks.warn(key, f"{name}: the bbox {value} stands out of the image")
    return [left, top, width, height]


def _is_number(value: object) -> TypeGuard[float]:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 1e9
        and math.isfinite(value)
    )


def _area(raw: Mapping[str, Any], box: Sequence[float]) -> float:
    value = raw.get("area")
    return float(value) if _is_number(value) and value > 0 else box[2] * box[3]


def _mask(raw: Mapping[str, Any], image: CocoEntry, remarks: Remarks) -> bytes | None:
    """Compressed RLE of `segmentation`, or None after noting why not."""
    from pycocotools import mask as coco_mask

    key, name = image.entry.file_name, f"annotation {raw.get('id', '?')}"
    height, width = image.height, image.width
    segmentation = raw.get("segmentation")
    if not segmentation:
        remarks.warn(key, f"{name}: no segmentation")
        return None
    if image.entry.size not in (None, (height, width)):
        remarks.fail(
            key, f"{name}: the mask is not used, because the file's size is not the one it was drawn on"
        )
        return None
    try:
        if isinstance(segmentation, list):
            return bytes(
                coco_mask.merge(coco_mask.frPyObjects(_polygons(segmentation), height, width))["counts"]
            )
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"run lengths of size {segmentation['size']}, image of {[height, width]}")
        return _run_lengths(segmentation["counts"], height, width)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        remarks.fail(key, f"{name}: unusable segmentation ({error})")
        return None


def _polygons(segmentation: list[Any]) -> list[list[float]]:
    for polygon in segmentation:
        if not (isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0):
            raise ValueError("a polygon needs at least three points of two numbers")
        if not all(_is_number(number) for number in polygon):
            raise ValueError("a polygon has a coordinate that is no finite number")
    return segmentation


def _run_lengths(counts: Any, height: int, width: int) -> bytes:
    """Compressed run lengths that are known to cover exactly the image; the C decoder trusts its input."""
    from pycocotools import mask as coco_mask

    runs = _decompress(counts) if isinstance(counts, str) else counts
    fits = isinstance(runs, list) and all(isinstance(run, int) and run >= 0 for run in runs)
    if not fits or sum(runs) != height * width:
        raise ValueError("the run lengths do not cover the image")
    return bytes(coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"])


def _decompress(text: str) -> list[int]:
    """COCO's compressed string to run lengths: 5 bits per character, from the third on as differences."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("the compressed run lengths are damaged")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError("the compressed run lengths are cut short")
    return runs
