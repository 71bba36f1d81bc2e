"""Proposal pickles of mmdetection 2 (WSOD2): a bare list of float32 (n, 4) arrays of inclusive pixel indexes.

The images are those of a list file, in its order. Inclusive boxes: see `wetectron`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.core.boxes import FloatArray, edges_to_inclusive
from weaksam_cli.data.image_names import first_names, read_order
from weaksam_cli.data.labels import Labels
from weaksam_cli.data.pickles import pickle_bytes, read_pickle, shown
from weaksam_cli.errors import UserError
from weaksam_cli.exchange.detectron2 import OTHER_FORMATS
from weaksam_cli.exchange.formats import ImageBoxes, Incoming, Outgoing, Source, Written, incoming_boxes
from weaksam_cli.exchange.wetectron import inclusive

SCHEMA: Final = PROPOSALS
WRITES: Final = {"mmdet": "inclusive pixel indexes, float32"}
TAKES: Final = frozenset({"order"})


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
    if source.order is None:
        raise UserError(
            "an mmdet file is a bare list: which images is it of?",
            where="--order",
            remedy="Give the list of images that it was made from: --order trainval.txt",
        )
    names = read_order(source.order)
    found = entries(read_pickle(source.path), names, where=str(source.path), order=str(source.order))
    return incoming_boxes(found, source, labels)


def entries(content: Any, names: Sequence[str], *, where: str, order: str) -> list[ImageBoxes]:
    """Entries of a file's content, named by the list file that it was made from.

    Raises:
        UserError: for something else than a list, a list of another length, or arrays of other shapes.
    """
    if not isinstance(content, list):
        raise UserError(f"expected a list of arrays, got {shown(content)}", where=where, remedy=OTHER_FORMATS)
    if len(content) != len(names):
        raise UserError(
            f"holds boxes of {len(content)} images, and {order} names {len(names)}",
            where=where,
            remedy="Give the list that the file was made from with --order",
        )
    return [inclusive(raw, name, where) for name, raw in zip(names, content, strict=True)]
