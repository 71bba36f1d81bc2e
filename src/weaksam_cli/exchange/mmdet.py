"""Proposal pickles of mmdetection 2 (WSOD2): a bare list of float32 (n, 4) arrays of inclusive pixel indexes.

The images are those of a list file, in its order. Inclusive boxes: see `wetectron`. mmdetection reads and writes more,
which is read here as well: a fifth column of scores, results with an array for each class, and dictionaries by the image's
file name. Scores are dropped, as they are no estimates of IoU; they decide the order only where classes are joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.core.boxes import FloatArray, edges_to_inclusive
from weaksam_cli.data.image_names import first_names, read_order
from weaksam_cli.data.labels import Labels
from weaksam_cli.data.pickled_values import shown
from weaksam_cli.data.pickles import pickle_bytes, read_pickle
from weaksam_cli.errors import UserError
from weaksam_cli.exchange.detectron2 import OTHER_FORMATS, number_rows
from weaksam_cli.exchange.formats import ImageBoxes, Incoming, Outgoing, Source, Written, incoming_boxes
from weaksam_cli.exchange.wetectron import inclusive

SCHEMA: Final = PROPOSALS
WRITES: Final = {"mmdet": "inclusive pixel indexes, float32"}
TAKES: Final = frozenset({"order"})
_BOXES_DEPTH: Final = 2
_WIDTHS: Final = (4, 5)


def write(outgoing: Outgoing, name: str) -> Written:
    """A pickle in the order of a list, or of the artifact.

    Raises:
        UserError: images failed and there is no list.
    """
    if outgoing.order is None and outgoing.empty:
        raise UserError(
            f"{len(outgoing.empty)} images failed ({first_names(outgoing.empty)}), and mmdet's bare list has to "
            "hold an entry for each",
            where=str(outgoing.artifact.path),
            remedy="Give the list of images with --order",
        )
    arrays = contents(outgoing.boxes(by="key"))
    return Written({"": pickle_bytes(arrays)}, sum(map(len, arrays)))


def contents(images: Sequence[ImageBoxes]) -> list[FloatArray]:
    """A list of float32 (n, 4) arrays of inclusive indexes, in the order given."""
    return [edges_to_inclusive(image.boxes).astype(np.float32) for image in images]


def read(source: Source, labels: Labels) -> Incoming:
    """The proposals of a file for the images of a split.

    Raises:
        UserError: no list, a file that is refused (`read_pickle`), of another format (`entries`), or of other images.
    """
    content, names = read_pickle(source.path), None if source.order is None else read_order(source.order)
    return incoming_boxes(entries(content, names, where=str(source.path)), source, labels)


def entries(content: Any, names: Sequence[str] | None, *, where: str) -> list[ImageBoxes]:
    """Entries of a file's content, named by themselves in a dictionary, and else by the list that the file was made from.

    Raises:
        UserError: for something else than a list or a dictionary of boxes, a list of another length, or without a list of
            names.
    """
    if isinstance(content, dict) and "boxes" in content:
        raise UserError("is a file of detectron2 or wetectron", where=where, remedy=OTHER_FORMATS)
    if isinstance(content, dict):
        return [_entry(raw, name, where) for name, raw in content.items()]
    is_array = isinstance(content, np.ndarray) and content.ndim == _BOXES_DEPTH + 1
    if not is_array and not isinstance(content, (list, tuple)):
        what = f"expected a list of arrays, or a dictionary of them, got {shown(content)}"
        raise UserError(what, where=where, remedy=OTHER_FORMATS)
    if names is None:
        raise UserError(
            "an mmdet file is a bare list: which images is it of?",
            where="--order",
            remedy="Give the list of images that it was made from: --order trainval.txt",
        )
    if len(content) != len(names):
        raise UserError(
            f"holds boxes of {len(content)} images, and the list names {len(names)}",
            where=where,
            remedy="Give the list that the file was made from with --order",
        )
    return [_entry(raw, name, where) for name, raw in zip(names, content, strict=True)]


def _entry(raw: Any, name: object, where: str) -> ImageBoxes:
    if _depth(raw) <= _BOXES_DEPTH:
        return inclusive(number_rows(raw, name, where, _WIDTHS)[:, :4], name, where)
    parts = [number_rows(part, name, where, _WIDTHS) for part in raw]
    boxes = np.concatenate([part[:, :4] for part in parts])
    scores = np.concatenate([part[:, 4] if part.shape[1] > 4 else np.zeros(len(part)) for part in parts])
    return inclusive(boxes[np.argsort(-scores, kind="stable")], name, where)


def _depth(value: Any) -> int:
    if isinstance(value, (list, tuple)):
        return 1 + max(map(_depth, value), default=0)
    return value.ndim if isinstance(value, np.ndarray) else 0
