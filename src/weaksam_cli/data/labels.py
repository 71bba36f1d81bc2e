"""The labels artifact: images, classes and image-level labels of one split as COCO-JSON without boxes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from weaksam_cli.artifacts import receipt as receipts
from weaksam_cli.errors import UserError

LABELS_FORMAT = "weaksam/labels"
LABELS_VERSION = 1


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Category(_Model):
    """One class: `id` is the dataset's own category id, identity is the name."""

    id: int
    name: str


class LabelledImage(_Model):
    """One image of a split.

    Attributes:
        id: integer id for COCO files.
        key: the image's identity in every artifact: its path under the image root, or its VOC id.
        file_name: POSIX path under the image root.
        height, width: size in pixels after EXIF orientation.
        sha256: digest of the file, so that an image that changed between two stages is noticed.
        labels: names of the classes in the image; None where nobody said.
    """

    id: int
    key: str
    file_name: str
    height: int
    width: int
    sha256: str
    labels: list[str] | None


class LabelsInfo(_Model):
    """Header of a labels file."""

    format: str
    format_version: int
    dataset: str
    split: str
    role: str


class LabelsFile(_Model):
    """The whole file, as it stands on the disk."""

    info: LabelsInfo
    categories: list[Category]
    images: list[LabelledImage]
    annotations: list[Any]
    failed: list[receipts.Failure]


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

    def expect(self, keys: Iterable[str], where: Path) -> None:
        """Refuse an artifact that is about other images.

        Raises:
            UserError: one of the keys is not of these labels.
        """
        known = set(self.keys)
        foreign = [key for key in keys if key not in known]
        if foreign:
            raise UserError(
                f"{len(foreign)} of its images are not in {self.path}, the first is {foreign[0]!r}",
                where=str(where),
                remedy="Give files of the same split (--split, --input)",
            )

    def class_indexes(self, image: LabelledImage) -> list[int]:
        """Indexes of the image's labels in `class_names`; empty where labels are unknown."""
        index = {name: position for position, name in enumerate(self.class_names)}
        return [index[name] for name in image.labels or ()]

    def read_image(self, image: LabelledImage) -> NDArray[np.uint8]:
        """The pixels of one image, uint8 RGB (H, W, 3).

        Raises:
            ImageError: when the file is gone, damaged, or not the file that the `data` stage saw.
        """
        from weaksam_cli.data.images import read_unchanged

        path = self.image_root / image.file_name
        since = "`weaksam data` saw it" if self.file.categories else "the work began"
        remedy = "Run `weaksam data` again" if self.file.categories else "Run the same command again"
        return read_unchanged(path, image.sha256 or None, since=since, remedy=remedy)


@dataclass(frozen=True)
class Split:
    """The labels of a split and the folder of its images: small and picklable, what predictors carry.

    Attributes:
        labels: the labels artifact.
        image_root: folder of the images on this machine.
    """

    labels: Path
    image_root: Path

    def read(self) -> Labels:
        """Read and validate; raises as `read_labels`."""
        return read_labels(self.labels, self.image_root)


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
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            "there is no such file", where=str(path), remedy="Run `weaksam data` first"
        ) from error
    except ValueError as error:
        raise UserError(f"not readable as JSON: {error}", where=str(path)) from error
    info = raw.get("info") if isinstance(raw, dict) else None
    if not isinstance(info, dict) or info.get("format") != LABELS_FORMAT:
        raise UserError("not a labels file of weaksam", where=str(path), remedy="Run `weaksam data` first")
    if info.get("format_version", 0) > LABELS_VERSION:
        raise UserError(
            f"has format version {info['format_version']}, this program reads up to {LABELS_VERSION}",
            where=str(path),
            remedy="install a newer weaksam-cli",
        )
    try:
        file = LabelsFile.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{place}: {first['msg']}", where=str(path), remedy="Run `weaksam data` again"
        ) from error
    _check(file, path)
    return Labels(path, file, image_root)


def _check(file: LabelsFile, path: Path) -> None:
    names = [category.name for category in file.categories]
    if len(set(names)) != len(names):
        raise UserError("a class name occurs twice", where=str(path))
    known = set(names)
    for image in file.images:
        unknown = set(image.labels or ()) - known
        if unknown:
            raise UserError(f"image {image.key!r} has unknown classes {sorted(unknown)}", where=str(path))
