"""VOC layout: images and image-level labels. Boxes are never looked at here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weaksam_cli.data.images import image_size
from weaksam_cli.data.paths import check_class, first_few
from weaksam_cli.data.types import (
    DatasetSplit,
    DifficultConvention,
    ImageRecord,
    ReadOptions,
    Remarks,
    Role,
    in_class_order,
    similar_spellings,
)
from weaksam_cli.data.voc_layout import (
    VOC_CLASSES,
    VocFolder,
    default_splits,
    find_image,
    open_voc,
    read_ids,
)
from weaksam_cli.data.voc_xml import AnnotationError, VocAnnotation, read_annotation
from weaksam_cli.errors import ImageError, UserError


@dataclass(frozen=True)
class VocImage:
    """One readable image of a split and its annotation (None: there is no annotation file)."""

    key: str
    path: Path
    height: int
    width: int
    annotation: VocAnnotation | None


def read_voc(source: Path, options: ReadOptions) -> tuple[DatasetSplit, ...]:
    """Splits of a VOC folder with image-level labels.

    An image without an annotation file is unlabelled (labels None) in a test split, as in the official VOC2012 test
    set, and listed as failed in a train split, where it could teach nothing. An image that cannot be read, or whose
    annotation cannot, is listed as failed. An image whose objects give no label keeps `labels == ()`.

    Classes: the list given; else the official twenty in their order when nothing else occurs in any split; else all
    that occur, sorted.

    Raises:
        UserError: when the folder, a split or all its images are missing, or a class is not in the list given.
    """
    folder = open_voc(source, year=options.year, task=options.task)
    roles = voc_roles(folder, options)
    parsed = {split: read_images(folder, split, role, options.max_pixels) for split, role in roles.items()}
    class_names = voc_classes(folder, options, {name: entries for name, (entries, _) in parsed.items()})
    spellings = similar_spellings(class_names)
    return tuple(
        DatasetSplit(
            name=split,
            role=roles[split],
            class_names=class_names,
            category_ids=tuple(range(1, len(class_names) + 1)),
            images=tuple(_record(image, class_names, options.difficult) for image in entries),
            failed=tuple(remarks.failed),
            warnings=(*spellings, *remarks.warnings),
            without_size=remarks.without_size,
        )
        for split, (entries, remarks) in parsed.items()
    )


def voc_roles(folder: VocFolder, options: ReadOptions) -> Mapping[str, Role]:
    """The splits to read: those asked for, else the default ones; a folder without ImageSets is one `trainval`."""
    if options.splits is not None:
        return options.splits
    return default_splits(folder.lists) if folder.lists else {"trainval": "train"}


def read_images(
    folder: VocFolder, split: str, role: Role, max_pixels: int
) -> tuple[tuple[VocImage, ...], Remarks]:
    """All images of a split that can be read, in the order of its list, and what is to be told about the others."""
    remarks = Remarks()
    entries: list[VocImage] = []
    seen = set[str]()
    for image_id in read_ids(folder, split):
        if image_id in seen:
            remarks.warn(image_id, "stands more than once in the list; taken once")
            continue
        seen.add(image_id)
        image = _image(folder, image_id, role, max_pixels, remarks)
        if image is not None:
            entries.append(image)
    if not entries:
        first = remarks.failed[0]
        raise UserError(
            f"none of the {len(seen)} images of {split} can be read; {first.key}: {first.reason}",
            where=str(folder.root),
            remedy="Complete the dataset, or choose another split",
        )
    return tuple(entries), remarks


def voc_classes(
    folder: VocFolder, options: ReadOptions, entries: Mapping[str, Sequence[VocImage]]
) -> tuple[str, ...]:
    """The class table of the whole dataset, the same whichever of its splits are read; hence it looks at all of them.

    Raises:
        UserError: naming the file, for a class that is not in the list given.
    """
    known = [image for part in entries.values() for image in part]
    if options.class_names is not None:
        for image in known:
            for item in image.annotation.objects if image.annotation else ():
                check_class(item.name, options.class_names, where=str(folder.annotation(image.key)))
        return options.class_names
    names = {item.name for image in known if image.annotation for item in image.annotation.objects}
    names |= _names_elsewhere(folder, {image.key for image in known})
    if names and names <= set(VOC_CLASSES):
        return VOC_CLASSES
    if not names:
        raise UserError(
            f"no object in the annotations of {first_few(entries)}",
            where=str(folder.root),
            remedy="Weak supervision needs labels: give annotations with <object><name>",
        )
    return tuple(sorted(names))


def _names_elsewhere(folder: VocFolder, known: set[str]) -> set[str]:
    names = set[str]()
    for split in folder.lists:
        for image_id in read_ids(folder, split):
            if image_id not in known:
                known.add(image_id)
                try:
                    names |= {item.name for item in read_annotation(folder.annotation(image_id)).objects}
                except (OSError, AnnotationError):
                    continue  # told when its own split is read
    return names


def _image(
    folder: VocFolder, image_id: str, role: Role, max_pixels: int, remarks: Remarks
) -> VocImage | None:
    annotation: VocAnnotation | None = None
    try:
        annotation = read_annotation(folder.annotation(image_id))
    except FileNotFoundError:
        if role == "train":
            remarks.fail(
                image_id, f"no annotation {folder.annotation(image_id).name}, so no label to train with"
            )
            return None
    except (OSError, AnnotationError) as error:
        remarks.fail(image_id, f"{folder.annotation(image_id).name}: {error}")
        return None
    path = find_image(folder, image_id, annotation.filename if annotation else None)
    if isinstance(path, str):
        remarks.fail(image_id, path)
        return None
    try:
        height, width = image_size(path, max_pixels=max_pixels)
    except ImageError as error:
        remarks.fail(image_id, error.one_line())
        return None
    if annotation is not None:
        remarks.compare_size(image_id, annotation.size, (height, width))
    return VocImage(image_id, path, height, width, annotation)


def _record(image: VocImage, class_names: Sequence[str], difficult: DifficultConvention) -> ImageRecord:
    labels = None
    if image.annotation is not None:
        names = (
            item.name for item in image.annotation.objects if difficult == "include" or not item.difficult
        )
        labels = in_class_order(names, class_names)
    return ImageRecord(image.key, image.path, image.height, image.width, labels)
