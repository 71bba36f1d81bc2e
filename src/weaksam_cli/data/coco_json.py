"""COCO instances files: strict reading of what identity hangs on, and where the images lie.

Checked here: ids, categories, references, file names. Boxes and segmentations are left to the ground-truth reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from weaksam_cli.data.paths import SPLIT_NAMES, first_few, inside, role_of
from weaksam_cli.data.types import ReadOptions, Role
from weaksam_cli.errors import UserError

_MAX_ID: Final = 2**63 - 1
_PROBES: Final = 25


@dataclass(frozen=True)
class CocoImage:
    """An entry of `images`; the sizes are (height, width) as declared, or None."""

    image_id: int
    file_name: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class CocoAnnotation:
    """An entry of `annotations`: `raw` is the entry itself, for the ground-truth reader."""

    image_id: int
    category_id: int
    crowd: bool
    raw: Mapping[str, Any]


@dataclass(frozen=True)
class CocoFile:
    """One checked file.

    Attributes:
        path: the file.
        images: in the order of the file.
        categories: id to name, by increasing id.
        annotations: image id to its annotations in the order of the file; None when the file has no `annotations`
            at all, as the files of COCO's test sets.
    """

    path: Path
    images: tuple[CocoImage, ...]
    categories: Mapping[int, str]
    annotations: Mapping[int, Sequence[CocoAnnotation]] | None


def coco_files(source: Path) -> dict[str, Path]:
    """Instances files by split name: `source` itself, or those in it or in its `annotations` folder.

    The split of `instances_train2017.json` is `train2017`. In a folder, `instances_*.json` are taken if there are any,
    otherwise the files whose name holds the name of a split, otherwise the only json file there is.
    """
    if source.is_file():
        return {_split_name(source): source} if source.suffix.casefold() == ".json" else {}
    for folder in (source / "annotations", source):
        found = sorted(folder.glob("*.json")) if folder.is_dir() else []
        instances = [path for path in found if path.stem.startswith("instances")]
        named = [path for path in found if any(word in path.stem.casefold() for word in SPLIT_NAMES)]
        chosen = instances or named or (found if len(found) == 1 else [])
        if chosen:
            return {_split_name(path): path for path in chosen}
    return {}


def coco_roles(source: Path, options: ReadOptions) -> dict[str, tuple[Path, Role]]:
    """The files to read with their roles, by split.

    Raises:
        UserError: without an instances file, or for a split that has none.
    """
    files = coco_files(source)
    if not files:
        raise UserError(
            "no COCO instances file here",
            where=str(source),
            remedy="Give the json file, or the folder above annotations/instances_*.json",
        )
    roles: Mapping[str, Role] = options.splits or {name: role_of(name) for name in files}
    missing = [name for name in roles if name not in files]
    if missing and not (len(files) == 1 and len(roles) == 1):
        raise UserError(
            f"there is no instances file for the split {missing[0]!r}",
            where=str(source),
            remedy=f"Available: {first_few(files, 20)}",
        )
    only = next(iter(files.values()))
    return {name: (files.get(name, only), role) for name, role in roles.items()}


def read_coco_file(path: Path) -> CocoFile:
    """Read and check one file.

    Raises:
        UserError: naming the entry, for anything that makes identity uncertain.
    """
    content = _load(path)
    if not isinstance(content, dict):
        raise UserError(
            f"expected an object with images, annotations and categories, got a {_kind(content)}",
            where=str(path),
            remedy="A list is a file of detections; give the instances file",
        )
    reader = _Reader(path)
    categories = reader.categories(content)
    images = reader.images(content)
    known = {image.image_id for image in images}
    annotations = reader.annotations(content, known, categories) if "annotations" in content else None
    return CocoFile(path, images, categories, annotations)


def select(file: CocoFile, subset: Sequence[str] | None) -> tuple[CocoImage, ...]:
    """The images that `subset` lists by file name, stem or id, in the order of the file; all without a list.

    Raises:
        UserError: for an entry of the list that fits no image.
    """
    if subset is None:
        return file.images
    names: dict[str, set[int]] = {}
    for image in file.images:
        path = PurePosixPath(image.file_name)
        for name in {image.file_name, path.name, path.stem, str(image.image_id)}:
            names.setdefault(name, set()).add(image.image_id)
    strangers = [entry for entry in subset if entry not in names]
    if strangers:
        raise UserError(
            f"{len(strangers)} entries of the list fit no image: {first_few(strangers)}",
            where=str(file.path),
            remedy="List file names, stems or image ids of this file",
        )
    wanted = {image_id for entry in subset for image_id in names[entry]}
    return tuple(image for image in file.images if image.image_id in wanted)


def find_images_root(source: Path, split: str, file: CocoFile, given: Path | None) -> Path:
    """The folder that `file_name` is relative to: the one given, else the first likely one that holds an image.

    Raises:
        UserError: listing where was looked.
    """
    if given is not None:
        if not given.is_dir():
            raise UserError("no such folder of images", where=str(given), remedy="Check --images")
        return given
    parent = file.path.parent
    above = [source, parent, parent.parent] if source.is_dir() else [parent, parent.parent]
    places = [base / part for base in above for part in ("images", f"images/{split}", split, ".")]
    probes = file.images[:_PROBES]
    for place in dict.fromkeys(places):
        if any(inside(place, image.file_name, where=str(file.path)).is_file() for image in probes):
            return place
    raise UserError(
        f"the images are not found; looked for {probes[0].file_name if probes else 'images'} in "
        f"{first_few(dict.fromkeys(map(str, places)), 12)}",
        where=str(file.path),
        remedy="Say where they are with --images FOLDER",
    )


def _split_name(path: Path) -> str:
    return path.stem.removeprefix("instances").lstrip("_-") or path.stem


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise UserError(
            f"no valid JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            where=str(path),
            remedy="The file may be cut short: fetch it again",
        ) from None
    except UnicodeDecodeError:
        raise UserError("the JSON is not UTF-8", where=str(path), remedy="Save it as UTF-8") from None
    except (RecursionError, OSError, ValueError) as error:
        raise UserError(
            f"the file cannot be read ({error})", where=str(path), remedy="Check the file"
        ) from None


def _kind(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


class _Reader:
    """Checks entries; every complaint names the file and the entry."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def error(self, place: str, what: str, remedy: str = "Mend the entry or remove it") -> UserError:
        return UserError(what, where=f"{self.path}: {place}", remedy=remedy)

    def entries(self, content: Mapping[str, Any], field: str) -> list[tuple[str, Mapping[str, Any]]]:
        value = content.get(field)
        if not isinstance(value, list):
            met = _kind(value) if field in content else "nothing"
            raise self.error(field, f"expected a list, got {met}", "Give a COCO instances file")
        for index, entry in enumerate(value):
            if not isinstance(entry, dict):
                raise self.error(f"{field}[{index}]", f"expected an object, got {_kind(entry)}")
        return [(f"{field}[{index}]", entry) for index, entry in enumerate(value)]

    def integer(self, entry: Mapping[str, Any], field: str, place: str) -> int:
        value = entry.get(field)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_ID:
            met = json.dumps(value)[:40] if field in entry else "nothing"
            raise self.error(
                f"{place}.{field}", f"expected a whole number, got {met}", "COCO ids are numbers, not strings"
            )
        return value

    def categories(self, content: Mapping[str, Any]) -> dict[int, str]:
        found: dict[int, str] = {}
        for place, entry in self.entries(content, "categories"):
            category_id = self.integer(entry, "id", place)
            name = entry.get("name")
            if not isinstance(name, str) or not name.strip():
                raise self.error(f"{place}.name", "expected the name of the category", "Name every category")
            if category_id in found:
                raise self.error(place, f"the category id {category_id} stands twice")
            if name.strip() in found.values():
                raise self.error(place, f"the category name {name.strip()!r} stands twice")
            found[category_id] = name.strip()
        if not found:
            raise self.error("categories", "there is no category", "Name the classes of the dataset")
        return dict(sorted(found.items()))

    def images(self, content: Mapping[str, Any]) -> tuple[CocoImage, ...]:
        found: list[CocoImage] = []
        ids, names = set[int](), set[str]()
        for place, entry in self.entries(content, "images"):
            image_id = self.integer(entry, "id", place)
            file_name = entry.get("file_name")
            if not isinstance(file_name, str) or not file_name:
                raise self.error(f"{place}.file_name", "expected the path of the image")
            inside(Path("the image root"), file_name, where=f"{self.path}: {place}.file_name")
            key = PurePosixPath(file_name).as_posix()
            if image_id in ids:
                raise self.error(place, f"the image id {image_id} stands twice")
            if key in names:
                raise self.error(place, f"the file name {key!r} stands twice")
            ids.add(image_id)
            names.add(key)
            found.append(CocoImage(image_id, key, self.size(entry)))
        if not found:
            raise self.error("images", "there is no image", "Give a file that lists images")
        return tuple(found)

    def size(self, entry: Mapping[str, Any]) -> tuple[int, int] | None:
        height, width = entry.get("height"), entry.get("width")
        if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
            return height, width
        return None

    def annotations(
        self, content: Mapping[str, Any], images: set[int], categories: Mapping[int, str]
    ) -> dict[int, list[CocoAnnotation]]:
        found: dict[int, list[CocoAnnotation]] = {}
        ids = set[int]()
        for place, entry in self.entries(content, "annotations"):
            if "id" in entry:
                annotation_id = self.integer(entry, "id", place)
                if annotation_id in ids:
                    raise self.error(place, f"the annotation id {annotation_id} stands twice")
                ids.add(annotation_id)
            image_id = self.integer(entry, "image_id", place)
            if image_id not in images:
                raise self.error(place, f"there is no image with the id {image_id}")
            category_id = self.integer(entry, "category_id", place)
            if category_id not in categories:
                allowed = first_few((f"{number} {name}" for number, name in categories.items()), 8)
                raise self.error(
                    place, f"there is no category with the id {category_id}", f"Categories: {allowed}"
                )
            crowd = entry.get("iscrowd", 0)
            if crowd not in (0, 1):
                raise self.error(f"{place}.iscrowd", f"expected 0 or 1, got {json.dumps(crowd)[:40]}")
            found.setdefault(image_id, []).append(CocoAnnotation(image_id, category_id, bool(crowd), entry))
        return found
