"""Our proposals as other programs' pickles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.data.labels import Labels
from weaksam_cli.errors import UserError
from weaksam_cli.exchange import proposal_pickles as pickles
from weaksam_cli.exchange.image_names import ImageNames, first_names, read_order

EXPORT_FORMATS: Final = ("detectron2", "wetectron-voc", "wetectron-coco", "mmdet")


@dataclass(frozen=True)
class Exported:
    """What goes into the file.

    Attributes:
        content: what is pickled.
        images, boxes: how many.
        empty: images that failed in `propose`, which stand in the file without boxes.
        left_out: images of the artifact that the list of images does not name.
        fractions: boxes with coordinates that the format cuts to whole pixels.
    """

    content: Any
    images: int
    boxes: int
    empty: tuple[str, ...]
    left_out: tuple[str, ...]
    fractions: int


def export_proposals(artifact: Artifact, layout: str, labels: Labels | None, order: Path | None) -> Exported:
    """The contents of a proposal pickle.

    Images are named by their keys (detectron2), by VOC's digits (wetectron), or, with `labels`, by the integer ids in
    there (both). Images that failed stand in the file without boxes: readers look every image up, or count on a list's
    order.

    Args:
        artifact: proposals.
        layout: one of `EXPORT_FORMATS`.
        labels: where integer ids are taken from.
        order: list of the images to write, in its order; None: the order of the artifact.

    Raises:
        UserError: an image without an integer id, a list that names images which the artifact does not hold, or a box
            that the format cannot hold.
    """
    names = _names(artifact, labels)
    keys = _chosen(artifact, layout, names, order)
    images = _images(artifact, keys, _ids(layout, labels, names, keys))
    if layout == "detectron2":
        content: Any = pickles.detectron2_content(images)
    elif layout == "mmdet":
        content = pickles.mmdet_content(images)
    else:
        content = pickles.wetectron_content(images, coco=layout == "wetectron-coco")
    written = set(keys)
    whole = [(image.boxes == np.trunc(image.boxes)).all(axis=1) for image in images]
    return Exported(
        content,
        len(images),
        sum(len(image.boxes) for image in images),
        tuple(key for key in keys if key in artifact.failed),
        tuple(key for key in artifact.image_ids if key not in written),
        sum(int((~item).sum()) for item in whole) if layout.startswith("wetectron") else 0,
    )


def _names(artifact: Artifact, labels: Labels | None) -> ImageNames:
    keys = (*artifact.image_ids, *artifact.failed)
    if labels is None:
        return ImageNames.of_keys(artifact.path, keys)
    names = ImageNames.of_labels(labels)
    known = set(names.keys)
    strangers = [key for key in keys if key not in known]
    if strangers:
        raise UserError(
            f"{len(strangers)} images of {artifact.path.name} ({first_names(strangers)}) are not in "
            f"{names.source} ({names.first()})",
            where="--labels",
            remedy="Give the labels of the split that the proposals are of",
        )
    return names


def _chosen(artifact: Artifact, layout: str, names: ImageNames, order: Path | None) -> list[str]:
    if order is None:
        if layout == "mmdet" and artifact.failed:
            raise UserError(
                f"{len(artifact.failed)} images failed ({first_names(artifact.failed)}), and mmdet's bare list has to "
                "hold an entry for each",
                where=str(artifact.path),
                remedy="Give the list of images with --order",
            )
        return [*artifact.image_ids, *artifact.failed]
    if layout == "wetectron-coco":
        raise UserError(
            "wetectron's COCO files are in the order of the ids", where="--order", remedy="Leave it away"
        )
    wanted = read_order(order)
    found = names.resolve(wanted, where=str(order))
    known = set(artifact.image_ids) | set(artifact.failed)
    strangers = [name for name, key in zip(wanted, found, strict=True) if key not in known]
    if strangers:
        raise UserError(
            f"{len(strangers)} images of the list ({first_names(strangers)}) are not in {artifact.path.name} "
            f"({names.first()})",
            where=str(order),
            remedy="Give the list of the split that the proposals are of",
        )
    return [key for key in found if key is not None]


def _ids(layout: str, labels: Labels | None, names: ImageNames, keys: Sequence[str]) -> list[object]:
    if layout == "mmdet" or (layout == "detectron2" and labels is None):
        return list(keys)
    found: list[object] = [names.ids.get(key, key) for key in keys]
    whole = [name for name in found if isinstance(name, int)]
    if len(set(whole)) != len(whole):
        raise UserError(
            "two images have the same digits, so they have no integer ids",
            where=names.source,
            remedy="Give --labels labels/<split>.json, which has their ids",
        )
    return found


def _images(artifact: Artifact, keys: Sequence[str], names: Sequence[object]) -> list[pickles.ImageBoxes]:
    boxes, predicted_iou = artifact.column("boxes"), artifact.column("predicted_iou").astype(np.float32)
    found = []
    for key, name in zip(keys, names, strict=True):
        span = slice(0, 0) if key in artifact.failed else artifact.span(key)
        found.append(pickles.ImageBoxes(name, as_boxes(boxes[span]), predicted_iou[span]))
    return found
