"""YOLO: `data.yaml` (or darknet's `obj.data`), and a text file an image with lines `class x y w h` in fractions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from weaksam_cli.core.names import first_few
from weaksam_cli.core.settings import read_yaml_mapping
from weaksam_cli.data.annotations import RawBox, RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.dataset import SPLIT_NAMES, ReadRecipe, Remarks, role_of
from weaksam_cli.data.images import SUFFIXES, find_images
from weaksam_cli.data.outlines import box_of_points, numbers, polygon_mask
from weaksam_cli.data.xml_files import beginning
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "data.yaml with labels/*.txt (YOLO)"
_KEYS: Final = ("train", "val", "valid", "validation", "test")
_NAMES_FILES: Final = ("classes.txt", "obj.names", "names.txt", "classes.names", "_darknet.labels")
_LABELS_BYTES: Final = 4 * 1000**2
_LIST_BYTES: Final = 64 * 1000**2
_WHOLE: Final = "trainval"


class Recipe(ReadRecipe):
    """How a YOLO dataset is read."""

    method: Literal["yolo"] = "yolo"


@dataclass(frozen=True)
class YoloFolder:
    """A YOLO dataset.

    Attributes:
        where: the file or folder that says so.
        names: the classes by number; None where nothing names them.
        splits: split -> folders of images, or text files that list them.
        warnings: what is to be told.
    """

    where: Path
    names: Mapping[int, str] | None
    splits: Mapping[str, tuple[Path, ...]]
    warnings: tuple[str, ...] = ()


def likeness(source: Path) -> int:
    """3 where a yaml names classes and splits, or text files of labels lie beside images."""
    try:
        return 3 if find_yolo(source) is not None else 0
    except UserError:
        return 3  # it is one, and `read` says what is wrong with it


def read(source: Path, _recipe: Recipe, _images: Path | None = None, *, boxes: bool) -> RawDataset:
    """What a YOLO dataset says; an image without a text file shows nothing, as ultralytics has it.

    Raises:
        UserError: there is none, its images are not found, or a class has no name.
    """
    found = find_yolo(source)
    if found is None:
        raise UserError(
            "no YOLO dataset here",
            where=str(source),
            remedy="Give data.yaml, or the folder above images and labels",
        )

    def split(name: str) -> RawSplit:
        remarks = Remarks()
        images = [_image(key, path, found, boxes) for key, path in _listed(found, name, remarks)]
        bare = [image.name for image in images if not labels_of(image.path or Path()).is_file()]
        if bare:
            told = f"{len(bare)} of {len(images)} images have no text file and so show nothing: {first_few(bare, 3)}"
            remarks.warn("", told)
        return RawSplit(name, found.where, images, fractions=True, remarks=remarks)

    names = found.names
    ids = None if names is None else {name: number for number, name in sorted(names.items())}
    roles = {name: role_of(name) for name in found.splits}
    return RawDataset(found.where, tuple(roles), roles, split, class_ids=ids, warnings=found.warnings)


def find_yolo(source: Path) -> YoloFolder | None:
    """The dataset that `source` means: a yaml, or the folder that holds one, or images with text files.

    Raises:
        UserError: a yaml that cannot be read, or whose splits are not there.
    """
    if source.is_file():
        return _of_yaml(source) if source.suffix.casefold() in (".yaml", ".yml") else _of_darknet(source)
    if not source.is_dir():
        return None
    for path in (*sorted(source.glob("*.yaml")), *sorted(source.glob("*.yml"))):
        if b"names" in beginning(path) and (found := _of_yaml(path)) is not None:
            return found
    for path in sorted(source.glob("*.data")):
        if (found := _of_darknet(path)) is not None:
            return found
    return _of_folders(source)


def _of_yaml(path: Path) -> YoloFolder | None:
    values = read_yaml_mapping(path)
    given = {key: values[key] for key in _KEYS if values.get(key)}
    if "names" not in values or not given:
        return None
    names = _names(values["names"], path)
    base = path.parent
    root = values.get("path")
    bases = [base, *([base / str(root)] if isinstance(root, str) else [])]
    splits = {key: tuple(_place(item, bases, path) for item in _items(value)) for key, value in given.items()}
    warnings = []
    count = values.get("nc")
    if isinstance(count, int) and count != len(names):
        warnings.append(f"{path.name} says nc: {count} and names {len(names)} classes")
    return YoloFolder(path, names, splits, tuple(warnings))


def _of_darknet(path: Path) -> YoloFolder | None:
    """`obj.data`: lines `train = ...`, `valid = ...`, `names = ...`."""
    if path.suffix.casefold() != ".data":
        return None
    lines = [line.partition("=") for line in _text(path, _LABELS_BYTES).splitlines()]
    values = {key.strip(): value.strip() for key, _, value in lines if value.strip()}
    given = {key: values[key] for key in _KEYS if key in values}
    if "names" not in values or not given:
        return None
    names = _named_by(_place(values["names"], [path.parent], path))
    return YoloFolder(
        path, names, {key: (_place(value, [path.parent], path),) for key, value in given.items()}
    )


def _of_folders(source: Path) -> YoloFolder | None:
    """`images/train` with `labels/train`, `train/images` with `train/labels`, or images with text files beside them."""
    below = [
        child for child in sorted(source.iterdir()) if child.is_dir() and child.name.casefold() in SPLIT_NAMES
    ]
    images = source / "images"
    parts = {child.name: (_own_images(child),) for child in below if _has_labels(_own_images(child))}
    if not parts and images.is_dir():
        inner = [
            child
            for child in sorted(images.iterdir())
            if child.is_dir() and child.name.casefold() in SPLIT_NAMES
        ]
        parts = {child.name: (child,) for child in inner if _has_labels(child)}
    if not parts:
        whole = next((folder for folder in (images, source) if folder.is_dir() and _has_labels(folder)), None)
        if whole is None:
            return None
        parts = {_WHOLE: (whole,)}
    places = [source, source / "labels", *(folder for paths in parts.values() for folder in paths)]
    file = next((place / name for place in places for name in _NAMES_FILES if (place / name).is_file()), None)
    names = None if file is None else _named_by(file)
    told = "nothing names the classes (data.yaml, classes.txt), so they are called by their numbers"
    return YoloFolder(source, names, parts, () if names else (told,))


def _own_images(folder: Path) -> Path:
    return folder / "images" if (folder / "images").is_dir() else folder


def _has_labels(folder: Path) -> bool:
    """Whether the first images in a folder have text files with lines of a class and fractions."""
    for key in sorted(path.name for path in folder.iterdir() if path.suffix.casefold() in SUFFIXES)[:20]:
        lines = beginning(labels_of(folder / key)).decode("ascii", "replace").splitlines()[:1]
        values = numbers(lines[0].split()) if lines else None
        if values is not None and len(values) >= 5 and values[0] >= 0 and values[0].is_integer():
            return True
    return False


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _place(value: Any, bases: Sequence[Path], path: Path) -> Path:
    """A folder or list that a yaml names: as written, else below the yaml's folder by the end of its path.

    Raises:
        UserError: it is not there.
    """
    parts = [
        part for part in PurePosixPath(str(value).replace("\\", "/")).parts if part not in ("/", "..", ".")
    ]
    ends = [PurePosixPath(*parts[start:]) for start in range(len(parts))]
    found = next((base / end for end in ends for base in bases if _exists(base / end)), None)
    if found is None:
        raise UserError(
            f"there is no {str(value)[:200]!r} below {path.parent}",
            where=str(path),
            remedy="Put the images where the file says, or correct it",
        )
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _names(value: Any, path: Path) -> dict[int, str]:
    """A list of names, or a mapping of numbers to names.

    Raises:
        UserError: neither, or a name that stands twice.
    """
    pairs = (
        list(enumerate(value))
        if isinstance(value, list)
        else list(value.items())
        if isinstance(value, dict)
        else []
    )
    names = {
        int(key): str(name).strip()
        for key, name in pairs
        if str(key).isdigit() and isinstance(name, str | int) and len(str(key)) < 9
    }
    if (
        not names
        or len(names) < len(pairs)
        or len(set(names.values())) < len(names)
        or not all(names.values())
    ):
        raise UserError(
            "names: expected a list of distinct class names, or numbers with their names",
            where=str(path),
            remedy="Write names: [cat, dog]",
        )
    return names


def _named_by(path: Path) -> dict[int, str]:
    lines = [line.strip() for line in _text(path, _LABELS_BYTES).splitlines()]
    return _names([line for line in lines if line], path)


def _listed(found: YoloFolder, split: str, remarks: Remarks) -> Iterator[tuple[str, Path]]:
    """Key and file of every image of a split."""
    base = found.where.parent if found.where.is_file() else found.where
    for place in found.splits[split]:
        if place.is_dir():
            own = _own_images(place)
            prefix = (
                own.relative_to(base).as_posix() + "/" if own.is_relative_to(base) and own != base else ""
            )
            yield from ((prefix + key, own / key) for key in find_images(own))
            continue
        for line in _text(place, _LIST_BYTES).splitlines():
            if name := line.strip():
                path = _near(name, [place.parent, base])
                if path is None:
                    remarks.fail(name, "there is no such image")
                else:
                    yield path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name, path


def _near(name: str, bases: Sequence[Path]) -> Path | None:
    """The image that a list names, below its folder: by the longest end of the path that is there."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    ends = [PurePosixPath(*parts[start:]) for start in range(len(parts))]
    return next((base / end for end in ends for base in bases if _exists(base / end)), None)


def labels_of(image: Path) -> Path:
    """The text file of an image: in the folder `labels` in the place of the last `images`, else beside it."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        place = len(parts) - 2 - parts[:-1][::-1].index("images")
        parts[place] = "labels"
        swapped = Path(*parts).with_suffix(".txt")
        if swapped.parent.is_dir():
            return swapped
    return image.with_suffix(".txt")


def _image(key: str, path: Path, found: YoloFolder, boxes: bool) -> RawImage:
    file = labels_of(path)
    lines = _text(file, _LABELS_BYTES).splitlines() if file.is_file() else []
    objects = [
        _object(line, f"{file}, line {number}", number, found, boxes) for number, line in enumerate(lines, 1)
    ]
    return RawImage(key, tuple(item for item in objects if item is not None), key, path)


def _object(line: str, where: str, number: int, found: YoloFolder, boxes: bool) -> RawObject | None:
    """The object of a line: a box, a polygon of three points or more, or a box with points or a score behind it.

    Raises:
        UserError: the line is none, or its class has no name.
    """
    if not line.strip():
        return None
    values = numbers(line.split())
    if values is None or len(values) < 5 or values[0] < 0 or not values[0].is_integer():
        raise UserError(
            f"expected `class x y w h`, got {line.strip()[:60]!r}",
            where=where,
            remedy="Are these labels of YOLO?",
        )
    index = int(values[0])
    name = str(index) if found.names is None else found.names.get(index)
    if name is None:
        raise UserError(
            f"the class {index} has no name",
            where=where,
            remedy=f"{found.where.name} names {len(found.names or ())} classes: {first_few((found.names or {}).values())}",
        )
    title = f"line {number}"
    if not boxes:
        return RawObject(name, title=title)
    rest = values[1:]
    if len(rest) >= 6 and len(rest) % 2 == 0:
        return RawObject(name, title=title, box=box_of_points(rest), mask=_scaled(rest))
    return RawObject(name, title=title, box=_box(rest))


def _box(values: Sequence[float]) -> RawBox:
    x, y, width, height = values[:4]
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _scaled(points: Sequence[float]) -> Any:
    """The mask of a polygon in fractions."""

    def mask(height: int, width: int) -> bytes:
        scaled = [value * (height if place % 2 else width) for place, value in enumerate(points)]
        return polygon_mask([scaled])(height, width)

    return mask


def _text(path: Path, limit: int) -> str:
    """The text of a file of bounded size.

    Raises:
        UserError: it is larger, cannot be read, or is no text.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise UserError(f"has {size:,} bytes, and at most {limit:,} are read", where=str(path))
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot be read ({error})", where=str(path), remedy="Save it as UTF-8 text"
        ) from None
