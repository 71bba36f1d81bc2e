"""Boxes and masks of the annotated objects: for `eval` and `report` alone, no other stage may import this module."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.core.json_files import refusal
from weaksam_cli.core.masks import tight_boxes
from weaksam_cli.core.names import first_few
from weaksam_cli.core.types import GroundTruth
from weaksam_cli.data.annotations import RawBox, RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.box_forms import FORMS, Form, as_edges, box_form
from weaksam_cli.data.dataset import ImageRecord, ReadRecipe, Remark, Remarks
from weaksam_cli.data.labels import Labels
from weaksam_cli.data.reading import located
from weaksam_cli.data.source import SOURCE_FILE, Source
from weaksam_cli.engine.methods import load_method
from weaksam_cli.errors import UserError, unknown

_LARGEST = 1e9


@dataclass(frozen=True)
class AnnotatedImage:
    """The annotated objects of one image.

    Attributes:
        key: the image's identity.
        height: pixels, of the file.
        width: pixels.
        objects: boxes, classes, difficult flags and areas, and masks where they were asked for.
        image_id: the dataset's own integer.
    """

    key: str
    height: int
    width: int
    objects: GroundTruth
    image_id: int | None = None

    @property
    def masks(self) -> tuple[bytes | None, ...] | None:
        """Those of the objects."""
        return self.objects.masks


@dataclass(frozen=True)
class GroundTruthSplit:
    """Ground truth of one split.

    Attributes:
        images: those whose annotations can be used, by key, in the order of the dataset.
        failed: images and objects left out, with the reason.
        warnings: things that look wrong but were taken.
    """

    images: dict[str, AnnotatedImage]
    failed: tuple[Remark, ...]
    warnings: tuple[Remark, ...]

    def left_out(self, labels: Labels) -> tuple[tuple[str, str], ...]:
        """(image, reason) of objects, and of images of `labels` without annotation, that cannot be used."""
        known = set(labels.keys)
        return tuple((remark.key, remark.reason) for remark in self.failed if remark.key in known)


def read_ground_truth(
    run_root: Path, source: Source, labels: Labels, *, masks: bool = False
) -> GroundTruthSplit | None:
    """Annotated objects of the images of `labels`, difficult ones flagged; with `masks`, their compressed RLE too.

    None for a layout that has labels alone, as folders and CSV tables.

    Raises:
        UserError: the dataset cannot be read (any more), has other classes than the labels, or no box.
    """
    name, noted = labels.file.info.split, run_root / SOURCE_FILE
    part = source.split(name, run_root)
    layout = load_method("data", part.layout, where=str(noted))
    known = {key: value for key, value in part.recipe.items() if key in layout.Recipe.model_fields}
    try:
        recipe = layout.Recipe.model_validate(known)
    except ValidationError as error:
        raise refusal(error, noted, "Run `weaksam data SOURCE` again", ("splits", name, "recipe")) from None
    images = Path(part.images) if part.images else None
    split = read_with_boxes(layout, run_root / part.path, recipe, images, part.name)
    return None if split is None else annotated(split, labels, masks=masks)


def read_with_boxes(
    layout: Any, place: Path, recipe: ReadRecipe, images: Path | None, split: str
) -> RawSplit | None:
    """One split of the dataset at `place` with its boxes, others are not read; None for a layout that has labels alone.

    Raises:
        UserError: the dataset cannot be read, or has no such split.
    """
    alone = recipe.model_copy(update={"splits": {split: "test"}})
    dataset: RawDataset = layout.read(place, alone, images, boxes=True)
    if split not in dataset.available:
        what = f"the dataset has no split {split!r} (any more)"
        raise unknown(what, split, list(dataset.available), where=str(dataset.where))
    return dataset.read(split) if dataset.has_boxes else None


def annotated(split: RawSplit, labels: Labels, *, masks: bool) -> GroundTruthSplit:
    """Annotated objects of the images of `labels`, by what the annotations say.

    An object whose box is missing, not finite or without extent, or lies wholly outside the image, is left out and listed as
    failed; one that stands out of the image by more than a pixel is kept as written and listed as a warning.

    Raises:
        UserError: no object has a box, or one has a class that is not in the labels.
    """
    _require_boxes(split)
    remarks, images, known = split.remarks, {}, set(labels.keys)
    found = [item for item in located(split, labels.file.info.max_pixels) if item[1].key in known]
    form: Form = "fractions" if split.fractions else _form(found)
    if form != "edges" and not split.fractions:
        remarks.warn("", f"the boxes of {split.name} look like {FORMS[form]}, and are read so")
    for image, record in found:
        if image.objects is None:
            remarks.fail(record.key, "has no annotation, so no ground truth")
        else:
            fits = image.declared in (None, (record.height, record.width))
            shown = _Shown(record, split, form, labels.class_names, fits)
            images[record.key] = shown.annotated(image.objects, masks=masks)
    if masks:
        _tell_maskless(images, remarks)
    return GroundTruthSplit(images, *remarks.told(labels.class_names))


def _form(found: Sequence[tuple[RawImage, ImageRecord]]) -> Form:
    pairs = [
        (item.box, (record.width, record.height))
        for image, record in found
        for item in image.objects or ()
        if isinstance(item.box, tuple) and all(abs(value) < _LARGEST for value in item.box)
    ]
    boxes, sizes = (
        np.asarray([box for box, _ in pairs], float),
        np.asarray([size for _, size in pairs], float),
    )
    return box_form(boxes.reshape(-1, 4), sizes.reshape(-1, 2))


def _require_boxes(split: RawSplit) -> None:
    objects = [item for image in split.images for item in image.objects or ()]
    if not any(image.objects is not None for image in split.images):
        what, remedy = "there are no annotations", "Evaluate on a split with annotations"
    elif objects and all(isinstance(item.box, str) for item in objects):
        what = f"the annotations have no boxes ({objects[0].title}: {objects[0].box})"
        remedy = "Evaluate against annotations with boxes; training does not need them"
    else:
        return
    raise UserError(f"{what}, so {split.name} has no ground truth", where=str(split.where), remedy=remedy)


@dataclass(frozen=True)
class _Shown:
    """One image, and how its objects are read."""

    image: ImageRecord
    split: RawSplit
    form: Form
    class_names: Sequence[str]
    has_declared_size: bool

    def annotated(self, objects: Sequence[RawObject], *, masks: bool) -> AnnotatedImage:
        """Those of the objects that can be used."""
        kept = [(item, box) for item in objects if (box := self._box(item)) is not None]
        found = [self._mask(item, box) if masks else None for item, box in kept]
        truth = GroundTruth(
            as_boxes([box for _, box in kept]),
            np.asarray([self._class_index(item) for item, _ in kept], dtype=np.int32),
            np.asarray([item.difficult for item, _ in kept], dtype=bool),
            np.asarray([_area(item) for item, _ in kept], dtype=np.float32),
            tuple(found) if masks else None,
        )
        image = self.image
        return AnnotatedImage(image.key, image.height, image.width, truth, image.image_id)

    def _box(self, item: RawObject) -> RawBox | None:
        """Its box in pixels; None after noting why it cannot be used."""
        remarks, key, (height, width) = (
            self.split.remarks,
            self.image.key,
            (self.image.height, self.image.width),
        )
        if item.box is None or isinstance(item.box, str):
            remarks.fail(key, f"{item.title} ({item.name}): {item.box or 'has no box'}")
            return None
        name = f"{item.title} ({item.name}): the box {list(item.box)}"
        if not all(abs(value) < _LARGEST for value in item.box):  # NaN is not, either
            remarks.fail(key, f"{name} is not finite")
            return None
        box = as_edges(item.box, self.form, width, height)
        return box if remarks.box_is_inside(key, name, box, (height, width)) else None

    def _mask(self, item: RawObject, box: RawBox) -> bytes | None:
        if item.mask is None:
            return None
        try:
            if not self.has_declared_size:
                raise ValueError("the file has not the size that its mask was drawn on")
            mask = item.mask(self.image.height, self.image.width)
            if mask is None:
                return None
            left, top, right, bottom = tight_boxes([mask], self.image.height, self.image.width)[0]
            if right <= box[0] or left >= box[2] or bottom <= box[1] or top >= box[3]:
                raise ValueError("its mask is empty, or lies elsewhere than its box")
            return mask
        except ValueError as error:
            self.split.remarks.fail(self.image.key, f"{item.title} ({item.name}): {error}")
            return None

    def _class_index(self, item: RawObject) -> int:
        try:
            return self.class_names.index(item.name)
        except ValueError:
            raise UserError(
                f"{self.image.key}: the class {item.name!r} is not among those of the labels",
                where=str(self.split.where),
                remedy="The annotations changed: run `weaksam data SOURCE` again",
            ) from None


def _area(item: RawObject) -> float:
    """Pixels, as annotated; NaN where it is not said, or is no area."""
    return item.area if item.area is not None and 0 < item.area < _LARGEST**2 else math.nan


def _tell_maskless(images: Mapping[str, AnnotatedImage], remarks: Remarks) -> None:
    """Note how many objects have no mask: many a dataset has masks of some of its images alone."""
    lacking = {key: sum(mask is None for mask in image.masks or ()) for key, image in images.items()}
    which = [key for key, count in lacking.items() if count]
    if which:
        what = f"{sum(lacking.values())} objects of {len(which)} images have no mask"
        remarks.warn("", f"{what}: {first_few(which, 3)}")
