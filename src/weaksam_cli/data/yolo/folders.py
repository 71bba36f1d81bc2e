"""Where a YOLO dataset has its images and the names of its classes: `data.yaml`, darknet's `obj.data`, or folders alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from weaksam_cli.core.files import beginning
from weaksam_cli.core.settings import read_yaml_mapping
from weaksam_cli.data.dataset import SPLIT_NAMES, split_word, subfolders
from weaksam_cli.data.images import SUFFIXES
from weaksam_cli.data.yolo.labels import MOST_BYTES, Names, first_line, label_values, labels_of, text_of
from weaksam_cli.errors import UserError

_KEYS: Final = ("train", "val", "valid", "validation", "test")
_NAMES_FILES: Final = ("classes.txt", "obj.names", "names.txt", "classes.names", "_darknet.labels")
_PROBES: Final = 1000
_WHOLE: Final = "trainval"


@dataclass(frozen=True)
class YoloFolder:
    """A YOLO dataset.

    Attributes:
        where: the file or folder that says so.
        names: its classes.
        splits: split -> folders of images, or text files that list them.
        warnings: what is to be told.
    """

    where: Path
    names: Names
    splits: Mapping[str, tuple[Path, ...]]
    warnings: tuple[str, ...] = ()

    @property
    def base(self) -> Path:
        """The folder of the dataset."""
        return self.where.parent if self.where.is_file() else self.where


def find_yolo(source: Path) -> YoloFolder | None:
    """The dataset that `source` means: a yaml, or the folder that holds one, or images with text files.

    Raises:
        UserError: a yaml that cannot be read, or none of whose splits is there.
    """
    if source.is_file():
        return _of_yaml(source) if source.suffix.casefold() in (".yaml", ".yml") else _of_darknet(source)
    if not source.is_dir():
        return None
    for path in _yamls(source):
        if (found := _of_yaml(path)) is not None:
            return found
    for path in sorted(source.glob("*.data")):
        if (found := _of_darknet(path)) is not None:
            return found
    return _of_folders(source)


def _yamls(folder: Path) -> Iterator[Path]:
    """The yaml files of a folder that name classes."""
    for path in (*sorted(folder.glob("*.yaml")), *sorted(folder.glob("*.yml"))):
        if b"names" in beginning(path) or b"train" in beginning(path):
            yield path


def _of_yaml(path: Path) -> YoloFolder | None:
    values = read_yaml_mapping(path)
    given = {key: values[key] for key in _KEYS if values.get(key)}
    if "names" not in values or not given:
        return None
    names, base, root = _names(values["names"], path), path.parent, values.get("path")
    bases = [*([base / root] if isinstance(root, str) else []), base]
    places = {key: [place_of(str(item), bases) for item in _items(value)] for key, value in given.items()}
    splits = {key: tuple(place for place in found if place) for key, found in places.items()}
    splits = {key: found for key, found in splits.items() if found}
    lost = [f"{key}: {str(given[key])[:200]}" for key, found in places.items() if None in found]
    if not splits:
        raise UserError(
            f"the images are not found below {base} ({lost[0]})",
            where=str(path),
            remedy="Put the images where the file says, or correct it",
        )
    warnings = [f"{path.name} names what is not there, {item}" for item in lost]
    for key, first in _repeated(splits).items():
        warnings.append(
            f"{path.name} names the same images as {first} and as {key}, which is no split of its own"
        )
        del splits[key]
    count = values.get("nc")
    if isinstance(count, int) and count != len(names):
        warnings.append(f"{path.name} says nc: {count} and names {len(names)} classes")
    return YoloFolder(path, Names(path, names, "kpt_shape" in values), splits, tuple(warnings))


def _repeated(splits: Mapping[str, tuple[Path, ...]]) -> dict[str, str]:
    """Splits that name the same places as an earlier one -> that one: trainers ask for a `val`, be there one or not."""
    firsts: dict[tuple[Path, ...], str] = {}
    for key, places in splits.items():
        firsts.setdefault(places, key)
    return {key: firsts[places] for key, places in splits.items() if firsts[places] != key}


def _of_darknet(path: Path) -> YoloFolder | None:
    """`obj.data`: lines `train = ...`, `valid = ...`, `names = ...`."""
    if path.suffix.casefold() != ".data":
        return None
    lines = [line.partition("=") for line in text_of(path, MOST_BYTES).splitlines()]
    values = {key.strip(): value.strip() for key, _, value in lines if value.strip()}
    places: dict[str, Path | None] = {
        key: place_of(values[key], [path.parent]) for key in _KEYS if key in values
    }
    if "names" not in values or not places:
        return None
    file = place_of(values["names"], [path.parent])
    splits: dict[str, tuple[Path, ...]] = {
        key: (place,) for key, place in places.items() if place is not None
    }
    lost = [
        f"{key} = {values[key][:200]}" for key, place in [*places.items(), ("names", file)] if place is None
    ]
    if file is None or not splits:
        what, remedy = f"names what is not there, {lost[-1]}", "Put it there, or correct the file"
        raise UserError(what, where=str(path), remedy=remedy)
    warnings = tuple(f"{path.name} names what is not there, {item}" for item in lost)
    return YoloFolder(path, Names(file, _named_by(file)), splits, warnings)


def _of_folders(source: Path) -> YoloFolder | None:
    """Lists (`train.txt`), `images/train` with `labels/train`, `train/images` with `train/labels`, or text beside images."""
    images = own_images(source)
    lists = {path.stem: (path,) for path in sorted(source.glob("*.txt")) if _lists_images(path)}
    below = {child.name: (own_images(child),) for child in subfolders(source) if split_word(child.name)}
    inner = {child.name: (child,) for child in subfolders(images) if split_word(child.name)}
    found = [
        {name: paths for name, paths in parts.items() if _has_labels(paths[0])} for parts in (below, inner)
    ]
    parts = lists or found[0] or found[1]
    if not parts:
        whole = next((folder for folder in (images, source) if folder.is_dir() and _has_labels(folder)), None)
        if whole is None:
            return None
        parts = {source.name if source.name.casefold() in SPLIT_NAMES else _WHOLE: (whole,)}
    names = _names_near(source, [path for paths in parts.values() for path in paths])
    told = "nothing names the classes (data.yaml, classes.txt), so they are called by their numbers"
    return YoloFolder(source, names, parts, () if names.by_number else (told,))


def _names_near(source: Path, images: Sequence[Path]) -> Names:
    """The names that lie in a dataset, in its folders of labels, or above one of its splits."""
    labels = [labels_of(path / "x.jpg").parent for path in images if path.is_dir()]
    above = [source.parent] if source.name.casefold() in SPLIT_NAMES else []
    for place in (source, source / "labels", *labels, *images, *above):
        for name in _NAMES_FILES:
            if (place / name).is_file():
                return Names(place / name, _named_by(place / name))
    for path in (path for place in (source, *above) for path in _yamls(place)):
        values = read_yaml_mapping(path)
        if "names" in values:
            return Names(path, _names(values["names"], path), "kpt_shape" in values)
    return Names(source, None)


def own_images(folder: Path) -> Path:
    """The folder `images` in the folder of a split, where it has one."""
    return next((child for child in subfolders(folder) if child.name.casefold() == "images"), folder)


def _lists_images(path: Path) -> bool:
    """Whether a text file is the list of a split with labels."""
    line = first_line(path).strip()
    if not split_word(path.stem) or not line.casefold().endswith(SUFFIXES):
        return False
    image = place_of(line, [path.parent])
    return image is not None and labels_of(image).is_file()


def _has_labels(folder: Path) -> bool:
    """Whether the first images in a folder have text files with lines of a class and fractions."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix.casefold() in SUFFIXES)[:_PROBES]
    return any(label_values(first_line(labels_of(folder / name))) is not None for name in names)


def place_of(written: str, bases: Sequence[Path]) -> Path | None:
    """A file or folder that a dataset names: below one of its folders by the longest end of the path that is there.

    What lies elsewhere is found where it is written, unless that holds the whole dataset (`/`, `..`).
    """
    parts = [part for part in PurePosixPath(written.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    whole = Path(*parts)
    literal = [
        base / written for base in bases if not base.absolute().is_relative_to((base / written).resolve())
    ]
    ends = [Path(*parts[start:]) for start in range(1, len(parts))]
    tried = [*(base / whole for base in bases), *literal, *(base / end for end in ends for base in bases)]
    return next((path for path in tried if _exists(path)), None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _names(value: Any, path: Path) -> dict[int, str]:
    """A list of names, or a mapping of numbers to names.

    Raises:
        UserError: neither, or a name that stands twice.
    """
    pairs = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    names: dict[int, str] = {}
    for key, name in pairs:
        is_number, is_name = str(key).isdecimal() and len(str(key)) < 9, isinstance(name, str | int)
        if not is_number or not is_name or isinstance(name, bool) or not str(name).strip():
            what = f"names: expected class names by number, got {str(key)[:40]}: {str(name)[:40]}"
            raise UserError(what, where=str(path), remedy='Write names: ["cat", "dog"]')
        names[int(key)] = str(name).strip()
    if not names or len(set(names.values())) < len(names):
        raise UserError(
            "names: expected a list of distinct class names, or numbers with their names",
            where=str(path),
            remedy='Write names: ["cat", "dog"]',
        )
    return names


def _named_by(path: Path) -> dict[int, str]:
    lines = [line.strip() for line in text_of(path, MOST_BYTES).splitlines()]
    return _names([line for line in lines if line], path)
