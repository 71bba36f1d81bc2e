"""What lies beside images and says that they are annotated, though nothing here may know how to read it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from weaksam_cli.data.dataset import split_word
from weaksam_cli.data.images import SUFFIXES

NOISE: Final = frozenset(
    {"__macosx", "@eadir", "lost+found", "__pycache__", "system volume information", "$recycle.bin"}
)
"""Folders that systems and tools leave."""
_MASKS: Final = frozenset({
    "masks", "segmentationclass", "segmentationobject", "segmentations", "segmentation", "gt", "gtfine", "gtcoarse",
    "groundtruth",
})  # fmt: skip
_ANNOTATIONS: Final = frozenset({
    "annotations", "annotation", "annots", "ann", "anns", "labels", "label", "xmls", "xml", "json", "jsons", "bbox",
    "bboxes", "boxes",
})  # fmt: skip
_IMAGES: Final = frozenset({
    "images", "image", "imgs", "img", "jpegimages", "pngimages", "pictures", "photos", "data", "raw", "leftimg8bit",
})  # fmt: skip
_WORDS: Final = frozenset({"masks", "annotations", "labels", "images"})
"""Words that say so in a longer name, such as `train_labels`."""
_FORMATS: Final = (".xml", ".json", ".txt")
_TABLES: Final = (".json", ".csv", ".tsv", ".xml")
_MOST: Final = 100_000
"""Files that are looked at."""


def says_no_class(name: str) -> bool:
    """Whether a folder's name says what kind of file lies in it, and not what an image shows."""
    return _kind(name) in _MASKS | _ANNOTATIONS | _IMAGES


def signs_of_annotations(source: Path) -> tuple[str, ...]:
    """What of the first files below a folder annotates images, in words: `masks (masks)`, `Annotations (p0.xml, ...)`.

    Folders that are called so; and XML, JSON and text files called like an image.
    """
    images: set[str] = set()
    others: dict[str, str] = {}
    found: dict[str, str] = {}
    for path in islice(_files(source), _MOST):
        stem, suffix = path.stem, path.suffix.lower()
        masks, annotations = _named(path, _MASKS), _named(path, _ANNOTATIONS)
        if suffix in SUFFIXES and (masks or annotations):
            found.setdefault(masks or annotations, "masks")
        elif suffix in SUFFIXES:
            images.update((stem, path.name))
        elif annotations:
            found.setdefault(annotations, f"{path.name}, ...")
        elif suffix in _FORMATS:
            others.setdefault(stem, path.as_posix())
    beside = [path for stem, path in others.items() if stem in images]
    return (*(f"{place} ({what})" for place, what in sorted(found.items())), *beside[:1])


def tables_near(source: Path) -> list[str]:
    """The files in a folder, and in those in it, that may say something about images: tables, JSON and XML."""
    names = (path.as_posix() for path in islice(_files(source, depth=2), _MOST))
    return sorted(name for name in names if name.casefold().endswith(_TABLES))


def lists_near(source: Path) -> list[str]:
    """The text files in a folder, and in those in it, that are called as lists of a split's images, or as a division."""
    paths = (path for path in islice(_files(source, depth=2), _MOST) if path.suffix.lower() == ".txt")
    return sorted(
        path.as_posix() for path in paths if "split" in path.stem.casefold() or split_word(path.stem)
    )


def _files(source: Path, depth: int = 99) -> Iterator[PurePosixPath]:
    """The files below a folder, as paths relative to it."""
    for folder, folders, files in os.walk(source):
        place = PurePosixPath(Path(folder).relative_to(source))
        folders[:] = sorted(name for name in folders if name[0] != "." and name.casefold() not in NOISE)
        if len(place.parts) + 1 >= depth:
            folders.clear()
        yield from (place / name for name in sorted(files) if name[0] != ".")


def _named(path: PurePosixPath, kinds: frozenset[str]) -> str:
    """The first folder of a path whose name is of these kinds."""
    return next((folder.as_posix() for folder in reversed(path.parents) if _kind(folder.name) in kinds), "")


def _kind(name: str) -> str:
    words = re.split(r"[^a-z0-9]+", name.casefold())
    return next((word for word in words if word in _WORDS), "".join(words))
