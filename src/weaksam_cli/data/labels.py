"""The labels artifact: images, classes and image-level labels of one split as COCO-JSON without boxes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts import receipt as receipts
from weaksam_cli.core.files import read_bytes
from weaksam_cli.core.json_files import MAX_BYTES, refusal
from weaksam_cli.core.names import first_few, first_twice, leaves_folder, plain_word
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.dataset import DatasetSplit, Difficult, ImageRecord, in_class_order
from weaksam_cli.data.images import PILLOW_MAX_PIXELS, read_image
from weaksam_cli.errors import ImageError, UserError

LABELS_FORMAT = "weaksam/labels"
LABELS_VERSION = 2
"""Version 2 says the largest image that was admitted, and which classes difficult objects alone show."""


Integer = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
"""Of an image or a class: what HDF5 and numpy hold."""
Side = Annotated[int, Field(ge=0, le=10**6)]
"""Pixels; 0 where it is not known."""
_Text = Annotated[str, Field(min_length=1, max_length=10_000, pattern=r"^[^\x00]+$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Category(_Model):
    """One class: `id` is the dataset's own category id, identity is the name."""

    id: Integer
    name: _Text


class LabelChoice(RecipeModel):
    """Which classes of an image count for a step: its settings inherit from this one.

    Attributes:
        difficult: `include` counts classes that difficult objects alone show, `exclude` does not; None: as `data` chose.
    """

    difficult: Difficult | None = None


class LabelledImage(_Model):
    """One image of a split.

    Attributes:
        id: integer id for COCO files.
        key: the image's identity in every artifact: its path under the image root, or its VOC id.
        file_name: POSIX path under the image root.
        height, width: size in pixels after EXIF orientation.
        sha256: digest of the file, so that an image that changed between two stages is noticed.
        labels: names of the classes in the image; None where nobody said.
        difficult: classes that difficult objects alone show; a stage can count them or not (see `Labels.counting`).
    """

    id: Integer
    key: _Text
    file_name: _Text
    height: Side
    width: Side
    sha256: str
    labels: list[str] | None
    difficult: list[str] = []


class LabelsInfo(_Model):
    """Header of a labels file.

    Attributes:
        format, format_version: what it is.
        dataset: the dataset's name.
        split: name of the split.
        role: train or test.
        max_pixels: the largest image that `weaksam data` admitted; whoever decodes these images admits as much.
    """

    format: str = LABELS_FORMAT
    format_version: int = LABELS_VERSION
    dataset: str
    split: str
    role: str
    max_pixels: int = Field(default=100_000_000, gt=0, le=PILLOW_MAX_PIXELS)


class LabelsFile(_Model):
    """The whole file, as it stands on the disk."""

    info: LabelsInfo
    categories: list[Category]
    images: list[LabelledImage]
    annotations: list[Any] = []
    failed: list[receipts.Failure] = []


class _Format(BaseModel):
    """What says of any version of a labels file that it is one."""

    format: Literal["weaksam/labels"]
    format_version: int


class _Header(BaseModel):
    info: _Format


@dataclass(frozen=True)
class Labels:
    """A labels artifact, read and indexed.

    Attributes:
        path: the file.
        file: its contents.
        image_root: folder of the images on this machine.
    """

    path: Path
    file: LabelsFile
    image_root: Path

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; integers in artifacts index this list."""
        return [category.name for category in self.file.categories]

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of all images, in order."""
        return tuple(image.key for image in self.file.images)

    @property
    def is_train(self) -> bool:
        """Is this a split whose labels may be used?"""
        return self.file.info.role == "train"

    def by_key(self) -> dict[str, LabelledImage]:
        """Key -> image."""
        return {image.key: image for image in self.file.images}

    def class_indexes(self, image: LabelledImage) -> list[int]:
        """Indexes of the image's labels in `class_names`; empty where labels are unknown."""
        index = {name: position for position, name in enumerate(self.class_names)}
        return [index[name] for name in image.labels or ()]

    def known_classes(self) -> dict[str, NDArray[np.bool_]]:
        """Key -> bool (classes,), which classes the image shows, of the images whose labels are known."""
        names = np.array(self.class_names, dtype=object)
        return {
            image.key: np.isin(names, image.labels) for image in self.file.images if image.labels is not None
        }

    @property
    def are_known(self) -> bool:
        """Does any image have a label?"""
        return any(image.labels for image in self.file.images)

    def read_image(self, image: LabelledImage) -> NDArray[np.uint8]:
        """The pixels of one image, uint8 RGB (H, W, 3).

        Raises:
            ImageError: when the file is gone, damaged, or not the file that the `data` stage saw.
        """
        since, remedy = "`weaksam data` saw it", "Run `weaksam data` again"
        if self.path == self.image_root:  # images of no dataset
            since, remedy = "this command began", "Run the same command again"
        path = self.image_root / image.file_name
        try:
            now = digest.of_file(path) if image.sha256 or path.is_file() else ""
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}", where=str(path)) from error
        if now != image.sha256:
            raise ImageError(f"the file changed after {since}", where=str(path), remedy=remedy)
        return read_image(path, max_pixels=self.file.info.max_pixels)

    def counting(self, difficult: Difficult | None) -> Labels:
        """The same with or without the classes that difficult objects alone show; None leaves what `data` chose.

        The published system mixes both: maps and pseudo boxes use the classes of all objects, WSOD trainers leave out
        what is marked difficult.
        """
        if difficult is None:
            return self
        images = [
            image.model_copy(update={"labels": self._labels(image, difficult)}) for image in self.file.images
        ]
        return replace(self, file=self.file.model_copy(update={"images": images}))

    def _labels(self, image: LabelledImage, difficult: Difficult) -> list[str] | None:
        if image.labels is None:
            return None
        every = {*image.labels, *image.difficult}
        chosen = every if difficult == "include" else every - set(image.difficult)
        return list(in_class_order(chosen, self.class_names))


def common_root(splits: Sequence[DatasetSplit]) -> Path:
    """The deepest folder that holds every image of every split."""
    folders = {str(image.path.parent.absolute()) for split in splits for image in split.images}
    return Path(os.path.commonpath(folders)) if folders else Path.cwd()


def digits_id(key: str) -> int | None:
    """VOC's ids as integers, as the published code writes them: 000005 is 5, 2008_000021 is 2008000021."""
    digits = key.replace("_", "")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 16 else None


def integer_ids(images: Sequence[ImageRecord]) -> list[int]:
    """Ids for COCO files: the dataset's own, else the digits of VOC ids, else 1 to n."""
    for ids in ([image.image_id for image in images], [digits_id(image.key) for image in images]):
        known = [value for value in ids if value is not None]
        if len(set(known)) == len(images):
            return known
    return list(range(1, len(images) + 1))


def labels_file(dataset: str, split: DatasetSplit, root: Path, max_pixels: int) -> LabelsFile:
    """The labels file of a split whose images lie below `root`; reads every image once for its digest."""
    images = [
        LabelledImage(
            id=identifier,
            key=image.key,
            file_name=image.path.absolute().relative_to(root).as_posix(),
            height=image.height,
            width=image.width,
            sha256=digest.of_file(image.path),
            labels=None if image.labels is None else list(image.labels),
            difficult=list(image.difficult),
        )
        for identifier, image in zip(integer_ids(split.images), split.images, strict=True)
    ]
    # Reasons name no folder of this machine, so that equal datasets give equal bytes.
    failed = [
        receipts.Failure(image=key, reason=reason.replace(f"{root}{os.sep}", ""))
        for key, reason in split.failed
    ]
    return LabelsFile(
        info=LabelsInfo(dataset=dataset, split=split.name, role=split.role, max_pixels=max_pixels),
        categories=[
            Category(id=identifier, name=name)
            for identifier, name in zip(split.category_ids, split.class_names, strict=True)
        ],
        images=images,
        failed=failed,
    )


@dataclass(frozen=True)
class Split:
    """The labels of a split and the folder of its images: small and picklable, what predictors carry.

    Attributes:
        labels: the labels artifact.
        image_root: folder of the images on this machine.
    """

    labels: Path
    image_root: Path

    def read(self, difficult: Difficult | None = None) -> Labels:
        """Read and validate, and count classes that difficult objects alone show or not (see `Labels.counting`)."""
        return read_labels(self.labels, self.image_root).counting(difficult)


def labels_bytes(file: LabelsFile) -> bytes:
    """The file as bytes: equal contents give equal bytes."""
    return json.dumps(file.model_dump(), indent=1, ensure_ascii=False).encode() + b"\n"


def read_labels(path: Path, image_root: Path) -> Labels:
    """Read and validate a labels artifact.

    Raises:
        UserError: a missing, damaged, foreign or newer file.
    """
    record = receipts.read_receipt(path)
    if record is not None:
        receipts.verify(path, record)
    remedy = "Run `weaksam data` first"
    data = read_bytes(path, MAX_BYTES)
    try:
        version = _Header.model_validate_json(data).info.format_version
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise refusal(error, path, remedy) from None
        raise UserError("not a labels file of weaksam", where=str(path), remedy=remedy) from None
    if version > LABELS_VERSION:
        raise UserError(
            f"has format version {version}, this program reads up to {LABELS_VERSION}",
            where=str(path),
            remedy="Install a newer weaksam-cli",
        )
    try:
        file = LabelsFile.model_validate_json(data)
    except ValidationError as error:
        raise refusal(error, path, "Run `weaksam data` again") from None
    _check(file, path)
    return Labels(path, file, image_root)


def _check(file: LabelsFile, path: Path) -> None:
    for name, what in ((file.info.split, "split"), (file.info.dataset, "dataset")):
        plain_word(name, what, where=str(path))
    names = [category.name for category in file.categories]
    once: dict[str, Iterable[object]] = {
        "the class name": names,
        "the id of a class": (category.id for category in file.categories),
        "the image": (image.key for image in file.images),
        "the id of an image": (image.id for image in file.images),
    }
    for what, values in once.items():
        if (twice := first_twice(values)) is not None:
            raise UserError(f"{what} {twice!r} stands twice", where=str(path))
    known = set(names)
    for number, image in enumerate(file.images):
        where = f"{path}: images[{number}]"
        unknown = {*(image.labels or ()), *image.difficult} - known
        if unknown:
            raise UserError(f"unknown classes: {first_few(sorted(unknown))}", where=where)
        if leaves_folder(image.file_name):
            what = f"file_name {image.file_name!r} is not below the folder of images"
            raise UserError(what, where=where, remedy="Run `weaksam data` again")
        if image.height * image.width > file.info.max_pixels:
            what = f"{image.width} x {image.height} pixels, and at most {file.info.max_pixels} were admitted"
            raise UserError(what, where=where, remedy="Run `weaksam data` again")
