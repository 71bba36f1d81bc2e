"""Proposal pickles of detectron2, wetectron, and mmdetection 2 (WSOD2): contents to boxes and back.

| file | image ids | boxes | scores |
| --- | --- | --- | --- |
| detectron2 | `ids`, text or integers | float32, pixel edges (`bbox_mode` 0: xyxy, 1: xywh) | `objectness_logits` [n] |
| wetectron, VOC | `indexes`, integers, in list order | uint16, inclusive pixel indexes | `scores`, ones [n] |
| wetectron, COCO | `indexes`, integers, ascending | uint16 written as float32, inclusive | `scores`, ones [n, 1] |
| mmdetection 2 | none: a bare list, in the order of a list file | float32, inclusive pixel indexes | none |

An inclusive box (x1, y1, x2, y2) holds the pixels x1 to x2: the same box has x2 + 1 as its right pixel edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import (
    FloatArray,
    as_boxes,
    edges_to_inclusive,
    inclusive_to_edges,
    xywh_to_xyxy,
)
from weaksam_cli.data.paths import first_few
from weaksam_cli.data.pickles import Calls, shown
from weaksam_cli.errors import UserError

DETECTRON2_GLOBALS: Final[Calls] = {("detectron2.structures.boxes", "BoxMode"): int}
"""Files often hold detectron2's enumeration itself; its numbers say the same."""

_XYXY, _XYWH = 0, 1
_LOGITS_ARE: Final = "objectness_logits_are"
"""A key of ours that detectron2 does not look at: what the logits mean."""
_PREDICTED_IOU, _ORDER = "predicted_iou", "order"
_UINT16 = np.iinfo(np.uint16)


@dataclass(frozen=True)
class ImageBoxes:
    """Boxes of one image in a file.

    Attributes:
        name: the image's id or key in the file; its position for a bare list.
        boxes: float32 (n, 4), xyxy pixel edges.
        predicted_iou: float32 (n,), NaN where nobody estimated it.
    """

    name: object
    boxes: FloatArray
    predicted_iou: NDArray[np.float32]


def detectron2_content(images: Sequence[ImageBoxes]) -> dict[str, Any]:
    """What `detectron2.data.build.load_proposals_into_dataset` reads.

    detectron2 sorts the boxes of an image by decreasing logit. Logits are the predicted IoUs where all are known, and
    0, -1, -2, ... where they are not, which keeps the order.
    """
    known = all(np.isfinite(image.predicted_iou).all() for image in images)
    return {
        "ids": [image.name for image in images],
        "boxes": [image.boxes.astype(np.float32) for image in images],
        "objectness_logits": [
            (image.predicted_iou if known else -np.arange(len(image.boxes))).astype(np.float32)
            for image in images
        ],
        "bbox_mode": _XYXY,
        _LOGITS_ARE: _PREDICTED_IOU if known else _ORDER,
    }


def wetectron_content(images: Sequence[ImageBoxes], *, coco: bool) -> dict[str, Any]:
    """What wetectron reads: inclusive indexes cut to integers towards zero.

    Args:
        images: named by integers.
        coco: float32 boxes, scores (n, 1), ids ascending; else uint16 boxes, scores (n,), ids in the order given.

    Raises:
        UserError: for a coordinate that 16 bits do not hold: the published code would wrap it around.
    """
    ordered = sorted(images, key=lambda image: _integer_name(image.name)) if coco else images
    boxes = [_as_uint16(image) for image in ordered]
    return {
        "boxes": [item.astype(np.float32) for item in boxes] if coco else boxes,
        "scores": [np.ones((len(item), 1) if coco else len(item), np.float32) for item in boxes],
        "indexes": [_integer_name(image.name) for image in ordered],
    }


def mmdet_content(images: Sequence[ImageBoxes]) -> list[FloatArray]:
    """A list of float32 (n, 4) arrays of inclusive indexes, in the order given."""
    return [edges_to_inclusive(image.boxes).astype(np.float32) for image in images]


def _integer_name(name: object) -> int:
    if not isinstance(name, int):
        raise UserError(
            f"image {shown(name)} has no integer id, and wetectron knows images by integers",
            remedy="Give --labels labels/<split>.json, which has their ids",
        )
    return name


def _as_uint16(image: ImageBoxes) -> NDArray[np.uint16]:
    whole = np.trunc(edges_to_inclusive(image.boxes))
    wrong = np.flatnonzero(((whole < 0) | (whole > _UINT16.max)).any(axis=1))
    if wrong.size:
        box = " ".join(f"{value:g}" for value in whole[wrong[0]])
        raise UserError(
            f"image {image.name!r}: box {int(wrong[0])} ({box}) does not fit into 16 bits and would wrap around",
            remedy="Export to another format",
        )
    return whole.astype(np.uint16)


def read_detectron2(content: Any, *, where: str) -> list[ImageBoxes]:
    """Entries of a detectron2 file, or of a Detectron 1 file (`indexes`, `scores`), as detectron2 reads them.

    Scores of other programs are no estimates of IoU and are not kept; the order of the boxes is.

    Raises:
        UserError: for missing keys, lists of unequal length, arrays of other shapes, an unknown `bbox_mode`, or
            wetectron's arrays: they hold inclusive indexes.
    """
    names, boxes = _columns(content, ("ids", "indexes"), where)
    scores = _column(content, ("objectness_logits", "scores"), len(names), where)
    if "indexes" in content and any(map(_is_wetectron, boxes, scores)):
        raise UserError("is a wetectron file", where=where, remedy="Give --format wetectron")
    mode = content.get("bbox_mode", _XYXY)
    if not isinstance(mode, (int, np.integer)) or mode not in (_XYXY, _XYWH):
        raise UserError(
            f"bbox_mode {shown(mode)} is not read",
            where=where,
            remedy="Allowed: 0 (xyxy, absolute) and 1 (xywh, absolute)",
        )
    estimated = content.get(_LOGITS_ARE) == _PREDICTED_IOU
    entries = []
    for name, raw, logits in zip(names, boxes, scores, strict=True):
        plain = _box_array(raw, name, where)
        values = _scores_array(logits, len(plain), name, where)
        edges = plain if mode == _XYXY else xywh_to_xyxy(plain)
        entries.append(ImageBoxes(name, edges, values if estimated else np.full_like(values, np.nan)))
    return entries


def read_wetectron(content: Any, *, where: str) -> list[ImageBoxes]:
    """Entries of a wetectron file, VOC's uint16 and COCO's float32 alike; its scores say nothing.

    Raises:
        UserError: for missing keys, lists of unequal length, arrays of other shapes, or a detectron2 file, which holds
            pixel edges.
    """
    names, boxes = _columns(content, ("indexes", "ids"), where)
    if "indexes" not in content or "objectness_logits" in content or "bbox_mode" in content:
        raise UserError("is a detectron2 file", where=where, remedy="Give --format detectron2")
    return [_inclusive(raw, name, where) for name, raw in zip(names, boxes, strict=True)]


def read_mmdet(content: Any, names: Sequence[str], *, where: str, order: str) -> list[ImageBoxes]:
    """Entries of a bare list of arrays, named by the list file that it was made from.

    Raises:
        UserError: for something else than a list, a list of another length, or arrays of other shapes.
    """
    if not isinstance(content, list):
        raise UserError(f"expected a list of arrays, got {shown(content)}", where=where, remedy=_OTHERS)
    if len(content) != len(names):
        raise UserError(
            f"holds boxes of {len(content)} images, and {order} names {len(names)}",
            where=where,
            remedy="Give the list that the file was made from with --order",
        )
    return [_inclusive(raw, name, where) for name, raw in zip(names, content, strict=True)]


_OTHERS: Final = "Formats: detectron2, wetectron (dictionaries), mmdet (a list)"


def _inclusive(raw: Any, name: object, where: str) -> ImageBoxes:
    boxes = inclusive_to_edges(_box_array(raw, name, where))
    return ImageBoxes(name, boxes, np.full(len(boxes), np.nan, np.float32))


def _columns(content: Any, id_keys: Sequence[str], where: str) -> tuple[list[Any], list[Any]]:
    if not isinstance(content, dict):
        raise UserError(
            f"expected a dictionary with ids and boxes, got {shown(content)}", where=where, remedy=_OTHERS
        )
    names = _column(content, id_keys, None, where)
    return names, _column(content, ("boxes",), len(names), where)


def _column(content: dict[str, Any], keys: Sequence[str], count: int | None, where: str) -> list[Any]:
    key = next((item for item in keys if item in content), None)
    if key is None:
        raise UserError(
            f"has no {' or '.join(map(repr, keys))}; its keys are {first_few(map(str, content))}",
            where=where,
            remedy=_OTHERS,
        )
    values = content[key]
    if not isinstance(values, (list, tuple)) and not (isinstance(values, np.ndarray) and values.ndim):
        raise UserError(f"{key}: expected a list, got {shown(values)}", where=where)
    if count is not None and len(values) != count:
        raise UserError(f"{key} has {len(values)} entries for {count} images", where=where)
    return list(values)


def _box_array(raw: Any, name: object, where: str) -> FloatArray:
    if not _is_numbers(raw) or not (raw.size == 0 or (raw.ndim == 2 and raw.shape[1] == 4)):
        raise UserError(
            f"image {shown(name)}: expected boxes as an array of numbers (n, 4), got {shown(raw)}",
            where=where,
        )
    with np.errstate(over="ignore"):
        array = raw.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"image {shown(name)}: a box has a coordinate that is no finite float32", where=where)
    return as_boxes(array)


def _scores_array(raw: Any, count: int, name: object, where: str) -> NDArray[np.float32]:
    if not _is_numbers(raw) or raw.size != count:
        raise UserError(
            f"image {shown(name)}: expected {count} scores, one a box, got {shown(raw)}", where=where
        )
    return np.asarray(raw, np.float32).reshape(-1)


def _is_wetectron(boxes: object, scores: object) -> bool:
    unsigned = isinstance(boxes, np.ndarray) and boxes.dtype == np.uint16
    return unsigned or (isinstance(scores, np.ndarray) and scores.ndim == 2)


def _is_numbers(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iuf"
