"""VOC layout: boxes and masks of the annotated objects, for `eval` and `report` alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weaksam_cli.core import masks as mask_codec
from weaksam_cli.core.boxes import area, as_boxes, voc_to_edges
from weaksam_cli.core.types import GroundTruth
from weaksam_cli.data.dataset import (
    AnnotatedImage,
    GroundTruthSplit,
    ImageRecord,
    Remarks,
    for_one_split,
    numbered,
)
from weaksam_cli.data.voc import (
    FoundImage,
    Recipe,
    VocObject,
    open_voc,
    read_images,
    text_of,
    voc_classes,
    voc_roles,
)
from weaksam_cli.errors import UserError

MASKS = "SegmentationObject"


def read_voc_truth(source: Path, split: str, recipe: Recipe, *, masks: bool) -> GroundTruthSplit:
    """Annotated objects of one split, difficult ones included and flagged.

    Coordinates are 1-based pixels with both ends inside and may be fractions. An object whose box is missing, not
    finite or without extent, or lies wholly outside the image, is left out and listed as failed; one that stands out
    of the image by more than a pixel is kept as written and listed as a warning.

    Args:
        source: as for `voc.read`.
        split: name of the split.
        recipe: as for `voc.read`, so that class tables agree.
        masks: read `SegmentationObject/<id>.png` too, where value k is the k-th object of the XML and 255 is border.

    Raises:
        UserError: as `voc.read`, and when no object of the split has a box.
    """
    folder = open_voc(source, recipe)
    roles = voc_roles(folder, for_one_split(recipe, split))
    found, remarks = read_images(folder, split, roles[split], recipe.max_pixels)
    class_names = voc_classes(folder, recipe, found)
    _require_boxes(found, split, folder.root)
    mask_folder = folder.root / MASKS if masks else None
    images: list[AnnotatedImage] = []
    for image, objects in found:
        if objects is None:
            remarks.fail(image.key, "no annotation file, so no ground truth")
        else:
            images.append(_annotated(image, objects, class_names, mask_folder, remarks))
    told = remarks.told(class_names)
    return GroundTruthSplit(split, class_names, numbered(class_names), tuple(images), *told)


def _require_boxes(images: Sequence[FoundImage], split: str, root: Path) -> None:
    objects = [item for _, found in images for item in found or ()]
    if objects and all(item.element.find("bndbox") is None for item in objects):
        raise UserError(
            f"the annotations of {split} have no boxes (<bndbox>), so there is no ground truth",
            where=str(root),
            remedy="Evaluate against annotations with boxes; training does not need them",
        )


def _annotated(
    image: ImageRecord,
    objects: Sequence[VocObject],
    class_names: Sequence[str],
    mask_folder: Path | None,
    remarks: Remarks,
) -> AnnotatedImage:
    found = {
        index: box
        for index, item in enumerate(objects)
        if (box := _box(item, f"object {index + 1} ({item.name})", image, remarks)) is not None
    }
    boxes = as_boxes(list(found.values()))
    truth = GroundTruth(
        boxes=boxes,
        class_index=np.asarray([class_names.index(objects[index].name) for index in found], dtype=np.int32),
        difficult=np.asarray([objects[index].difficult for index in found], dtype=bool),
    )
    areas: NDArray[np.float32] = area(boxes)
    counts: tuple[bytes | None, ...] | None = None
    if mask_folder is not None:
        counts, mask_areas = _masks(mask_folder / f"{image.key}.png", image, list(found), remarks)
        areas = np.where(mask_areas > 0, mask_areas, areas).astype(np.float32)
    return AnnotatedImage(image.key, image.height, image.width, truth, areas, counts)


def _box(item: VocObject, name: str, image: ImageRecord, remarks: Remarks) -> list[float] | None:
    """Its box, xyxy pixel edges; None after noting why there is none."""
    element = item.element.find("bndbox")
    if element is None:
        remarks.fail(image.key, f"{name} has no <bndbox>")
        return None
    texts = [text_of(element, tag) for tag in ("xmin", "ymin", "xmax", "ymax")]
    try:
        corners = [float(text) for text in texts]
    except ValueError:
        remarks.fail(image.key, f"{name}: a coordinate is no number in {texts}")
        return None
    if not all(abs(value) < 1e9 for value in corners):  # NaN is not, either
        remarks.fail(image.key, f"{name}: a coordinate is not finite in {texts}")
        return None
    box = [float(value) for value in voc_to_edges(as_boxes([corners]))[0]]
    kept = remarks.box_is_inside(image.key, f"{name}: the box {texts}", box, (image.height, image.width))
    return box if kept else None


def _masks(
    path: Path, image: ImageRecord, kept: Sequence[int], remarks: Remarks
) -> tuple[tuple[bytes | None, ...], NDArray[np.float32]]:
    """RLE and area per kept object; None and 0 where the image has no mask file or the object no pixel."""
    values = _mask_values(path, image, remarks)
    if values is None:
        return (None,) * len(kept), np.zeros(len(kept), dtype=np.float32)
    dense = values == np.reshape(kept, (-1, 1, 1)) + 1
    areas = dense.sum(axis=(1, 2)).astype(np.float32)
    encoded = mask_codec.encode(dense)
    return tuple(rle if size > 0 else None for rle, size in zip(encoded, areas, strict=True)), areas


def _mask_values(path: Path, image: ImageRecord, remarks: Remarks) -> NDArray[np.uint8] | None:
    if not path.is_file():
        remarks.fail(image.key, f"no mask file {MASKS}/{path.name}")
        return None
    try:
        with Image.open(path, formats=("PNG",)) as file:
            if file.mode not in ("P", "L") or file.size != (image.width, image.height):
                remarks.fail(
                    image.key,
                    f"{MASKS}/{path.name}: expected a palette or grey PNG of {image.width} x {image.height} pixels, "
                    f"got {file.mode} of {file.size[0]} x {file.size[1]}",
                )
                return None
            return np.asarray(file, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        remarks.fail(image.key, f"{MASKS}/{path.name} cannot be read ({error})")
        return None
