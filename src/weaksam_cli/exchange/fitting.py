"""Do foreign boxes and points fit the images that they are said to be of?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from weaksam_cli.core.boxes import FloatArray, clip
from weaksam_cli.data.labels import LabelledImage
from weaksam_cli.errors import UserError
from weaksam_cli.exchange.image_names import ImageNames, first_names
from weaksam_cli.exchange.proposal_pickles import ImageBoxes

MAX_OVERHANG: Final = 2.0
"""Boxes may reach this many pixels over the image's edge: rounding, and files that count pixels from 1, do."""


@dataclass
class Remarks:
    """What was noticed on the way, to be told at the end.

    Attributes:
        missing: images of the split that the file does not hold.
        strangers: names in the file that are no images of the split.
        cut: key -> boxes that reached over the edge and were cut to the image.
        empty: key -> boxes without area, which were left out.
    """

    missing: list[str] = field(default_factory=list)
    strangers: list[object] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    empty: dict[str, int] = field(default_factory=dict)

    def lines(self, source: str) -> list[str]:
        """One sentence for each kind of remark; missing images stand in the artifact and are told from there."""
        found = []
        if self.strangers:
            found.append(
                f"{len(self.strangers)} images of the file are not in {source} and are left out: "
                f"{first_names(self.strangers)}"
            )
        for counts, what in (
            (self.cut, "reach over the edge of the image and were cut to it"),
            (self.empty, "have no area and are left out"),
        ):
            if counts:
                found.append(
                    f"{sum(counts.values())} boxes of {len(counts)} images {what}: {first_names(counts)}"
                )
        return found


def match_images(
    names: Sequence[object], images: ImageNames, remarks: Remarks, *, where: str
) -> dict[str, int]:
    """Key -> position in the file, for the images of the split that the file holds, in the order of the split.

    Raises:
        UserError: when the two have no image in common, or a name is ambiguous.
    """
    keys = images.resolve(names, where=where)
    positions = {key: position for position, key in enumerate(keys) if key is not None}
    remarks.strangers += [name for name, key in zip(names, keys, strict=True) if key is None]
    if not positions:
        raise UserError(
            f"no image of the file ({first_names(names) or 'it is empty'}) is in {images.source} ({images.first()})",
            where=where,
            remedy="Give the labels of the split that the file was made for",
        )
    remarks.missing += [key for key in images.keys if key not in positions]
    return {key: positions[key] for key in images.keys if key in positions}


def fit_boxes(entry: ImageBoxes, image: LabelledImage, remarks: Remarks, *, where: str) -> ImageBoxes:
    """Boxes cut to the image, those without area left out; both are counted.

    Raises:
        UserError: for a box that ends before it begins, or that leaves the image by more than `MAX_OVERHANG`.
    """
    boxes = entry.boxes
    _refuse_inverted(boxes, entry.name, where)
    over = np.concatenate(
        [-boxes[:, :2], boxes[:, 2:] - np.asarray([image.width, image.height], np.float32)], axis=1
    )
    worst = over.max(axis=1, initial=0)
    if len(boxes) and worst.max() > MAX_OVERHANG:
        number = int(worst.argmax())
        raise UserError(
            f"image {entry.name!r} ({image.key!r}) is {image.width} x {image.height} pixels, and box {number} "
            f"({_text(boxes[number])}, pixel edges) leaves it by {worst[number]:g}",
            where=where,
            remedy="The file belongs to other images, or to another list of images",
        )
    cut = clip(boxes, image.height, image.width)
    filled = (cut[:, 2:] > cut[:, :2]).all(axis=1)
    if (worst > 0).any():
        remarks.cut[image.key] = int((worst > 0).sum())
    if not filled.all():
        remarks.empty[image.key] = int((~filled).sum())
    return ImageBoxes(entry.name, cut[filled], entry.predicted_iou[filled])


def _refuse_inverted(boxes: FloatArray, name: object, where: str) -> None:
    wrong = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    if wrong.size:
        raise UserError(
            f"image {name!r}: box {int(wrong[0])} ({_text(boxes[wrong[0]])}, pixel edges) ends before it begins",
            where=where,
            remedy="Are these boxes xywh?",
        )


def _text(box: FloatArray) -> str:
    return " ".join(f"{value:g}" for value in box)
