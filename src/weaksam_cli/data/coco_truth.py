"""COCO layout: boxes and masks of the annotated objects, for `eval` and `report` alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from weaksam_cli.core.boxes import as_boxes, xywh_to_xyxy
from weaksam_cli.core.types import GroundTruth
from weaksam_cli.data.coco import (
    Annotation,
    FoundImage,
    Recipe,
    by_image,
    class_table,
    coco_roles,
    read_images,
    read_instances,
)
from weaksam_cli.data.dataset import AnnotatedImage, GroundTruthSplit, ImageRecord, Remarks, for_one_split
from weaksam_cli.errors import UserError


class TruthAnnotation(Annotation):
    """An annotation with its box; checked one by one, since a bad one is left out and told."""

    bbox: Any = None
    area: Any = None

    @property
    def title(self) -> str:
        """How it is called in remarks."""
        return f"annotation {'?' if self.id is None else self.id}"


class MaskAnnotation(TruthAnnotation):
    """The same with its mask, which is most of a file and kept only where it is asked for."""

    segmentation: Any = None


def read_coco_truth(
    source: Path, split: str, recipe: Recipe, images: Path | None, *, masks: bool
) -> GroundTruthSplit:
    """Annotated objects of one split; crowds are included and flagged difficult.

    An object whose `bbox` is missing, malformed, not finite or without extent, or lies wholly outside the image, is
    left out and listed as failed; one that stands out by more than a pixel is kept and listed as a warning.

    Args:
        source: as for `coco.read`.
        split: name of the split.
        recipe: as for `coco.read`, so that class tables agree.
        images: as for `coco.read`.
        masks: turn `segmentation` (polygons, or run lengths in either form) into compressed RLE too.

    Raises:
        UserError: as `coco.read`, and when no object of the split has a box.
    """
    path, _ = coco_roles(source, for_one_split(recipe, split))[split]
    file = read_instances(path, MaskAnnotation if masks else TruthAnnotation)
    objects = by_image(_with_boxes(path, file.annotations))
    class_names, category_ids = class_table(path, file, recipe)
    found, remarks = read_images(source, split, path, file, recipe, images)
    annotated = tuple(
        _annotated(image, objects[image[0].image_id], category_ids, masks, remarks) for image in found
    )
    return GroundTruthSplit(split, class_names, category_ids, annotated, *remarks.told(class_names))


def _with_boxes(path: Path, annotations: Sequence[TruthAnnotation] | None) -> Sequence[TruthAnnotation]:
    if annotations is None:
        raise UserError(
            "there are no annotations, so there is no ground truth",
            where=str(path),
            remedy="Evaluate on a split with annotations",
        )
    if annotations and all(item.bbox is None for item in annotations):
        raise UserError(
            "the annotations have no boxes (bbox), so there is no ground truth",
            where=str(path),
            remedy="Evaluate against annotations with boxes; training does not need them",
        )
    return annotations


def _annotated(
    found: FoundImage,
    objects: Sequence[TruthAnnotation],
    category_ids: Sequence[int],
    masks: bool,
    remarks: Remarks,
) -> AnnotatedImage:
    image, declared = found
    kept = [(item, box) for item in objects if (box := _box(item, image, remarks)) is not None]
    truth = GroundTruth(
        boxes=xywh_to_xyxy(as_boxes([box for _, box in kept])),
        class_index=np.asarray([category_ids.index(item.category_id) for item, _ in kept], dtype=np.int32),
        difficult=np.asarray([item.iscrowd for item, _ in kept], dtype=bool),
    )
    return AnnotatedImage(
        image.key,
        image.height,
        image.width,
        truth,
        np.asarray([_area(item.area, box) for item, box in kept], dtype=np.float32),
        tuple(_mask(item, image, declared, remarks) for item, _ in kept if isinstance(item, MaskAnnotation))
        if masks
        else None,
        image.image_id,
    )


def _box(item: TruthAnnotation, image: ImageRecord, remarks: Remarks) -> list[float] | None:
    """The `bbox` (left, top, width, height) as floats, or None after noting why not."""
    key, value = image.key, item.bbox
    if not (isinstance(value, list) and len(value) == 4 and all(_is_number(number) for number in value)):
        remarks.fail(key, f"{item.title}: expected a bbox of four finite numbers, got {str(value)[:60]}")
        return None
    left, top, width, height = (float(number) for number in value)
    edges = (left, top, left + width, top + height)
    name, size = f"{item.title}: the bbox {value}", (image.height, image.width)
    return [left, top, width, height] if remarks.box_is_inside(key, name, edges, size) else None


def _is_number(value: object) -> TypeGuard[float]:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 1e9
        and math.isfinite(value)
    )


def _area(value: object, box: Sequence[float]) -> float:
    return float(value) if _is_number(value) and value > 0 else box[2] * box[3]


def _mask(
    item: MaskAnnotation, image: ImageRecord, declared: tuple[int, int] | None, remarks: Remarks
) -> bytes | None:
    """Compressed RLE of `segmentation`, or None after noting why not."""
    from pycocotools import mask as coco_mask

    key, height, width = image.key, image.height, image.width
    if not item.segmentation:
        remarks.warn(key, f"{item.title}: no segmentation")
        return None
    if declared not in (None, (height, width)):
        reason = "the mask is not used, because the file's size is not the one it was drawn on"
        remarks.fail(key, f"{item.title}: {reason}")
        return None
    try:
        if isinstance(item.segmentation, list):
            polygons = coco_mask.frPyObjects(_polygons(item.segmentation), height, width)
            return bytes(coco_mask.merge(polygons)["counts"])
        if list(item.segmentation["size"]) != [height, width]:
            raise ValueError(f"run lengths of size {item.segmentation['size']}, image of {[height, width]}")
        return _run_lengths(item.segmentation["counts"], height, width)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        remarks.fail(key, f"{item.title}: unusable segmentation ({error})")
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
