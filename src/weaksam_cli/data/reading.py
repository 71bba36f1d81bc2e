"""From what annotations say to splits with image-level labels: what all layouts share. No box is looked at."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from weaksam_cli.core.names import first_few, is_text
from weaksam_cli.data.annotations import RawDataset, RawImage, RawSplit
from weaksam_cli.data.dataset import (
    DatasetSplit,
    ImageRecord,
    ReadRecipe,
    check_class,
    choose_splits,
    numbered,
    with_labels,
)
from weaksam_cli.data.image_files import ImageFiles
from weaksam_cli.errors import UserError, suggestion

ClassTable = dict[str, int]
"""Class -> the dataset's integer, in the order of the classes."""
_LONGEST_CLASS: Final = 1000


def read_splits(dataset: RawDataset, recipe: ReadRecipe) -> tuple[DatasetSplit, ...]:
    """The splits that the recipe asks for, with image-level labels.

    An image that cannot be found or read is listed as failed, and so is one without annotation in a split to train on. In a
    test split that one is unlabelled (labels None), as in the official test set of VOC2012.

    Raises:
        UserError: there is no such split, a class is not in the list given, or no image of a split can be read.
    """
    roles = choose_splits(recipe.splits, dataset.available, dataset.default, dataset.where)
    every = roles if dataset.class_ids is not None else dict.fromkeys([*roles, *dataset.available])
    raw = {name: dataset.read(name) for name in every}
    for name in roles:
        raw[name].remarks.require(raw[name].images, name, raw[name].where)
    classes = class_table(dataset, raw.values(), recipe)
    splits = []
    for name, role in sorted(roles.items(), key=lambda item: item[1] != "train"):
        remarks, images = raw[name].remarks, []
        for image, record in located(raw[name], recipe.max_pixels):
            if image.objects is not None:
                shown = [(item.name, item.difficult) for item in image.objects]
                images.append(with_labels(record, shown, tuple(classes), recipe.difficult))
            elif role == "test" or raw[name].keeps_unlabelled:
                images.append(record)
            else:
                remarks.fail(record.key, "has no annotation, so no label to train with")
        remarks.require(images, name, raw[name].where)
        names, ids = tuple(classes), tuple(classes.values())
        splits.append(DatasetSplit(name, role, names, ids, tuple(images), *remarks.told(names), origin=name))
    return tuple(splits)


def located(split: RawSplit, max_pixels: int) -> Iterator[tuple[RawImage, ImageRecord]]:
    """The images of a split whose files can be read, each once, not labelled yet; the others are noted as failed.

    Raises:
        UserError: no file is found.
    """
    names = [image.name for image in split.images if image.path is None]
    files = ImageFiles(names, split.places, split.where, split.name) if names else None
    seen: set[str] = set()
    for image in split.images:
        path, key = image.path, image.key or image.name
        if path is None and files is not None:
            found = files.find(image.name)
            if found is None:
                several = files.likely(image.name)
                what = (
                    f"several files may be meant: {first_few(several, 3)}"
                    if several
                    else "there is no such file"
                )
                split.remarks.fail(key, f"{what} below {files.root}")
                continue
            path, key = files.root / found, image.key or found
        if path is None:
            continue
        if key in seen:
            split.remarks.warn(key, "stands more than once in the split; the first is taken")
            continue
        seen.add(key)
        size = split.remarks.size_of(key, path, max_pixels, image.declared)
        if size is not None:
            yield image, ImageRecord(key, path, *size, image_id=image.image_id)
    if files is not None and files.respelled:
        count, shown = len(files.respelled), first_few(files.respelled, 3)
        split.remarks.warn(
            "", f"{count} images were found by the end of their name below {files.root}: {shown}"
        )


def class_table(dataset: RawDataset, splits: Collection[RawSplit], recipe: ReadRecipe) -> ClassTable:
    """All classes of the dataset, the same whichever of its splits are read.

    The list given; else the dataset's own table; else its usual order when nothing else occurs; else all that occur, sorted.

    Raises:
        UserError: an object has a class that is not in the list given, the list has a class that the dataset's own table has
            not, nothing shows a class, or a class has no name that can be written.
    """
    table = _class_table(dataset, splits, recipe)
    for name in table:
        if not 1 <= len(name) <= _LONGEST_CLASS or not is_text(name):
            raise UserError(
                f"a class cannot be called {name[:60]!r} ({len(name)} characters)",
                where=str(dataset.where),
                remedy=f"Names of classes are text of 1 to {_LONGEST_CLASS} characters",
            )
    return table


def _class_table(dataset: RawDataset, splits: Collection[RawSplit], recipe: ReadRecipe) -> ClassTable:
    occur = {
        item.name: f"{split.where}: {image.key or image.name}"
        for split in splits
        for image in split.images
        for item in image.objects or ()
    }
    if recipe.classes is not None:
        for name, where in occur.items():
            check_class(name, recipe.classes, where=where)
        return _listed(recipe.classes, dataset)
    if dataset.class_ids is not None:
        return dict(dataset.class_ids)
    if not occur:
        raise UserError(
            "no object in any annotation",
            where=str(dataset.where),
            remedy="Weak supervision needs labels: give annotations that say which classes are in the images",
        )
    names = dataset.usual_order if occur.keys() <= set(dataset.usual_order) else sorted(occur)
    return dict(zip(names, numbered(names), strict=True))


def _listed(classes: tuple[str, ...], dataset: RawDataset) -> ClassTable:
    own = dataset.class_ids
    if own is None:
        return dict(zip(classes, numbered(classes), strict=True))
    for name in classes:
        if name not in own:
            raise UserError(
                f"the class {name!r} of the class list is none of the dataset's{suggestion(name, list(own))}",
                where=str(dataset.where),
                remedy=f"Its classes: {first_few(own, 20)}",
            )
    return {name: own[name] for name in classes}
