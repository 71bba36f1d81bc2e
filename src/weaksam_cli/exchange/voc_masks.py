"""Instance masks as VOC has them: of an image a PNG of objects and a PNG of classes, in VOC's colours.

A pixel belongs to one object alone. Where masks overlap it is that of the surer one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weaksam_cli.core.masks import decode
from weaksam_cli.data.voc.png import voc_palette
from weaksam_cli.exchange.annotated import AnnotatedImage

MOST: Final = 254
"""Objects of an image, and classes: 0 is the background, 255 a border, of which there is none here."""


class Painted:
    """The masks of an image, the surer on top.

    Args:
        image: with masks.

    Attributes:
        objects: a PNG, value k is the k-th object.
        classes: a PNG, value k is the k-th class.
        covered: objects that surer ones cover partly.
        lost: objects without a pixel that is seen, by their own mask, others or their number.
    """

    def __init__(self, image: AnnotatedImage) -> None:
        rows = image.rows()
        shape = (image.height, image.width)
        objects, classes = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        scores = np.arange(len(rows), 0, -1) if image.scores is None else image.scores
        sizes: dict[int, int] = {}
        for place in np.argsort(scores, kind="stable").tolist():
            row = rows[place]
            if row.mask is None or place >= MOST or row.class_index >= MOST:
                continue
            mask = decode([row.mask], *shape)[0]
            objects[mask], classes[mask] = place + 1, row.class_index + 1
            sizes[place + 1] = int(mask.sum())
        seen = np.bincount(objects.reshape(-1), minlength=MOST + 1)
        self.objects, self.classes = _png(objects), _png(classes)
        self.lost = len(rows) - sum(bool(seen[number]) for number in sizes)
        self.covered = sum(0 < seen[number] < size for number, size in sizes.items())


def _png(values: NDArray[np.uint8]) -> bytes:
    """Values (h, w) as a PNG with VOC's palette."""
    image, buffer = Image.fromarray(values, "P"), io.BytesIO()
    image.putpalette(voc_palette())
    image.save(buffer, "png")
    return buffer.getvalue()


def remarks(painted: Sequence[Painted]) -> list[str]:
    """What is to be told of pixels that belong to one object alone."""
    covered, lost = sum(item.covered for item in painted), sum(item.lost for item in painted)
    told = []
    if covered:
        told.append(
            f"{covered} masks lie partly under surer ones, which have these pixels: VOC has one object a pixel"
        )
    if lost:
        told.append(
            f"{lost} objects have no pixel in SegmentationObject: surer ones cover them, or their masks are empty"
        )
    return told
