"""COCO layout: instances json; images and image-level labels.

Files are read strictly in what identity hangs on: ids, categories, references, file names. Boxes and segmentations are
looked at in `coco_truth` alone; here they are not even kept.
"""

from __future__ import annotations

import codecs
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StringConstraints, ValidationError

from weaksam_cli.core.names import first_few
from weaksam_cli.data.dataset import (
    SPLIT_NAMES,
    DatasetSplit,
    Difficult,
    GroundTruthSplit,
    ImageRecord,
    ReadRecipe,
    Remarks,
    Role,
    check_class,
    choose_splits,
    given_folder,
    inside,
    role_of,
    with_labels,
)
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "annotations/instances_*.json or a json file (COCO)"
_PROBES: Final = 25


class Recipe(ReadRecipe):
    """How COCO instances files are read.

    Attributes:
        difficult: whether crowds give their class to the image's labels.
        subset: only the images with these file names, stems or ids.
    """

    method: Literal["coco"] = "coco"
    difficult: Difficult = "exclude"
    subset: tuple[str, ...] | None = None


Identifier = Annotated[StrictInt, Field(ge=0, lt=2**63)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)


class Category(_Entry):
    """An entry of `categories`."""

    id: Identifier
    name: Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=1)]


class CocoImage(_Entry):
    """An entry of `images`; sizes are what the file says, of any type."""

    id: Identifier
    file_name: Annotated[str, StringConstraints(strict=True, min_length=1)]
    height: Any = None
    width: Any = None

    @property
    def key(self) -> str:
        """The image's key: its path under the image root."""
        return PurePosixPath(self.file_name).as_posix()

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) as declared, or None."""
        sides = (self.height, self.width)
        return sides if all(isinstance(side, int) and side > 0 for side in sides) else None


class Annotation(_Entry):
    """An entry of `annotations`."""

    id: Identifier | None = None
    image_id: Identifier
    category_id: Identifier
    iscrowd: StrictBool | Literal[0, 1] = 0


A = TypeVar("A", bound=Annotation)


class Instances(_Entry, Generic[A]):
    """An instances file; without `annotations`, as of COCO's test sets, nobody labelled the images."""

    categories: Annotated[list[Category], Field(min_length=1)]
    images: Annotated[list[CocoImage], Field(min_length=1)]
    annotations: Sequence[A] | None = None


FoundImage = tuple[ImageRecord, tuple[int, int] | None]
"""A readable image, not labelled yet, and its (height, width) as the file declares it, if it does."""


def likeness(source: Path) -> int:
    """2 where there is an instances file by its name or place."""
    return 2 if coco_files(source) else 0


def read(source: Path, recipe: Recipe, images: Path | None = None) -> tuple[DatasetSplit, ...]:
    """Splits of COCO instances files with image-level labels; one file is one split.

    An image without annotations shows no class (`labels == ()`). A file without the field `annotations` leaves its
    images unlabelled (None) and can only be a test split. Crowds count as difficult objects. Classes are the
    categories by increasing id; the ids, gaps included, are kept beside them.

    Raises:
        UserError: for files that cannot be trusted (see `read_instances`), splits with different categories, or a
            category that is not in the class list given.
    """
    splits = tuple(
        _read_split(source, name, path, role, recipe, images)
        for name, (path, role) in coco_roles(source, recipe).items()
    )
    for other in splits[1:]:
        _check_same_classes(splits[0], other)
    return splits


def read_ground_truth(
    source: Path, split: str, recipe: Recipe, images: Path | None = None, *, masks: bool = False
) -> GroundTruthSplit:
    """Annotated objects of one split, for `eval` and `report` alone: see `coco_truth`."""
    from weaksam_cli.data.coco_truth import read_coco_truth

    return read_coco_truth(source, split, recipe, images, masks=masks)


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


def coco_roles(source: Path, recipe: Recipe) -> dict[str, tuple[Path, Role]]:
    """The files to read with their roles, by split; a single file can be given any name.

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
    if recipe.splits is not None and len(files) == len(recipe.splits) == 1:
        files = dict.fromkeys(recipe.splits, next(iter(files.values())))
    roles = choose_splits(recipe.splits, files, {name: role_of(name) for name in files}, source)
    return {name: (files[name], role) for name, role in roles.items()}


def read_instances(path: Path, annotation: type[A]) -> Instances[A]:
    """Read and check one file, keeping of its annotations what the given type has fields for.

    Raises:
        UserError: naming the entry, for anything that makes identity uncertain.
    """
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        file = Instances[annotation].model_validate_json(content)  # type: ignore[valid-type]
    except ValidationError as error:
        raise _explain(path, error) from None
    except OSError as error:
        raise UserError(
            f"the file cannot be read ({error})", where=str(path), remedy="Check the file"
        ) from None
    _check_identity(path, file)
    return file


def class_table(path: Path, file: Instances[A], recipe: Recipe) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Class names and category ids by increasing id, or in the order of the class list where one is given.

    Raises:
        UserError: when the file and the class list do not name the same classes.
    """
    ids = {category.name: category.id for category in sorted(file.categories, key=attrgetter("id"))}
    if recipe.classes is None:
        return tuple(ids), tuple(ids.values())
    where = f"{path}: categories"
    for name in ids:
        check_class(name, recipe.classes, where=where)
    for name in recipe.classes:
        if name not in ids:
            raise UserError(
                f"the class {name!r} of the class list is no category",
                where=where,
                remedy="Add the category, or leave the class out of the list",
            )
    return recipe.classes, tuple(ids[name] for name in recipe.classes)


def read_images(
    source: Path, split: str, path: Path, file: Instances[A], recipe: Recipe, images: Path | None
) -> tuple[list[FoundImage], Remarks]:
    """The images that can be read, in the order of the file, and what is to be told about the others.

    Raises:
        UserError: when none can be read.
    """
    root = given_folder(images) if images is not None else _find_root(source, split, path, file)
    remarks = Remarks()
    found: list[FoundImage] = []
    for entry in _selected(path, file, recipe.subset):
        size = remarks.size_of(entry.key, root / entry.key, recipe.max_pixels, entry.size)
        if size is not None:
            found.append((ImageRecord(entry.key, root / entry.key, *size, image_id=entry.id), entry.size))
    remarks.require(found, split, path)
    return found, remarks


def by_image(annotations: Sequence[A]) -> Mapping[int | None, Sequence[A]]:
    """Image id -> its annotations, in the order of the file; none for any other image."""
    found: defaultdict[int | None, list[A]] = defaultdict(list)
    for item in annotations:
        found[item.image_id].append(item)
    return found


def _read_split(
    source: Path, name: str, path: Path, role: Role, recipe: Recipe, images: Path | None
) -> DatasetSplit:
    file = read_instances(path, Annotation)
    if file.annotations is None and role == "train":
        raise UserError(
            "there are no annotations, so no labels to train with",
            where=str(path),
            remedy="Give the instances file of a training set",
        )
    class_names, category_ids = class_table(path, file, recipe)
    found, remarks = read_images(source, name, path, file, recipe, images)
    names, objects = dict(zip(category_ids, class_names, strict=True)), by_image(file.annotations or ())
    records = []
    for image, _ in found:
        shown = [(names[item.category_id], bool(item.iscrowd)) for item in objects[image.image_id]]
        labelled = with_labels(image, shown, class_names, recipe.difficult)
        records.append(image if file.annotations is None else labelled)
    told = remarks.told(class_names)
    return DatasetSplit(name, class_names, category_ids, tuple(records), *told, role=role)


def _split_name(path: Path) -> str:
    return path.stem.removeprefix("instances").lstrip("_-") or path.stem


def _selected(path: Path, file: Instances[A], subset: Sequence[str] | None) -> Sequence[CocoImage]:
    """The images that `subset` lists by file name, stem or id, in the order of the file; all without a list."""
    if subset is None:
        return file.images
    names: dict[str, set[int]] = {}
    for image in file.images:
        key = PurePosixPath(image.key)
        for name in {image.key, key.name, key.stem, str(image.id)}:
            names.setdefault(name, set()).add(image.id)
    strangers = [entry for entry in subset if entry not in names]
    if strangers:
        raise UserError(
            f"{len(strangers)} entries of the list fit no image: {first_few(strangers)}",
            where=str(path),
            remedy="List file names, stems or image ids of this file",
        )
    wanted = {image_id for entry in subset for image_id in names[entry]}
    return [image for image in file.images if image.id in wanted]


def _find_root(source: Path, split: str, path: Path, file: Instances[A]) -> Path:
    """The first likely folder that holds an image of the file."""
    parent = path.parent
    above = [source, parent, parent.parent] if source.is_dir() else [parent, parent.parent]
    places = dict.fromkeys(
        base / part for base in above for part in ("images", f"images/{split}", split, ".")
    )
    for place in places:
        if any((place / image.key).is_file() for image in file.images[:_PROBES]):
            return place
    raise UserError(
        f"the images are not found; looked for {file.images[0].key} in {first_few(map(str, places), 12)}",
        where=str(path),
        remedy="Say where they are with --images FOLDER",
    )


def _check_same_classes(first: DatasetSplit, other: DatasetSplit) -> None:
    """Refuse splits whose class tables differ, because a class would silently shift."""
    if (first.class_names, first.category_ids) == (other.class_names, other.category_ids):
        return
    only_first = sorted(set(first.class_names) - set(other.class_names))
    only_other = sorted(set(other.class_names) - set(first.class_names))
    difference = (
        f"only {first.name} has {only_first}, only {other.name} has {only_other}"
        if only_first or only_other
        else "the same names stand in another order or under other ids"
    )
    raise UserError(
        f"the splits {first.name} and {other.name} have different classes: {difference}",
        remedy="Give all splits the same categories",
    )


def _check_identity(path: Path, file: Instances[A]) -> None:
    """No id or name twice, no reference to nothing, no path out of the image root."""
    categories = {category.id: category.name for category in sorted(file.categories, key=attrgetter("id"))}
    images = {image.id for image in file.images}
    _once(path, "categories", "category id", [category.id for category in file.categories])
    _once(path, "categories", "category name", [category.name for category in file.categories])
    for index, image in enumerate(file.images):
        inside(Path("the image root"), image.file_name, where=f"{path}: images[{index}].file_name")
    _once(path, "images", "image id", [image.id for image in file.images])
    _once(path, "images", "file name", [image.key for image in file.images])
    annotations = file.annotations or ()
    _once(path, "annotations", "annotation id", [item.id for item in annotations])
    for index, item in enumerate(annotations):
        what, remedy = None, "Mend the entry or remove it"
        if item.image_id not in images:
            what = f"there is no image with the id {item.image_id}"
        elif item.category_id not in categories:
            what = f"there is no category with the id {item.category_id}"
            remedy = f"Categories: {first_few((f'{key} {name}' for key, name in categories.items()), 8)}"
        if what is not None:
            raise UserError(what, where=f"{path}: annotations[{index}]", remedy=remedy)


def _once(path: Path, field: str, what: str, values: Sequence[object]) -> None:
    seen = set[object]()
    for index, value in enumerate(values):
        if value in seen and value is not None:
            raise UserError(
                f"the {what} {value!r} stands twice",
                where=f"{path}: {field}[{index}]",
                remedy="Mend the entry or remove it",
            )
        seen.add(value)


_EXPECTED: Final = {
    "categories": "a list of classes",
    "images": "a list of images",
    "annotations": "a list of annotations",
    "id": "a whole number",
    "image_id": "a whole number",
    "category_id": "a whole number",
    "file_name": "the path of the image",
    "name": "the name of the category",
    "iscrowd": "0 or 1",
}
"""What has to stand in a field, by its name."""


def _explain(path: Path, error: ValidationError) -> UserError:
    """The first fault in words: where it is, what was expected and what was found."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        what = f"no valid JSON: {first['ctx']['error']}"
        return UserError(what, where=str(path), remedy="The file may be cut short: fetch it again")
    loc = list(first["loc"])
    while loc and isinstance(loc[-1], str) and loc[-1] not in _EXPECTED:
        loc.pop()  # behind the field stands which of its allowed types was tried
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    named = [part for part in loc if isinstance(part, str)]
    expected = _EXPECTED[named[-1]] if named else "an object with images, annotations and categories"
    if first["type"] == "model_type" and named:
        expected = "an object"
    got = "nothing" if first["type"] == "missing" else _shown(first["input"])
    return UserError(
        f"expected {expected}, got {got}",
        where=f"{path}: {place}" if place else str(path),
        remedy="Give a COCO instances file whose ids are numbers",
    )


def _shown(value: object) -> str:
    names = {dict: "an object", list: "a list", type(None): "null"}
    if isinstance(value, list) and not value:
        return "an empty list"
    return names.get(type(value)) or json.dumps(value)[:40]
