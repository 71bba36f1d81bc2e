"""Proposal pickles of detectron2, and of Detectron 1, which spells two keys otherwise.

| key | value |
| --- | --- |
| `ids` (`indexes`) | text or integers |
| `boxes` | float32 (n, 4) arrays, pixel edges |
| `objectness_logits` (`scores`) | float32 (n,) arrays |
| `bbox_mode` | 0: xyxy (as without it), 1: xywh |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.core.boxes import FloatArray, as_boxes, xywh_to_xyxy
from weaksam_cli.core.names import first_few
from weaksam_cli.data.labels import Labels
from weaksam_cli.data.pickled_values import Calls, shown
from weaksam_cli.data.pickles import pickle_bytes, read_pickle
from weaksam_cli.errors import UserError
from weaksam_cli.exchange.formats import ImageBoxes, Incoming, Outgoing, Source, Written, incoming_boxes

SCHEMA: Final = PROPOSALS
WRITES: Final = {"detectron2": "pixel edges, float32"}

CALLS: Final[Calls] = {("detectron2.structures.boxes", "BoxMode"): int}
"""Files often hold detectron2's enumeration itself; its numbers say the same."""

OTHER_FORMATS: Final = "Formats: detectron2, wetectron (dictionaries), mmdet (a list)"

_XYXY, _XYWH = 0, 1
_LOGITS_ARE: Final = "objectness_logits_are"
"""A key of ours that detectron2 does not look at: what the logits mean."""
_PREDICTED_IOU, _ORDER = "predicted_iou", "order"


def write(outgoing: Outgoing, name: str) -> Written:
    """A pickle that names images by their keys, or by their integer ids where labels were given."""
    images = outgoing.boxes(by="id" if outgoing.has_labels else "key")
    return Written({"": pickle_bytes(contents(images))}, sum(len(image.boxes) for image in images))


def contents(images: Sequence[ImageBoxes]) -> dict[str, Any]:
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


def read(source: Source, labels: Labels) -> Incoming:
    """The proposals of a file for the images of a split.

    Raises:
        UserError: a file that is refused (`read_pickle`), of another format (`entries`), or of other images.
    """
    found = entries(read_pickle(source.path, calls=CALLS), where=str(source.path))
    return incoming_boxes(found, source, labels)


def entries(content: Any, *, where: str) -> list[ImageBoxes]:
    """Entries of a file's content, as detectron2 reads them.

    Scores of other programs are no estimates of IoU and are not kept; the order of the boxes is.

    Raises:
        UserError: for missing keys, lists of unequal length, arrays of other shapes, an unknown `bbox_mode`, or
            wetectron's arrays: they hold inclusive indexes.
    """
    names, boxes = columns(content, ("ids", "indexes"), where)
    scores = _column(content, ("objectness_logits", "scores"), len(names), where)
    if "indexes" in content and any(map(_is_wetectron, boxes, scores)):
        raise UserError("is a wetectron file", where=where, remedy="Give --format wetectron")
    mode = content.get("bbox_mode", _XYXY)
    if not isinstance(mode, (int, np.integer)) or mode not in (_XYXY, _XYWH):
        remedy = "Allowed: 0 (xyxy, absolute) and 1 (xywh, absolute)"
        raise UserError(f"bbox_mode {shown(mode)} is not read", where=where, remedy=remedy)
    estimated = content.get(_LOGITS_ARE) == _PREDICTED_IOU
    found = []
    for name, raw, logits in zip(names, boxes, scores, strict=True):
        plain = box_array(raw, name, where)
        values = _scores_array(logits, len(plain), name, where)
        edges = plain if mode == _XYXY else xywh_to_xyxy(plain)
        found.append(ImageBoxes(name, edges, values if estimated else np.full_like(values, np.nan)))
    return found


def columns(content: Any, id_keys: Sequence[str], where: str) -> tuple[list[Any], list[Any]]:
    """The ids and the boxes of a dictionary; ids stand under the first of `id_keys` that it has.

    Raises:
        UserError: for something else than a dictionary, missing keys, or lists of unequal length.
    """
    if not isinstance(content, dict):
        what = f"expected a dictionary with ids and boxes, got {shown(content)}"
        raise UserError(what, where=where, remedy=OTHER_FORMATS)
    names = _column(content, id_keys, None, where)
    return names, _column(content, ("boxes",), len(names), where)


def _column(content: Mapping[Any, Any], keys: Sequence[str], count: int | None, where: str) -> list[Any]:
    key = next((item for item in keys if item in content), None)
    if key is None:
        what = f"has no {' or '.join(map(repr, keys))}; its keys are {first_few(map(shown, content))}"
        raise UserError(what, where=where, remedy=OTHER_FORMATS)
    values = content[key]
    if not isinstance(values, (list, tuple)) and not (isinstance(values, np.ndarray) and values.ndim):
        raise UserError(f"{key}: expected a list, got {shown(values)}", where=where)
    if count is not None and len(values) != count:
        raise UserError(f"{key} has {len(values)} entries for {count} images", where=where)
    return list(values)


def box_array(raw: Any, name: object, where: str) -> FloatArray:
    """The boxes of one image as float32 (n, 4), in the numbers of the file.

    Raises:
        UserError: for something else than finite numbers in this shape.
    """
    return as_boxes(number_rows(raw, name, where, (4,)))


def number_rows(raw: Any, name: object, where: str, widths: Sequence[int]) -> FloatArray:
    """The rows of one image as float32, with one of these numbers of columns; of an array, or a list of rows.

    Raises:
        UserError: for something else than finite numbers in this shape.
    """
    array = raw
    with suppress(ValueError, OverflowError):  # rows of unequal lengths stay a list
        array = np.asarray(raw) if isinstance(raw, (list, tuple)) else raw
    if not _is_numbers(array) or not (array.size == 0 or (array.ndim == 2 and array.shape[1] in widths)):
        shapes = " or ".join(f"(n, {width})" for width in widths)
        what = f"image {shown(name)}: expected boxes as an array of numbers {shapes}, got {shown(array)}"
        raise UserError(what, where=where)
    with np.errstate(over="ignore"):
        rows = array.astype(np.float32) if array.size else np.empty((0, widths[0]), np.float32)
    if not np.isfinite(rows).all():
        raise UserError(f"image {shown(name)}: a box has a coordinate that is no finite float32", where=where)
    return rows


def _scores_array(raw: Any, count: int, name: object, where: str) -> NDArray[np.float32]:
    if not _is_numbers(raw) or raw.size != count:
        what = f"image {shown(name)}: expected {count} scores, one a box, got {shown(raw)}"
        raise UserError(what, where=where)
    return np.asarray(raw, np.float32).reshape(-1)


def _is_wetectron(boxes: object, scores: object) -> bool:
    unsigned = isinstance(boxes, np.ndarray) and boxes.dtype == np.uint16
    return unsigned or (isinstance(scores, np.ndarray) and scores.ndim == 2)


def _is_numbers(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iuf"
