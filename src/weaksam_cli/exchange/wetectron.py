"""Proposal pickles of wetectron (MIST's code), for VOC and for COCO.

| | image ids | boxes | scores |
| --- | --- | --- | --- |
| VOC | `indexes`, integers, in list order | uint16, inclusive pixel indexes | `scores`, ones (n,) |
| COCO | `indexes`, integers, ascending | uint16 written as float32, inclusive | `scores`, ones (n, 1) |

An inclusive box (x1, y1, x2, y2) holds the pixels x1 to x2: the same box has x2 + 1 as its right pixel edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.core.boxes import edges_to_inclusive, inclusive_to_edges
from weaksam_cli.data.labels import Labels
from weaksam_cli.data.pickles import pickle_bytes, read_pickle
from weaksam_cli.errors import UserError
from weaksam_cli.exchange.detectron2 import CALLS, box_array, columns
from weaksam_cli.exchange.formats import ImageBoxes, Incoming, Outgoing, Source, Written, incoming_boxes

SCHEMA: Final = PROPOSALS
_COCO: Final = "wetectron-coco"
WRITES: Final = {
    "wetectron-voc": "inclusive pixel indexes, uint16",
    _COCO: "inclusive pixel indexes, whole numbers as float32",
}
_UINT16 = np.iinfo(np.uint16)


def write(outgoing: Outgoing, name: str) -> Written:
    """A pickle that names images by their integer ids.

    Raises:
        UserError: an image without an id, an order for COCO's file, or a box that 16 bits do not hold.
    """
    if name == _COCO and outgoing.order is not None:
        what = "wetectron's COCO files are in the order of the ids"
        raise UserError(what, where="--order", remedy="Leave it away")
    images = outgoing.boxes(by="id")
    cut = sum(int((image.boxes != np.trunc(image.boxes)).any(axis=1).sum()) for image in images)
    remarks = [f"{cut} boxes had fractions of pixels and were cut to whole ones"] if cut else []
    data = pickle_bytes(contents(images, coco=name == _COCO))
    return Written({"": data}, sum(len(image.boxes) for image in images), remarks)


def contents(images: Sequence[ImageBoxes], *, coco: bool) -> dict[str, Any]:
    """What wetectron reads: inclusive indexes cut to integers towards zero.

    Args:
        images: named by integers.
        coco: float32 boxes, scores (n, 1), ids ascending; else uint16 boxes, scores (n,), ids in the order given.

    Raises:
        UserError: for a coordinate that 16 bits do not hold: the published code would wrap it around.
    """
    ordered = sorted(images, key=lambda image: int(str(image.name))) if coco else images
    boxes = [_as_uint16(image) for image in ordered]
    return {
        "boxes": [item.astype(np.float32) for item in boxes] if coco else boxes,
        "scores": [np.ones((len(item), 1) if coco else len(item), np.float32) for item in boxes],
        "indexes": [image.name for image in ordered],
    }


def _as_uint16(image: ImageBoxes) -> NDArray[np.uint16]:
    whole = np.trunc(edges_to_inclusive(image.boxes))
    wrong = np.flatnonzero(((whole < 0) | (whole > _UINT16.max)).any(axis=1))
    if wrong.size:
        box = " ".join(f"{value:g}" for value in whole[wrong[0]])
        what = f"image {image.name!r}: box {int(wrong[0])} ({box}) does not fit into 16 bits and would wrap around"
        raise UserError(what, remedy="Export to another format")
    return whole.astype(np.uint16)


def read(source: Source, labels: Labels) -> Incoming:
    """The proposals of a file, of VOC or of COCO, for the images of a split.

    Raises:
        UserError: a file that is refused (`read_pickle`), of another format (`entries`), or of other images.
    """
    found = entries(read_pickle(source.path, calls=CALLS), where=str(source.path))
    return incoming_boxes(found, source, labels)


def entries(content: Any, *, where: str) -> list[ImageBoxes]:
    """Entries of a file's content; its scores say nothing.

    Raises:
        UserError: for missing keys, lists of unequal length, arrays of other shapes, or a detectron2 file, which holds
            pixel edges.
    """
    names, boxes = columns(content, ("indexes", "ids"), where)
    if "indexes" not in content or "objectness_logits" in content or "bbox_mode" in content:
        raise UserError("is a detectron2 file", where=where, remedy="Give --format detectron2")
    return [inclusive(raw, name, where) for name, raw in zip(names, boxes, strict=True)]


def inclusive(raw: Any, name: object, where: str) -> ImageBoxes:
    """The boxes of one image from inclusive pixel indexes.

    Raises:
        UserError: see `detectron2.box_array`.
    """
    boxes = inclusive_to_edges(box_array(raw, name, where))
    return ImageBoxes(name, boxes, np.full(len(boxes), np.nan, np.float32))
