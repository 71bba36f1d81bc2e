"""From what the dataset readers found to a labels file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts.receipt import Failure
from weaksam_cli.data.labels import (
    LABELS_FORMAT,
    LABELS_VERSION,
    Category,
    LabelledImage,
    LabelsFile,
    LabelsInfo,
)
from weaksam_cli.data.types import DatasetSplit, ImageRecord


def common_root(splits: Sequence[DatasetSplit]) -> Path:
    """The deepest folder that holds every image of every split."""
    folders = {str(image.path.parent.absolute()) for split in splits for image in split.images}
    return Path(os.path.commonpath(folders)) if folders else Path.cwd()


def integer_ids(images: Sequence[ImageRecord]) -> list[int]:
    """Ids for COCO files: the dataset's own, else the digits of VOC ids, else 1 to n."""
    own = [image.image_id for image in images]
    if all(value is not None for value in own):
        return [value for value in own if value is not None]
    digits = [image.key.replace("_", "") for image in images]
    numeric = all(text.isascii() and text.isdigit() and len(text) < 16 for text in digits)
    if numeric and len({int(text) for text in digits}) == len(digits):
        return [int(text) for text in digits]
    return list(range(1, len(images) + 1))


def labels_file(dataset: str, split: DatasetSplit, root: Path) -> LabelsFile:
    """The labels file of one split; reads every image once for its digest."""
    images = [
        LabelledImage(
            id=identifier,
            key=image.key,
            file_name=image.path.absolute().relative_to(root).as_posix(),
            height=image.height,
            width=image.width,
            sha256=digest.of_file(image.path),
            labels=None if image.labels is None else list(image.labels),
        )
        for identifier, image in zip(integer_ids(split.images), split.images, strict=True)
    ]
    return LabelsFile(
        info=LabelsInfo(
            format=LABELS_FORMAT,
            format_version=LABELS_VERSION,
            dataset=dataset,
            split=split.name,
            role=split.role,
        ),
        categories=[
            Category(id=identifier, name=name)
            for identifier, name in zip(split.category_ids, split.class_names, strict=True)
        ],
        images=images,
        annotations=[],
        failed=[Failure(image=key, reason=_placeless(reason, root)) for key, reason in split.failed],
    )


def _placeless(reason: str, root: Path) -> str:
    """A reason without the folder of this machine, so that equal datasets give equal bytes."""
    return reason.replace(f"{root}{os.sep}", "")
