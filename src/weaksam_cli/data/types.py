"""Value types of a dataset: images with image-level labels on one side, annotated objects on the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.types import GroundTruth
from weaksam_cli.data.images import DEFAULT_MAX_PIXELS
from weaksam_cli.errors import UserError

Role = Literal["train", "test"]
Layout = Literal["voc", "coco", "folder"]
DifficultConvention = Literal["exclude", "include"]
VocTask = Literal["Main", "Segmentation"]


class Remark(NamedTuple):
    """Something to tell about one image; `key` is empty when it is about the whole dataset."""

    key: str
    reason: str


@dataclass(frozen=True)
class ReadOptions:
    """How to read a dataset; each layout uses what concerns it.

    Attributes:
        splits: split names to read and their roles; None reads what the dataset offers (see each layout).
        difficult: whether objects marked difficult (COCO: crowds) give their class to the image's labels.
            "exclude" is what the published WSOD trainers do, "include" what the published CAM label files do.
        class_names: the allowed classes in their order; None takes them from the dataset.
        year: VOC release below a VOCdevkit, such as "2007".
        task: which of VOC's ImageSets folders names the splits.
        images_root: where the images of a COCO json or CSV lie; None guesses.
        subset: COCO: keep only the images with these file names, stems or ids.
        test_share: class-per-folder without splits: share of images put into a split `test` by a hash of the key.
        max_pixels: larger images are listed as failed.
    """

    splits: Mapping[str, Role] | None = None
    difficult: DifficultConvention = "exclude"
    class_names: tuple[str, ...] | None = None
    year: str | None = None
    task: VocTask = "Main"
    images_root: Path | None = None
    subset: tuple[str, ...] | None = None
    test_share: float = 0.0
    max_pixels: int = DEFAULT_MAX_PIXELS

    def __post_init__(self) -> None:
        if self.difficult not in get_args(DifficultConvention):
            raise ValueError(f"difficult: expected exclude or include, got {self.difficult!r}")
        if self.task not in get_args(VocTask):
            raise ValueError(f"task: expected Main or Segmentation, got {self.task!r}")
        if not 0 <= self.test_share < 1:
            raise ValueError(f"test_share: expected 0 <= share < 1, got {self.test_share}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels: expected at least 1, got {self.max_pixels}")


@dataclass(frozen=True)
class ImageRecord:
    """One image and what is known about it as a whole.

    Attributes:
        key: identity: VOC's id, otherwise the POSIX path relative to the image root, suffix included.
        path: the file.
        height: pixels, upright (EXIF applied), read from the file and not from the annotation.
        width: pixels.
        labels: classes present, in the order of the class names; () when none is, None when nobody said.
        image_id: the dataset's own integer id (COCO), or None.
    """

    key: str
    path: Path
    height: int
    width: int
    labels: tuple[str, ...] | None
    image_id: int | None = None

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("image record: the key is empty")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"image {self.key!r}: expected positive sizes, got {self.height} x {self.width}")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError(f"image {self.key!r}: a label stands twice in {self.labels}")


@dataclass(frozen=True)
class DatasetSplit:
    """The images of one split with image-level labels, and no box.

    Attributes:
        name: such as "trainval".
        role: "train" where the labels supervise, "test" where they are only evaluated.
        class_names: all classes of the dataset, in order; the same for each of its splits.
        category_ids: the dataset's integer of each class (COCO's own ids, gaps kept; otherwise 1 to n).
        images: in the order of the dataset, keys unique.
        failed: images left out, with the reason.
        warnings: things that look wrong but were taken.
        without_size: how many annotations do not state the image's size (they need not).
    """

    name: str
    role: Role
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[ImageRecord, ...]
    failed: tuple[Remark, ...] = ()
    warnings: tuple[Remark, ...] = ()
    without_size: int = 0

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ValueError(f"split {self.name!r}: expected the role train or test, got {self.role!r}")
        _check_classes(self.class_names, self.category_ids)
        known = set(self.class_names)
        keys = set[str]()
        for image in self.images:
            if image.key in keys:
                raise ValueError(f"split {self.name!r}: the key {image.key!r} stands twice")
            keys.add(image.key)
            strangers = set(image.labels or ()) - known
            if strangers:
                raise ValueError(
                    f"image {image.key!r}: labels {sorted(strangers)} are no classes of the dataset"
                )

    @property
    def unlabelled(self) -> int:
        """How many images nobody labelled."""
        return sum(image.labels is None for image in self.images)

    @property
    def without_object(self) -> int:
        """How many images are known to show no class (or difficult objects alone)."""
        return sum(image.labels == () for image in self.images)


@dataclass(frozen=True)
class AnnotatedImage:
    """The annotated objects of one image.

    Attributes:
        key: as in `ImageRecord`.
        height: pixels, of the file.
        width: pixels.
        objects: boxes, classes and difficult flags.
        areas: float32 (n,), pixels: the annotation's own area, else the mask's, else the box's.
        masks: n compressed RLE strings, None for an object without a mask; None when masks were not asked for.
        image_id: as in `ImageRecord`.
    """

    key: str
    height: int
    width: int
    objects: GroundTruth
    areas: NDArray[np.float32]
    masks: tuple[bytes | None, ...] | None = None
    image_id: int | None = None

    def __post_init__(self) -> None:
        n = len(self.objects)
        if self.areas.shape != (n,):
            raise ValueError(f"image {self.key!r}: expected areas of shape ({n},), got {self.areas.shape}")
        if self.masks is not None and len(self.masks) != n:
            raise ValueError(f"image {self.key!r}: expected {n} masks, got {len(self.masks)}")


@dataclass(frozen=True)
class GroundTruthSplit:
    """Ground truth of one split; `eval` and `report` alone may hold one.

    Attributes:
        name: of the split.
        class_names: as in `DatasetSplit`.
        category_ids: as in `DatasetSplit`.
        images: every readable image of the split, those without an object included.
        failed: images and objects left out, with the reason.
        warnings: things that look wrong but were taken.
    """

    name: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[AnnotatedImage, ...]
    failed: tuple[Remark, ...] = ()
    warnings: tuple[Remark, ...] = ()

    def __post_init__(self) -> None:
        _check_classes(self.class_names, self.category_ids)


@dataclass
class Remarks:
    """Collects what is to be told while a split is read."""

    failed: list[Remark] = field(default_factory=list)
    warnings: list[Remark] = field(default_factory=list)
    without_size: int = 0

    def fail(self, key: str, reason: str) -> None:
        """Note that the image or object is left out."""
        self.failed.append(Remark(key, reason))

    def warn(self, key: str, reason: str) -> None:
        """Note something odd that is taken as it is."""
        self.warnings.append(Remark(key, reason))

    def compare_size(self, key: str, declared: tuple[int, int] | None, met: tuple[int, int]) -> None:
        """Warn when the annotation's (height, width) is not the file's; count an annotation without one."""
        if declared is None:
            self.without_size += 1
        elif declared != met:
            reason = (
                f"the annotation says {declared[1]} x {declared[0]} pixels, the file has {met[1]} x {met[0]}"
            )
            if declared == met[::-1]:
                reason += "; if EXIF turned the image, its boxes were drawn on the unturned one"
            self.warn(key, reason)


def in_class_order(found: Iterable[str], class_names: Sequence[str]) -> tuple[str, ...]:
    """The distinct classes of `found`, in the order of `class_names`."""
    present = set(found)
    return tuple(name for name in class_names if name in present)


def similar_spellings(class_names: Sequence[str]) -> tuple[Remark, ...]:
    """One remark per group of class names that differ only in case, spaces or punctuation."""
    groups: dict[str, list[str]] = {}
    for name in class_names:
        groups.setdefault(re.sub(r"[\W_]+", "", name.casefold()) or name, []).append(name)
    return tuple(
        Remark("", f"the classes {' and '.join(map(repr, names))} may be two spellings of one")
        for names in groups.values()
        if len(names) > 1
    )


def check_same_classes(splits: Sequence[DatasetSplit]) -> None:
    """Refuse splits whose class tables differ, because a class would silently shift.

    Raises:
        UserError: naming the two splits and what only one of them has.
    """
    for other in splits[1:]:
        first = splits[0]
        if (first.class_names, first.category_ids) == (other.class_names, other.category_ids):
            continue
        only_first = sorted(set(first.class_names) - set(other.class_names))
        only_other = sorted(set(other.class_names) - set(first.class_names))
        difference = (
            f"only {first.name} has {only_first}, only {other.name} has {only_other}"
            if only_first or only_other
            else "the same names stand in another order or under other ids"
        )
        raise UserError(
            f"the splits {first.name} and {other.name} have different classes: {difference}",
            remedy="Give all splits the same categories",
        )


def _check_classes(class_names: tuple[str, ...], category_ids: tuple[int, ...]) -> None:
    if len(set(class_names)) != len(class_names) or not all(class_names):
        raise ValueError(f"class names must be distinct and not empty, got {class_names}")
    if len(category_ids) != len(class_names) or len(set(category_ids)) != len(category_ids):
        raise ValueError(f"expected {len(class_names)} distinct category ids, got {category_ids}")
