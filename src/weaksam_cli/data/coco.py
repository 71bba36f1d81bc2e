"""COCO layout: images and image-level labels. Boxes and segmentations are never looked at here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from weaksam_cli.data.coco_json import (
    CocoFile,
    CocoImage,
    coco_roles,
    find_images_root,
    read_coco_file,
    select,
)
from weaksam_cli.data.images import image_size
from weaksam_cli.data.paths import check_class
from weaksam_cli.data.types import (
    DatasetSplit,
    ImageRecord,
    ReadOptions,
    Remarks,
    Role,
    check_same_classes,
    in_class_order,
    similar_spellings,
)
from weaksam_cli.errors import ImageError, UserError


@dataclass(frozen=True)
class CocoEntry:
    """One readable image of a file."""

    entry: CocoImage
    path: Path
    height: int
    width: int


def read_coco(source: Path, options: ReadOptions) -> tuple[DatasetSplit, ...]:
    """Splits of COCO instances files with image-level labels; one file is one split.

    An image without annotations shows no class (`labels == ()`). A file without the field `annotations` leaves its
    images unlabelled (None) and can only be a test split. Crowds count as difficult objects. Classes are the
    categories by increasing id; the ids, gaps included, are kept beside them.

    Raises:
        UserError: for files that cannot be trusted (see `read_coco_file`), splits with different categories, or a
            category that is not in the class list given.
    """
    splits = tuple(
        _read_split(source, name, path, role, options)
        for name, (path, role) in coco_roles(source, options).items()
    )
    check_same_classes(splits)
    return splits


def class_table(file: CocoFile, options: ReadOptions) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Class names and category ids; in the order of the class list where one is given.

    Raises:
        UserError: when the file and the class list do not name the same classes.
    """
    by_name = {name: number for number, name in file.categories.items()}
    if options.class_names is None:
        return tuple(by_name), tuple(by_name.values())
    for name in by_name:
        check_class(name, options.class_names, where=f"{file.path}: categories")
    missing = [name for name in options.class_names if name not in by_name]
    if missing:
        raise UserError(
            f"the class {missing[0]!r} of the class list is no category",
            where=f"{file.path}: categories",
            remedy="Add the category, or leave the class out of the list",
        )
    return options.class_names, tuple(by_name[name] for name in options.class_names)


def read_images(
    source: Path, split: str, file: CocoFile, options: ReadOptions
) -> tuple[tuple[CocoEntry, ...], Remarks]:
    """The images that can be read, in the order of the file, and what is to be told about the others.

    Raises:
        UserError: when none can be read.
    """
    root = find_images_root(source, split, file, options.images_root)
    remarks = Remarks()
    found: list[CocoEntry] = []
    for entry in select(file, options.subset):
        path = root / entry.file_name
        try:
            height, width = image_size(path, max_pixels=options.max_pixels)
        except ImageError as error:
            remarks.fail(entry.file_name, error.one_line())
            continue
        remarks.compare_size(entry.file_name, entry.size, (height, width))
        found.append(CocoEntry(entry, path, height, width))
    if not found:
        reason = remarks.failed[0].reason if remarks.failed else "the list is empty"
        raise UserError(
            f"none of the images of {split} can be read; {reason}",
            where=str(file.path),
            remedy="Check --images, or complete the dataset",
        )
    return tuple(found), remarks


def _read_split(source: Path, name: str, path: Path, role: Role, options: ReadOptions) -> DatasetSplit:
    file = read_coco_file(path)
    if file.annotations is None and role == "train":
        raise UserError(
            "there are no annotations, so no labels to train with",
            where=str(path),
            remedy="Give the instances file of a training set",
        )
    class_names, category_ids = class_table(file, options)
    entries, remarks = read_images(source, name, file, options)
    records = [
        ImageRecord(
            key=image.entry.file_name,
            path=image.path,
            height=image.height,
            width=image.width,
            labels=_labels(file, image.entry.image_id, class_names, options),
            image_id=image.entry.image_id,
        )
        for image in entries
    ]
    return DatasetSplit(
        name=name,
        role=role,
        class_names=class_names,
        category_ids=category_ids,
        images=tuple(records),
        failed=tuple(remarks.failed),
        warnings=(*similar_spellings(class_names), *remarks.warnings),
        without_size=remarks.without_size,
    )


def _labels(
    file: CocoFile, image_id: int, class_names: tuple[str, ...], options: ReadOptions
) -> tuple[str, ...] | None:
    if file.annotations is None:
        return None
    objects = file.annotations.get(image_id, ())
    names = (
        file.categories[item.category_id]
        for item in objects
        if options.difficult == "include" or not item.crowd
    )
    return in_class_order(names, class_names)
