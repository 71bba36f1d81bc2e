"""Where the instances files of a COCO-like dataset lie, and to which splits they belong."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from weaksam_cli.core.names import first_few
from weaksam_cli.data.dataset import SPLIT_NAMES, likely_folders
from weaksam_cli.data.xml_files import beginning

_OTHER_KINDS: Final = ("person_keypoints", "captions", "stuff", "panoptic", "image_info")
_MARKS: Final = (b'"images"', b'"annotations"', b'"categories"')
_TAIL: Final = 4096
_IMAGE_FOLDERS: Final = ("images", "JPEGImages", "PNGImages", "data", "")


def coco_files(source: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Instances files by split, and what is to be told: `source` itself, or those below it.

    In a folder: those of its split folders (`train/_annotations.coco.json`), else of `annotations`, else its own. The split
    of `instances_train2017.json` is `train2017`; that of the only file in a folder named as a split is the folder's.
    """
    if source.is_file():
        return ({_split_name(source): source} if source.suffix.casefold() == ".json" else {}), ()
    if not source.is_dir():
        return {}, ()
    parts = {
        child.name: _instances(child) for child in _folders(source) if child.name.casefold() in SPLIT_NAMES
    }
    one_each = {name: files[0] for name, files in parts.items() if len(files) == 1}
    if one_each:
        several = sorted(name for name, files in parts.items() if len(files) > 1)
        told = f"the folders {first_few(several)} hold several instances files and are not read: name one of them"
        return one_each, (told,) if several else ()
    for folder in (source / "annotations", source, *_folders(source)):
        found = _instances(folder)
        if found:
            left = [path for path in sorted(folder.glob("*.json")) if path not in found]
            told = f"{len(left)} json files are no instances files and are not read: {first_few(path.name for path in left)}"
            names = {_split_name(path): path for path in found}
            if len(found) == 1 and folder == source and source.name.casefold() in SPLIT_NAMES:
                names = {source.name: found[0]}
            return names, (told,) if left else ()
    return {}, ()


def image_places(source: Path, split: str, file: Path, images: Path | None) -> tuple[Path, ...]:
    """Folders in which the images of a split may lie, the likeliest first: named by the split, then for all.

    A folder of images that the user named for one split is not that of another one with a folder of its own beside it.
    """
    bases = [images.parent] if images is not None else []
    bases += (
        [source, file.parent, file.parent.parent] if source.is_dir() else [file.parent, file.parent.parent]
    )
    own = [folder for base in dict.fromkeys(bases) for folder in _of_split(base, split)]
    if images is not None:
        named_for_another = _words(images.name) - _words(split) and own and images not in own
        given = likely_folders(file.parent, images, split)
        return (*own, *given) if named_for_another else given
    everywhere = [base / name for base in dict.fromkeys(bases) for name in _IMAGE_FOLDERS]
    return tuple(dict.fromkeys([*own, *everywhere]))


def _of_split(base: Path, split: str) -> Iterable[Path]:
    """Folders whose names say the split: `train2017`, `images/train`, `train/images`, `train_images`, `custom_train`."""
    for folder in (base / "images", base):
        if (folder / split).is_dir():
            yield from (folder / split / name for name in _IMAGE_FOLDERS if (folder / split / name).is_dir())
        yield from (
            child for child in _folders(folder) if child.name != split and _words(child.name) & _words(split)
        )


def _words(name: str) -> set[str]:
    """The names of splits in a name: `train_images` holds train, `val2017` val, `valid` val."""
    text = name.casefold()
    words = {word for word in ("train", "val", "test", "dev") if word in text}
    return words | ({"trainval"} if "trainval" in text else set())


def _instances(folder: Path) -> list[Path]:
    """The instances files in a folder: named `instances_*`, or by a split, or the only ones of that content."""
    found = (
        [path for path in sorted(folder.glob("*.json")) if _looks_like_coco(path)] if folder.is_dir() else []
    )
    plain = [path for path in found if not path.stem.casefold().startswith(_OTHER_KINDS)]
    instances = [path for path in plain if path.stem.casefold().startswith("instances")]
    named = [path for path in plain if any(word in path.stem.casefold() for word in SPLIT_NAMES)]
    return instances or named or (plain if len(plain) == 1 else [])


def _looks_like_coco(path: Path) -> bool:
    """Whether it is called so, or the beginning or the end of the file has COCO's fields."""
    if path.stem.casefold().startswith("instances"):
        return True
    start = beginning(path)
    if start.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] != b"{":
        return False
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - _TAIL))
            end = handle.read()
    except OSError:
        return False
    return any(mark in start or mark in end for mark in _MARKS)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        child for child in folder.iterdir() if child.is_dir() and not child.name.startswith((".", "__"))
    )


def _split_name(path: Path) -> str:
    name = path.stem.removesuffix(".coco").removeprefix("instances").lstrip("_-")
    if (
        name in ("", "annotations", "result", "coco", "labels", "default")
        and path.parent.name.casefold() in SPLIT_NAMES
    ):
        return path.parent.name
    return name or path.stem
