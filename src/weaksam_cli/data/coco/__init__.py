"""COCO layout: instances json. Boxes and segmentations are looked at where ground truth asks for them alone.

Files are read strictly in what identity hangs on: ids, categories, references.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from weaksam_cli.core.files import beginning
from weaksam_cli.core.json_files import Items, parse_items, read_lists
from weaksam_cli.core.names import first_few
from weaksam_cli.data.annotations import RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.coco.classes import Category, Identifier, class_table
from weaksam_cli.data.coco.files import coco_files
from weaksam_cli.data.coco.shapes import box_of, segmentation_mask
from weaksam_cli.data.dataset import ReadRecipe, Remarks, likely_folders, role_of
from weaksam_cli.data.outlines import numbers
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "annotations/instances_*.json or a json file (COCO)"
_REMEDY: Final = "Give a COCO instances file: an object with images, categories and annotations"


class Recipe(ReadRecipe):
    """How COCO instances files are read.

    Attributes:
        subset: only the images with these file names, stems or ids.
    """

    method: Literal["coco"] = "coco"
    subset: tuple[str, ...] | None = Field(None, max_length=1_000_000)


class CocoImage(BaseModel):
    """An entry of `images`; sizes are what the file says, of any type. LVIS has the address of the file alone."""

    model_config = ConfigDict(frozen=True)
    id: Identifier
    file_name: str | None = None
    path: str | None = None
    coco_url: str | None = None
    height: Any = None
    width: Any = None

    @model_validator(mode="after")
    def _check_name(self) -> CocoImage:
        if not self.name:
            raise ValueError("expected file_name, the path of the image")
        return self

    @property
    def name(self) -> str:
        """Its file as written."""
        return self.file_name or self.path or self.coco_url or ""

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) as declared, or None."""
        sides = (self.height, self.width)
        return sides if all(isinstance(side, int) and side > 0 for side in sides) else None


class Annotation(BaseModel):
    """An entry of `annotations`."""

    model_config = ConfigDict(frozen=True)
    id: Any = None
    image_id: Identifier
    category_id: Identifier
    category_name: Any = None
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
N = TypeVar("N", CocoImage, Category)


class Instances:
    """An instances file.

    Attributes:
        path: the file.
        images: id -> image, in the order of the file.
        categories: id -> category.
        counts: category id -> annotations.
        objects: image id -> its objects; None where the file has no annotations: nobody labelled the images.
        remarks: what was noticed.

    Raises:
        UserError: naming the entry, for anything that makes identity uncertain.
    """

    def __init__(self, path: Path, *, boxes: bool) -> None:
        if (start := beginning(path)).lstrip(b"\xef\xbb\xbf \r\n\t")[:1] == b"[":
            kind = "detections, which name neither images nor classes" if b'"score"' in start else "entries"
            raise UserError(f"is a list of {kind}", where=str(path), remedy=_REMEDY)
        lists = read_lists(path, "images", "categories", "annotations", remedy=_REMEDY)
        self.path, self.remarks = path, Remarks()
        self.images = self._by_id("images", lists["images"], _IMAGES)
        self.categories = self._by_id("categories", lists["categories"], _CATEGORIES)
        self._has_categories = bool(self.categories)
        self.counts: Counter[int | str] = Counter()
        annotations = lists["annotations"]
        self.objects = None if annotations is None else self._read_objects(annotations, boxes)
        for name, found in (("images", self.images), ("categories", self.categories)):
            if not found:
                got = "nothing" if lists[name] is None else "an empty list"
                what = f"expected a list of {name}, got {got}"
                raise UserError(what, where=f"{path}: {name}", remedy=_REMEDY)

    def _by_id(self, field: str, items: Items | None, model: TypeAdapter[N]) -> dict[int | str, N]:
        """The entries of a list; the same one may stand there again."""
        found: dict[int | str, N] = {}
        for number, item in enumerate(parse_items(items or (), model, field, self.path, remedy=_REMEDY)):
            first = found.setdefault(item.id, item)
            if first.name != item.name:
                raise UserError(
                    f"the id {item.id!r} stands twice, for {first.name!r} and {item.name!r}",
                    where=f"{self.path}: {field}[{number}]",
                    remedy="Give each its own",
                )
        return found

    def _read_objects(self, items: Items, boxes: bool) -> Mapping[int | str, Sequence[RawObject]]:
        """Image id -> its objects. Without boxes equal ones are one value, of which a large file has few."""
        found: defaultdict[int | str, list[RawObject]] = defaultdict(list)
        alike: dict[RawObject, RawObject] = {}
        ids, twice, orphans = set[int | str](), list[str](), list[str]()
        model = _TRUTH if boxes else _LABELS
        entries = parse_items(items, model, "annotations", self.path, remedy=_REMEDY)
        for number, (text, item) in enumerate(zip(items, entries, strict=True)):
            name = self._class_of(item, number)
            if isinstance(item.id, int | str):
                twice += [item.title] if item.id in ids else []
                ids.add(item.id)
            if item.image_id not in self.images:
                orphans.append(item.title)
                continue
            self.counts[item.category_id] += 1
            if isinstance(item, TruthAnnotation):
                found[item.image_id].append(_with_shape(item, name, text))
            else:
                shown = RawObject(name, bool(item.iscrowd))
                found[item.image_id].append(alike.setdefault(shown, shown))
        if orphans:
            what = f"{len(orphans)} annotations are of images that the file does not list and are left out"
            self.remarks.warn("", f"{what}: {first_few(orphans, 3)}")
        if twice:
            what = f"{len(twice)} annotations have an id that stands before them, too"
            self.remarks.warn("", f"{what}: {first_few(twice, 3)}; are two files put together here?")
        return found

    def _class_of(self, item: Annotation, number: int) -> str:
        """Its class: that of its category, or as it says itself in a file without categories."""
        if item.category_id in self.categories:
            return self.categories[item.category_id].name
        if not self._has_categories and isinstance(item.category_name, str) and item.category_name.strip():
            self.categories[item.category_id] = Category(id=item.category_id, name=item.category_name)
            return item.category_name.strip()
        known = first_few((f"{key} {one.name}" for key, one in self.categories.items()), 8)
        raise UserError(
            f"there is no category with the id {item.category_id}",
            where=f"{self.path}: annotations[{number}]",
            remedy=f"Categories: {known}" if known else _REMEDY,
        )

    def raw_images(self, subset: Sequence[str] | None) -> tuple[list[RawImage], Remarks]:
        """Its images, and what is to be told. One that is listed under several ids has the annotations of all of them."""
        groups: dict[str, list[CocoImage]] = {}
        for image in self._selected(subset):
            groups.setdefault(PurePosixPath(image.name).as_posix(), []).append(image)
        remarks = Remarks(warnings=list(self.remarks.warnings))
        if several := [name for name, group in groups.items() if len(group) > 1]:
            what = f"{len(several)} images are listed under more than one id, and have the annotations of all"
            remarks.warn("", f"{what}: {first_few(several, 3)}")
        return [self._raw_image(group) for group in groups.values()], remarks

    def _raw_image(self, group: Sequence[CocoImage]) -> RawImage:
        objects = None
        if self.objects is not None:
            objects = tuple(item for image in group for item in self.objects.get(image.id, ()))
        first = group[0]
        image_id = first.id if isinstance(first.id, int) else None
        return RawImage(first.name, objects, declared=first.size, image_id=image_id)

    def _selected(self, subset: Sequence[str] | None) -> Sequence[CocoImage]:
        """The images that `subset` lists by file name, stem or id, in the order of the file; all without a list."""
        images = tuple(self.images.values())
        if subset is None:
            return images
        names: dict[str, set[int | str]] = {}
        for image in images:
            path = PurePosixPath(image.name)
            for name in {image.name, path.name, path.stem, str(image.id)}:
                names.setdefault(name, set()).add(image.id)
        strangers = [entry for entry in subset if entry not in names]
        if strangers:
            raise UserError(
                f"{len(strangers)} entries of the list fit no image: {first_few(strangers)}",
                where=str(self.path),
                remedy="List file names, stems or image ids of this file",
            )
        wanted = {image_id for entry in subset for image_id in names[entry]}
        return [image for image in images if image.id in wanted]


def likeness(source: Path) -> int:
    """2 where there is an instances file by its name, place or content."""
    found = coco_files(source)
    return 2 if found.splits or found.unclear else 0


def read(source: Path, recipe: Recipe, images: Path | None = None, *, boxes: bool) -> RawDataset:
    """What COCO instances files say; one file is one split.

    An image without annotations shows no class. A file without the field `annotations` leaves its images unlabelled and can
    only be a test split. Crowds are difficult objects. Classes are the categories by increasing id; the ids, gaps included,
    are kept beside them.

    Raises:
        UserError: there is no file, or nothing tells which of several is meant, or one cannot be trusted, or the classes of
            two splits contradict each other.
    """
    found = coco_files(source)
    files = found.splits
    if found.unclear or not files:
        raise UserError(
            found.unclear or "no COCO instances file here",
            where=str(source),
            remedy="Give the json file, or the folder above annotations/instances_*.json",
        )
    if recipe.splits is not None and len(files) == len(recipe.splits) == 1:
        files = dict.fromkeys(recipe.splits, next(iter(files.values())))
    chosen = [name for name in files if recipe.splits is None or name in recipe.splits]
    known = {name: Instances(files[name], boxes=boxes) for name in chosen}
    counts = sum((file.counts for file in known.values()), Counter[int | str]())
    classes, told = class_table({name: file.categories for name, file in known.items()}, counts, source)

    def split(name: str) -> RawSplit:
        listed, remarks = known[name].raw_images(recipe.subset)
        places = likely_folders(files[name].parent, images, name, source if source.is_dir() else None)
        return RawSplit(name, files[name], listed, places, remarks=remarks)

    for name, file in known.items():
        names = {item.name for item in file.categories.values()}
        if lacking := [item for item in classes if item not in names]:
            told.append(f"the categories of {name} lack {first_few(lacking)}")
    default = {name: role_of(name) for name in files}
    return RawDataset(source, tuple(files), default, split, class_ids=classes, warnings=(*found.told, *told))


def _with_shape(item: TruthAnnotation, name: str, text: Any) -> RawObject:
    """An object with its box, and its mask as the text of the annotation: most of a file are masks."""
    area = numbers([item.area])
    mask = partial(_mask, text) if item.segmentation else None
    box = box_of(item.bbox, item.segmentation)
    return RawObject(name, bool(item.iscrowd), item.title, box, area[0] if area else None, mask)


def _mask(text: Any, height: int, width: int) -> bytes:
    return segmentation_mask(TruthAnnotation.model_validate_json(bytes(text)).segmentation, height, width)
