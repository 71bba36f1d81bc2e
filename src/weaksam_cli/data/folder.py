"""Class-per-folder layout: the folder an image lies in is its label."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from weaksam_cli.data.images import find_images, image_size
from weaksam_cli.data.paths import SPLIT_NAMES, check_class, first_few, role_of
from weaksam_cli.data.types import (
    DatasetSplit,
    ImageRecord,
    ReadOptions,
    Remarks,
    Role,
    in_class_order,
    similar_spellings,
)
from weaksam_cli.errors import ImageError, UserError

WHOLE: Final = "trainval"
HELD_OUT: Final = "test"


@dataclass(frozen=True)
class Labelled:
    """An image and its labels before the image was opened; `labels` is None when nobody said."""

    key: str
    path: Path
    labels: frozenset[str] | None


def folder_splits(source: Path) -> tuple[str, ...]:
    """The folders of `source` when all of them are named as splits (`train`, `val`, ...), else ()."""
    names = sorted(
        child.name for child in source.iterdir() if child.is_dir() and not child.name.startswith(".")
    )
    return tuple(names) if names and all(name.casefold() in SPLIT_NAMES for name in names) else ()


def read_class_folders(source: Path, options: ReadOptions) -> tuple[DatasetSplit, ...]:
    """Splits of `source/class/...` or `source/split/class/...` with image-level labels.

    The first folder is the class, however deep the image lies. The same image put into several class folders
    (same file name and same bytes) is one image with all these labels, under the first of its paths; equal names
    alone mean nothing, since many collections number their images per class. An image outside of every class
    folder is listed as failed. Without split folders everything is `trainval`, unless `test_share` asks for a `test`
    split: then an image belongs to it when the hash of its key says so, which no other image can change.

    Raises:
        UserError: without a class folder, an image, or a split asked for; or for a class not in the list given.
    """
    given = folder_splits(source)
    if given and options.test_share > 0:
        raise UserError(
            "the folders are splits already, so no share can be held out",
            where=str(source),
            remedy="Leave out the test share, or give the folder of one split",
        )
    if given:
        return _read_given(source, given, options)
    remarks = Remarks()
    labelled = label_by_folder(source, "", remarks)
    parts: dict[str, list[Labelled]] = {WHOLE: []}
    if options.test_share > 0:
        parts[HELD_OUT] = []
    for item in labelled:
        parts[HELD_OUT if held_out(item.key, options.test_share) else WHOLE].append(item)
    roles: Mapping[str, Role] = options.splits or {name: role_of(name) for name in parts}
    require_splits(roles, parts, source)
    return build_splits(source, parts, roles, options, {WHOLE: remarks})


def label_by_folder(root: Path, prefix: str, remarks: Remarks) -> list[Labelled]:
    """All images below `root` labelled by the first folder below it; keys start with `prefix`."""
    first_of: dict[tuple[str, int], list[str]] = {}
    labels: dict[str, set[str]] = {}
    for key in find_images(root):
        parts = PurePosixPath(key).parts
        if len(parts) == 1:
            remarks.fail(prefix + key, "lies in no class folder")
            continue
        twins = first_of.setdefault((parts[-1], (root / key).stat().st_size), [])
        same = next((twin for twin in twins if _same_bytes(root / twin, root / key)), None)
        if same is None:
            twins.append(key)
            labels[key] = {parts[0]}
        else:
            labels[same].add(parts[0])
    return [Labelled(prefix + key, root / key, frozenset(names)) for key, names in labels.items()]


def held_out(key: str, share: float) -> bool:
    """Whether an image belongs to the test part, by the SHA-256 of its key."""
    digest = hashlib.sha256(key.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def require_splits(wanted: Mapping[str, Role], available: Mapping[str, object], source: Path) -> None:
    """Refuse a split that the dataset does not have.

    Raises:
        UserError: listing those it has.
    """
    for name in wanted:
        if name not in available:
            raise UserError(
                f"there is no split {name!r}",
                where=str(source),
                remedy=f"Available: {first_few(available, 20)}",
            )


def build_splits(
    source: Path,
    parts: Mapping[str, Sequence[Labelled]],
    roles: Mapping[str, Role],
    options: ReadOptions,
    remarks: Mapping[str, Remarks],
) -> tuple[DatasetSplit, ...]:
    """Open the images of the splits in `roles`; the class table comes from all `parts`.

    Raises:
        UserError: when no image of a split can be read, nothing is labelled, or a class is not in the list given.
    """
    class_names = _classes(source, parts, options)
    return tuple(
        _split(
            source,
            name,
            parts[name],
            role,
            class_names,
            max_pixels=options.max_pixels,
            remarks=remarks.get(name, Remarks()),
        )
        for name, role in roles.items()
    )


def _read_given(source: Path, given: Sequence[str], options: ReadOptions) -> tuple[DatasetSplit, ...]:
    remarks = {name: Remarks() for name in given}
    parts = {name: label_by_folder(source / name, f"{name}/", remarks[name]) for name in given}
    roles: Mapping[str, Role] = options.splits or {name: role_of(name) for name in given}
    require_splits(roles, parts, source)
    return build_splits(source, parts, roles, options, remarks)


def _classes(source: Path, parts: Mapping[str, Sequence[Labelled]], options: ReadOptions) -> tuple[str, ...]:
    found = {name: item.key for part in parts.values() for item in part for name in item.labels or ()}
    if options.class_names is not None:
        for name, key in sorted(found.items()):
            check_class(name, options.class_names, where=f"{source}: {key}")
        return options.class_names
    if not found:
        raise UserError(
            "no labelled image here", where=str(source), remedy="Put the images into one folder per class"
        )
    return tuple(sorted(found))


def _split(
    source: Path,
    name: str,
    part: Sequence[Labelled],
    role: Role,
    class_names: tuple[str, ...],
    *,
    max_pixels: int,
    remarks: Remarks,
) -> DatasetSplit:
    records: list[ImageRecord] = []
    for item in part:
        try:
            height, width = image_size(item.path, max_pixels=max_pixels)
        except ImageError as error:
            remarks.fail(item.key, error.one_line())
            continue
        labels = None if item.labels is None else in_class_order(item.labels, class_names)
        records.append(ImageRecord(item.key, item.path, height, width, labels))
    if not records:
        reason = (
            f"none of its images can be read; {remarks.failed[0].reason}" if remarks.failed else "it is empty"
        )
        raise UserError(
            f"the split {name!r} has no image: {reason}",
            where=str(source),
            remedy="Add images, or mend them",
        )
    return DatasetSplit(
        name=name,
        role=role,
        class_names=class_names,
        category_ids=tuple(range(1, len(class_names) + 1)),
        images=tuple(records),
        failed=tuple(remarks.failed),
        warnings=(*similar_spellings(class_names), *remarks.warnings),
    )


def _same_bytes(a: Path, b: Path) -> bool:
    with a.open("rb") as first, b.open("rb") as second:
        while True:
            left, right = first.read(1 << 20), second.read(1 << 20)
            if left != right:
                return False
            if not left:
                return True
