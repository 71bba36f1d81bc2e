"""COCO layout: instances json. Boxes and segmentations are kept where ground truth asks for them alone.

Files are read strictly in what identity hangs on: ids, categories, references.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, TypeGuard

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter

from weaksam_cli.core.json_files import parse_items, read_lists, shown
from weaksam_cli.core.names import first_few
from weaksam_cli.data.annotations import RawBox, RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.coco_files import coco_files, image_places
from weaksam_cli.data.coco_masks import segmentation_mask
from weaksam_cli.data.dataset import ReadRecipe, Remarks, role_of
from weaksam_cli.data.outlines import box_of_points
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "annotations/instances_*.json or a json file (COCO)"
_REMEDY: Final = "Give a COCO instances file"


class Recipe(ReadRecipe):
    """How COCO instances files are read.

    Attributes:
        subset: only the images with these file names, stems or ids.
    """

    method: Literal["coco"] = "coco"
    subset: tuple[str, ...] | None = None


def _whole(value: Any) -> Any:
    """Ids as tools write them: 7, 7.0, "7"."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


Identifier = Annotated[int, BeforeValidator(_whole), Field(strict=True, ge=0, lt=2**63)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=False)


class Category(_Entry):
    """An entry of `categories`."""

    id: Identifier
    name: Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=1)]
    supercategory: Any = None


class CocoImage(_Entry):
    """An entry of `images`; sizes are what the file says, of any type."""

    id: Identifier
    file_name: Annotated[str, StringConstraints(strict=True, min_length=1)] | None = None
    coco_url: str | None = None
    height: Any = None
    width: Any = None

    @property
    def name(self) -> str:
        """The name of its file; LVIS has the address alone."""
        return self.file_name or PurePosixPath(self.coco_url or "").name

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) as declared, or None."""
        sides = (self.height, self.width)
        return sides if all(isinstance(side, int) and side > 0 for side in sides) else None


class Annotation(_Entry):
    """An entry of `annotations`."""

    id: Any = None
    image_id: Identifier
    category_id: Identifier
    iscrowd: bool | Literal[0, 1] | None = 0

    @property
    def title(self) -> str:
        """How it is called in remarks."""
        return f"annotation {'?' if self.id is None else str(self.id)[:20]}"


class TruthAnnotation(Annotation):
    """An annotation with its box and mask; checked one by one, since a bad one is left out and told."""

    bbox: Any = None
    area: Any = None
    segmentation: Any = None


_IMAGES, _CATEGORIES = TypeAdapter(CocoImage), TypeAdapter(Category)
_LABELS: Final = TypeAdapter[Annotation](Annotation)
_TRUTH: Final = TypeAdapter[Annotation](TruthAnnotation)


class Instances:
    """An instances file.

    Attributes:
        path: the file.
        images: in the order of the file, ids distinct.
        categories: id -> category, by increasing id.
        objects: image id -> its objects; None where the file has no annotations: nobody labelled the images.
        remarks: what was noticed.
        counts: category id -> annotations.

    Raises:
        UserError: naming the entry, for anything that makes identity uncertain.
    """

    def __init__(self, path: Path, *, boxes: bool) -> None:
        lists = read_lists(path, "images", "categories", "annotations")
        for name in ("images", "categories"):
            if not lists[name]:
                what = (
                    f"expected a list of {name}, got {'nothing' if lists[name] is None else 'an empty list'}"
                )
                raise UserError(what, where=f"{path}: {name}", remedy=_REMEDY)
        self.path, self.remarks = path, Remarks()
        images, categories = lists["images"] or (), lists["categories"] or ()
        self.images = tuple(parse_items(images, _IMAGES, "images", path, remedy=_REMEDY))
        found = sorted(
            parse_items(categories, _CATEGORIES, "categories", path, remedy=_REMEDY), key=attrgetter("id")
        )
        _once(path, "categories", [item.id for item in found])
        _once(path, "images", [item.id for item in self.images])
        nameless = next((number for number, item in enumerate(self.images) if not item.name), None)
        if nameless is not None:
            raise UserError("expected file_name, the path of the image", where=f"{path}: images[{nameless}]")
        self.categories = {item.id: item for item in found}
        self.counts: Counter[int] = Counter()
        self.objects: Mapping[int, Sequence[RawObject]] | None = None
        if lists["annotations"] is not None:
            model = _TRUTH if boxes else _LABELS
            items = parse_items(lists["annotations"], model, "annotations", path, remedy=_REMEDY)
            self.objects = self._objects(items)

    def _objects(self, items: Iterator[Annotation]) -> Mapping[int, Sequence[RawObject]]:
        """Image id -> its objects; annotations of no image are counted."""
        known, orphans = {image.id for image in self.images}, list[str]()
        found: defaultdict[int, list[RawObject]] = defaultdict(list)
        for number, item in enumerate(items):
            if item.category_id not in self.categories:
                raise UserError(
                    f"there is no category with the id {item.category_id}",
                    where=f"{self.path}: annotations[{number}]",
                    remedy=f"Categories: {first_few((f'{key} {one.name}' for key, one in self.categories.items()), 8)}",
                )
            if item.image_id not in known:
                orphans.append(item.title)
                continue
            self.counts[item.category_id] += 1
            found[item.image_id].append(_object(item, self.categories[item.category_id].name))
        if orphans:
            what = f"{len(orphans)} annotations are of images that the file does not list and are left out"
            self.remarks.warn("", f"{what}: {first_few(orphans, 3)}")
        return found

    def classes(self) -> dict[str, int]:
        """Class -> id; a category without annotations that others name as their parent is no class.

        Raises:
            UserError: two categories of one name have annotations.
        """
        parents = {item.supercategory for item in self.categories.values() if item.supercategory != item.name}
        names = Counter(item.name for item in self.categories.values())
        table: dict[str, int] = {}
        for key, item in self.categories.items():
            if not self.counts[key] and (item.name in parents or names[item.name] > 1) and self.counts:
                self.remarks.warn(
                    "", f"the category {key} {item.name!r} has no annotation and others below it: no class"
                )
                continue
            if item.name in table:
                raise UserError(
                    f"the categories {table[item.name]} and {key} have the same name {item.name!r}",
                    where=f"{self.path}: categories",
                    remedy="Rename one of them, or give both the same id",
                )
            table[item.name] = key
        return table


def likeness(source: Path) -> int:
    """2 where there is an instances file by its name, place or content."""
    return 2 if coco_files(source)[0] else 0


def read(source: Path, recipe: Recipe, images: Path | None = None, *, boxes: bool) -> RawDataset:
    """What COCO instances files say; one file is one split.

    An image without annotations shows no class. A file without the field `annotations` leaves its images unlabelled and can
    only be a test split. Crowds are difficult objects. Classes are the categories by increasing id; the ids, gaps included,
    are kept beside them.

    Raises:
        UserError: there is no file, or one that cannot be trusted, or the classes of two splits contradict each other.
    """
    files, warnings = coco_files(source)
    if not files:
        raise UserError(
            "no COCO instances file here",
            where=str(source),
            remedy="Give the json file, or the folder above annotations/instances_*.json",
        )
    if recipe.splits is not None and len(files) == len(recipe.splits) == 1:
        files = dict.fromkeys(recipe.splits, next(iter(files.values())))
    chosen = [name for name in files if recipe.splits is None or name in recipe.splits]
    read_files = {name: Instances(files[name], boxes=boxes) for name in chosen}

    def split(name: str) -> RawSplit:
        file = read_files[name]
        found = [_image(item, file.objects) for item in _selected(file, recipe.subset)]
        return RawSplit(
            name, file.path, found, image_places(source, name, file.path, images), remarks=file.remarks
        )

    default = {name: role_of(name) for name in files}
    tables = {name: file.classes() for name, file in read_files.items()}
    classes = joined_classes(tables, source)
    lacking = {name: [item for item in classes if item not in table] for name, table in tables.items()}
    told = [f"the categories of {name} lack {first_few(items)}" for name, items in lacking.items() if items]
    return RawDataset(source, tuple(files), default, split, class_ids=classes, warnings=(*warnings, *told))


def joined_classes(tables: Mapping[str, Mapping[str, int]], where: Path) -> dict[str, int]:
    """The classes of all splits, by increasing id.

    Raises:
        UserError: a class has two ids, or an id two classes: one would silently become another.
    """
    joined: dict[str, int] = {}
    owner: dict[str, str] = {}
    names: dict[int, str] = {}
    for split, table in tables.items():
        for name, key in table.items():
            if joined.setdefault(name, key) != key or names.setdefault(key, name) != name:
                other = owner.get(name) or owner[names[key]]
                raise UserError(
                    f"the splits {other} and {split} have different classes: {key} is {name!r} in {split}, and in {other} "
                    f"{joined[name] if joined[name] != key else repr(names[key])}",
                    where=str(where),
                    remedy="Give all splits the same categories",
                )
            owner.setdefault(name, split)
    return dict(sorted(joined.items(), key=lambda item: item[1]))


def _image(item: CocoImage, objects: Mapping[int, Sequence[RawObject]] | None) -> RawImage:
    shown_objects = None if objects is None else tuple(objects.get(item.id, ()))
    return RawImage(item.name, shown_objects, declared=item.size, image_id=item.id)


def _object(item: Annotation, name: str) -> RawObject:
    crowd = bool(item.iscrowd)
    if not isinstance(item, TruthAnnotation):
        return RawObject(name, crowd, item.title)
    area = float(item.area) if is_number(item.area) else None
    mask = partial(segmentation_mask, item.segmentation) if item.segmentation else None
    return RawObject(name, crowd, item.title, _box(item), area, mask)


def _box(item: TruthAnnotation) -> RawBox | str:
    """The `bbox` (left, top, width, height) as edges; that of the polygons where there is none."""
    value = item.bbox
    if isinstance(value, list) and len(value) == 4 and all(map(is_number, value)):
        left, top, width, height = map(float, value)
        return left, top, left + width, top + height
    if value in (None, []) and isinstance(item.segmentation, list):
        points = [number for polygon in item.segmentation if isinstance(polygon, list) for number in polygon]
        if len(points) >= 6 and len(points) % 2 == 0 and all(map(is_number, points)):
            return box_of_points(points)
    return f"expected a bbox of four finite numbers, got {str(value)[:60] if isinstance(value, list) else shown(value)}"


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number of a sane size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _selected(file: Instances, subset: Sequence[str] | None) -> Sequence[CocoImage]:
    """The images that `subset` lists by file name, stem or id, in the order of the file; all without a list."""
    if subset is None:
        return file.images
    names: dict[str, set[int]] = {}
    for image in file.images:
        path = PurePosixPath(image.name)
        for name in {image.name, path.name, path.stem, str(image.id)}:
            names.setdefault(name, set()).add(image.id)
    strangers = [entry for entry in subset if entry not in names]
    if strangers:
        raise UserError(
            f"{len(strangers)} entries of the list fit no image: {first_few(strangers)}",
            where=str(file.path),
            remedy="List file names, stems or image ids of this file",
        )
    wanted = {image_id for entry in subset for image_id in names[entry]}
    return [image for image in file.images if image.id in wanted]


def _once(path: Path, field: str, ids: Sequence[int]) -> None:
    twice = next((key for key, times in Counter(ids).items() if times > 1), None)
    if twice is not None:
        what = f"the id {twice} stands twice"
        raise UserError(what, where=f"{path}: {field}", remedy="Mend the entry or remove it")
