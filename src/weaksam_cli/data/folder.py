"""Labels without boxes: a folder a class."""

from __future__ import annotations

from collections.abc import Mapping
from filecmp import cmp
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from weaksam_cli.core.names import first_few
from weaksam_cli.data.annotations import RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.dataset import SPLIT_NAMES, ReadRecipe, Remarks, role_of
from weaksam_cli.data.images import SUFFIXES, find_images
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "folders of images named by class"
WHOLE: Final = "trainval"
_KINDS: Final = (
    "images image imgs img jpegimages pngimages pictures photos masks mask labels label annotations annotation "
    "segmentationclass segmentationobject segmentation gt ground_truth groundtruth xmls xml json bbox data raw"
)
_NO_CLASSES: Final = frozenset(_KINDS.split())
"""Names of folders that say what kind of file lies in them, and not what an image shows."""
_NOISE: Final = frozenset({"__macosx", "@eadir", "lost+found", "__pycache__"})


class Recipe(ReadRecipe):
    """How class folders are read."""

    method: Literal["folder"] = "folder"


def likeness(source: Path) -> int:
    """1 where there are images in folders, none of which says that they are annotated: whatever has a layout has folders."""
    if not source.is_dir():
        return 0
    classes = {name for names in _splits(source)[0].values() for name in names}
    return int(bool(classes) and not classes & _NO_CLASSES)


def read(source: Path, _recipe: Recipe, _images: Path | None = None, *, boxes: bool) -> RawDataset:
    """What `source/class/...` or `source/split/class/...` says.

    The first folder is the class, however deep the image lies. The same image put into several class folders (same file
    name and same bytes) is one image with all these labels, under the first of its paths; equal names alone mean nothing,
    since many collections number their images per class. An image outside of every class folder is listed as failed.

    Raises:
        UserError: there is no class folder.
    """
    del boxes  # there are none
    if not source.is_dir():
        raise UserError("no such folder", where=str(source), remedy="Give a folder of class folders")
    splits, warnings = _splits(source)
    if not any(splits.values()):
        raise UserError(
            "no labelled image here", where=str(source), remedy="Put the images into one folder per class"
        )
    suspects = sorted({name for names in splits.values() for name in names if name.casefold() in _NO_CLASSES})
    if suspects:
        told = f"the folders {first_few(suspects)} are read as classes"
        warnings = (*warnings, f"{told}; if the images are annotated, give the annotations")

    def split(name: str) -> RawSplit:
        whole = name == WHOLE and name not in {child.name for child in source.iterdir()}
        remarks, prefix = Remarks(), "" if whole else f"{name}/"
        found = labelled(source if whole else source / name, prefix, remarks)
        return RawSplit(name, source, found, remarks=remarks)

    roles = {name: role_of(name) for name in splits}
    return RawDataset(source, tuple(splits), roles, split, has_boxes=False, warnings=warnings)


def _splits(source: Path) -> tuple[Mapping[str, list[str]], tuple[str, ...]]:
    """Split -> its class folders, and what is to be told.

    Folders that are named as splits are splits, when they hold class folders; others beside them are then left out.
    """
    folders = [child for child in _folders(source) if has_image(child)]
    parts = [child for child in folders if child.name.casefold() in SPLIT_NAMES]
    classes = {child.name: [inner.name for inner in _folders(child) if has_image(inner)] for child in parts}
    classes = {name: names for name, names in classes.items() if names}
    if not classes:
        return {WHOLE: [child.name for child in folders]}, ()
    others = [child.name for child in folders if child.name not in classes]
    told = f"the folders {first_few(others)} stand beside splits and are not read: their images have no split"
    return classes, (told,) if others else ()


def _folders(folder: Path) -> list[Path]:
    """The folders in one, without hidden ones and what systems leave."""
    found = [child for child in folder.iterdir() if not child.name.startswith(".") and child.is_dir()]
    return sorted(child for child in found if child.name.casefold() not in _NOISE and not child.is_symlink())


def has_image(folder: Path) -> bool:
    """Whether there is an image in a folder, or below it."""
    paths = folder.rglob("*")
    return any(path.suffix.lower() in SUFFIXES and not path.name.startswith(".") for path in paths)


def labelled(root: Path, prefix: str, remarks: Remarks) -> list[RawImage]:
    """All images below `root` with the first folder below it as their class; keys start with `prefix`."""
    first_of: dict[tuple[str, int], list[str]] = {}
    labels: dict[str, set[str]] = {}
    for key in find_images(root):
        parts = PurePosixPath(key).parts
        if len(parts) == 1:
            remarks.fail(prefix + key, "lies in no class folder")
            continue
        if parts[0].casefold() in _NOISE:
            continue
        if not (root / key).is_file():  # `size_of` says why
            labels[key] = {parts[0]}
            continue
        twins = first_of.setdefault((parts[-1], (root / key).stat().st_size), [])
        same = next((twin for twin in twins if cmp(root / twin, root / key, shallow=False)), None)
        if same is None:
            twins.append(key)
            labels[key] = {parts[0]}
        else:
            labels[same].add(parts[0])
    return [
        RawImage(key, tuple(RawObject(name) for name in sorted(names)), prefix + key, root / key)
        for key, names in labels.items()
    ]
