"""Detections and pseudo ground truth as JSON: COCO results and scored COCO annotations, one reader and one writer.

Both load in pycocotools and detectron2 as they are. Here boxes change between COCO's xywh and the program's xyxy, and
nowhere else on their way from a detector to the detector that is trained on its pseudo ground truth.
"""

from __future__ import annotations

import json
import mmap
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NotRequired, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from weaksam_cli.artifacts import receipt as receipts
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.core.boxes import FloatArray, xywh_to_xyxy, xyxy_to_xywh
from weaksam_cli.core.json_files import Items, holds_list, parse_items, read_list, read_lists, refusal
from weaksam_cli.core.masks import areas
from weaksam_cli.core.names import first_twice
from weaksam_cli.core.types import Detections
from weaksam_cli.data.box_forms import FORMS, box_form
from weaksam_cli.data.coco.shapes import segmentation_mask
from weaksam_cli.data.labels import Category, Integer, LabelledImage, Labels, LabelsFile, LabelsInfo, Side
from weaksam_cli.errors import UserError

RESULTS = Schema("coco/results", 1, (), json=True)
"""Detections of a split: COCO's list of results."""
PGT = Schema("coco/pseudo-ground-truth", 1, ())
"""Pseudo ground truth: a COCO-JSON document with scores."""
RESULTS_FORMAT, RESULTS_VERSION = RESULTS.name, RESULTS.version
_BOX_DECIMALS = 2
_LARGEST: Final = 1e9
"""Of coordinates, and of scores: the relative ones of the published files reach 1e8 (see `pgt.adaptive`)."""
_REMEDY: Final = (
    "An entry is {image_id, category_id, bbox: [left, top, width, height] in pixels, score}; scores are 0 or more "
    "(put logits through a sigmoid)"
)
_TABLES_REMEDY: Final = "Images are {id, height, width, ...}, categories {id, name}"
_SEGMENTATION: Final = re.compile(rb'"segmentation"\s*:\s*(?:\{|\[\s*[\[\d{-])')
"""Of polygons or run lengths; tools write an empty list for none."""
_Coordinate = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]
_Extent = Annotated[float, Field(ge=0, le=_LARGEST, allow_inf_nan=False)]


T = TypeVar("T")


@with_config({"strict": True})
class _Entry(TypedDict):
    image_id: Integer
    category_id: Integer
    bbox: tuple[_Coordinate, _Coordinate, _Extent, _Extent]
    score: NotRequired[_Extent]
    iscrowd: NotRequired[int | bool]
    segmentation: NotRequired[Any]


@with_config({"strict": True})
class _Image(TypedDict):
    id: Integer
    key: NotRequired[str]
    file_name: NotRequired[str]
    height: NotRequired[Side]
    width: NotRequired[Side]


@with_config({"strict": True})
class _Category(TypedDict):
    id: Integer
    name: str


_ENTRY, _IMAGE, _CATEGORY = TypeAdapter(_Entry), TypeAdapter(_Image), TypeAdapter(_Category)


@dataclass(frozen=True)
class Document:
    """COCO results or a COCO-JSON document.

    Attributes:
        path: the file.
        annotations: of images, each as JSON text.
        images: the document's own; None where it has none.
        categories: the document's own; None where it has none.
        is_results: a list of results, of which each has a score.
    """

    path: Path
    annotations: Items
    images: list[_Image] | None = None
    categories: list[_Category] | None = None
    is_results: bool = False

    def entries(self) -> Iterator[_Entry]:
        """The annotations, each validated when its turn comes.

        Raises:
            UserError: one does not fit; it is named.
        """
        parsed = parse_items(self.annotations, _ENTRY, "annotations", self.path, remedy=_REMEDY)
        for number, entry in enumerate(parsed):
            if self.is_results and "score" not in entry:
                where = f"{self.path}: annotations[{number}].score"
                raise UserError("is missing", where=where, remedy=_REMEDY)
            yield entry


def read_detections(path: Path, labels: Labels, *, masks: bool = False) -> dict[str, Detections]:
    """COCO results, or the annotations of a COCO-JSON document, by image key; every image of `labels` is a key.

    A document's images are those of its own table where that has keys, its classes those of its own table, by name; in
    results, both are numbered as in `labels`. An annotation without a score has the score 1; crowds are left out. A box that
    stands out of its image stays as it is, as in COCO's evaluation. With `masks`, the segmentations are read, too; an image
    of whose annotations one has none has boxes alone.

    Raises:
        UserError: a missing or damaged file; an entry with an unknown image or class, with numbers that are not finite, a
            negative side or score, a box that lies outside of its image or more than the image's size beyond it, or a mask
            that does not fit the image. The entry is named.
    """
    return _by_image(read_document(path), labels, masks=masks)


def has_masks(found: Mapping[str, Detections]) -> bool:
    """Whether there is an image whose detections have masks."""
    return any(item.masks for item in found.values())


def holds_masks(path: Path) -> bool:
    """Whether an entry of a JSON artifact has a mask: by its text, which is a hundred times as fast as parsing it."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _SEGMENTATION.search(data) is not None


def read_document(path: Path) -> Document:
    """COCO results or a COCO-JSON document; its tables are validated.

    Raises:
        UserError: a missing or damaged file, tables with a number that stands twice.
    """
    record = receipts.read_receipt(path)
    if record is not None:
        receipts.verify(path, record)
    if holds_list(path):
        return Document(path, read_list(path, remedy=_REMEDY), is_results=True)
    lists = read_lists(path, "annotations", "images", "categories", remedy=_REMEDY)
    annotations, images, categories = lists.values()
    if annotations is None:
        raise UserError("has no annotations", where=str(path), remedy=_REMEDY)
    document = Document(
        path,
        annotations,
        None if images is None else _table(images, _IMAGE, "images", path),
        None if categories is None else _table(categories, _CATEGORY, "categories", path),
    )
    for name, table in (("images", document.images), ("categories", document.categories)):
        twice = first_twice(item["id"] for item in table or ())
        if twice is not None:
            raise UserError(f"the id {twice} stands twice", where=f"{path}: {name}")
    return document


def _table(items: Items, model: TypeAdapter[T], name: str, path: Path) -> list[T]:
    return list(parse_items(items, model, name, path, remedy=_TABLES_REMEDY))


def own_labels(path: Path) -> Labels | None:
    """The images and classes of a document's own tables, without labels; None where it does not name all images by keys.

    Raises:
        UserError: see `read_document`.
    """
    document = read_document(path)
    if not document.images or not all("key" in image for image in document.images):
        return None
    info = LabelsInfo(format="", format_version=0, dataset="", split=path.stem, role="test")
    try:
        entries = [
            LabelledImage(
                id=image["id"],
                key=image["key"],
                file_name=image.get("file_name", image["key"]),
                height=image.get("height", 0),
                width=image.get("width", 0),
                sha256="",
                labels=None,
            )
            for image in document.images
        ]
        categories = [Category(**item) for item in document.categories or ()]
    except ValidationError as error:
        raise refusal(error, path, _TABLES_REMEDY) from None
    for what, names in (
        ("image", [image.key for image in entries]),
        ("class", [item.name for item in categories]),
    ):
        if (twice := first_twice(names)) is not None:
            raise UserError(f"the {what} {twice!r} stands twice", where=str(path))
    file = LabelsFile(info=info, categories=categories, images=entries, annotations=[], failed=[])
    return Labels(path, file, Path())


def _by_image(document: Document, labels: Labels, *, masks: bool) -> dict[str, Detections]:
    position = {key: number for number, key in enumerate(labels.keys)}
    images = {image.id: number for number, image in enumerate(labels.file.images)}
    for image in document.images or ():
        if "key" in image:
            images[image["id"]] = position.get(image["key"], -1)
    classes = {category.id: index for index, category in enumerate(labels.file.categories)}
    if document.categories is not None:
        index_of = {name: index for index, name in enumerate(labels.class_names)}
        classes = {item["id"]: index_of.get(item["name"], -1) for item in document.categories}
    numbers, rows, columns, values = array("q"), array("q"), array("i"), array("f")
    outlines: list[bytes | None] = []
    for number, entry in enumerate(document.entries()):
        row, column = images.get(entry["image_id"], -1), classes.get(entry["category_id"], -1)
        if row < 0 or column < 0:
            name, value = (
                ("category_id", entry["category_id"]) if column < 0 else ("image_id", entry["image_id"])
            )
            raise UserError(
                f"{name} {value} is not in {labels.path.name}",
                where=f"{document.path}: annotations[{number}]",
                remedy="Give detections of this dataset and split",
            )
        if not entry.get("iscrowd"):
            numbers.append(number)
            rows.append(row)
            columns.append(column)
            values.extend((*entry["bbox"], entry.get("score", 1.0)))
            if masks:
                where = f"{document.path}: annotations[{number}].segmentation"
                outlines.append(_mask(entry.get("segmentation"), labels.file.images[row], where))
    boxed = np.asarray(values, np.float32).reshape(-1, 5)
    boxes, of_image = xywh_to_xyxy(boxed[:, :4]), np.asarray(rows, np.int64)
    sizes = np.asarray([(image.width, image.height) for image in labels.file.images], np.float32)
    _check_places(boxes, sizes.reshape(-1, 2)[of_image], numbers, document.path)
    order = np.argsort(of_image, kind="stable")
    ends = np.cumsum(np.bincount(of_image, minlength=len(labels.keys)))
    classes_of = np.asarray(columns, np.int32)

    def detections(chosen: NDArray[np.intp]) -> Detections:
        drawn = [item for position in chosen if masks and (item := outlines[position]) is not None]
        known = tuple(drawn) if masks and len(drawn) == len(chosen) else None
        return Detections(boxes[chosen], classes_of[chosen], boxed[chosen, 4], known)

    parts = np.split(order, ends[:-1])
    return {key: detections(chosen) for key, chosen in zip(labels.keys, parts, strict=False)}


def _mask(segmentation: Any, image: LabelledImage, where: str) -> bytes | None:
    """Compressed RLE of an entry's segmentation; None where it has none, or nobody knows the image's size."""
    if segmentation is None or segmentation == [] or not (image.height and image.width):
        return None
    try:
        return segmentation_mask(segmentation, image.height, image.width)
    except ValueError as error:
        remedy = "Give polygons in pixels, or run lengths of the image's size"
        raise UserError(str(error), where=where, remedy=remedy) from None


def _check_places(boxes: FloatArray, sizes: FloatArray, numbers: Sequence[int], path: Path) -> None:
    """Refuse boxes (n, 4) that cannot be of their images, whose sizes (n, 2) are 0 where they are not known."""
    known = (sizes > 0).all(axis=1)
    form = box_form(boxes[known].astype(np.float64), sizes[known].astype(np.float64))
    if form in ("fractions", "corners"):
        raise UserError(f"the boxes look like {FORMS[form]}", where=str(path), remedy=_REMEDY)
    low, high = boxes[:, :2], boxes[:, 2:]
    outside = (high < -1) | (low > sizes + 1) | (low < -sizes) | (high > 2 * sizes)
    wrong: NDArray[np.intp] = np.flatnonzero(known & outside.any(axis=1))
    if len(wrong):
        first, (width, height) = wrong[0], sizes[wrong[0]]
        left, top, right, bottom = boxes[first]
        raise UserError(
            f"the box from {left:g}, {top:g} to {right:g}, {bottom:g} is not in its image of {width:g} x {height:g} pixels",
            where=f"{path}: annotations[{numbers[first]}].bbox",
            remedy="Give detections of these images at their own size, as [left, top, width, height] in pixels",
        )


def _entries(labels: Labels) -> Callable[[str, Detections], list[dict[str, Any]]]:
    """What numbers images and classes: from an image's key and detections to COCO's entries, in the order given.

    A score is the shortest decimal that is the same float32, so that none is lost.
    """
    images = labels.by_key()
    category_ids = [category.id for category in labels.file.categories]

    def entries(key: str, found: Detections) -> list[dict[str, Any]]:
        boxes = xyxy_to_xywh(found.boxes).tolist()
        scores = [float(text) for text in found.scores.astype(str)]
        image = images[key]
        size = [image.height, image.width]
        drawn: list[dict[str, Any]] = [{} for _ in boxes]
        if found.masks is not None:
            drawn = [{"segmentation": {"size": size, "counts": item.decode()}} for item in found.masks]
        return [
            {
                "image_id": image.id,
                "category_id": category_ids[index],
                "bbox": [round(value, _BOX_DECIMALS) for value in box],
                "score": score,
                **mask,
            }
            for box, index, score, mask in zip(boxes, found.class_index.tolist(), scores, drawn, strict=True)
        ]

    return entries


def result_texts(labels: Labels) -> Callable[[str, Detections], list[str]]:
    """From an image's key and detections to its entries in a COCO results file, each as JSON text, in the order given."""
    entries = _entries(labels)
    return lambda key, found: [json.dumps(entry) for entry in entries(key, found)]


def annotations_bytes(detections: Mapping[str, Detections], labels: Labels) -> bytes:
    """Pseudo ground truth as a COCO-JSON document of all images of `labels`, numbered from 0 as published (spec 05 §8).

    The published code writes `image_id`, `bbox`, `category_id` and `id`; trainers that read the file with pycocotools or
    detectron2 need `area` and `iscrowd` as well, and `score` is the box's score. The area is the mask's where there is one.
    """
    named = ("id", "file_name", "height", "width", "key")
    entries = _entries(labels)
    annotations = [
        {**entry, "area": _area(entry), "iscrowd": 0}
        for key, found in detections.items()
        for entry in entries(key, found)
    ]
    annotations = [{"id": number, **entry} for number, entry in enumerate(annotations)]
    content = {
        "info": {"description": "pseudo ground truth of weaksam", "dataset": labels.file.info.dataset},
        "categories": [category.model_dump() for category in labels.file.categories],
        "images": [{name: getattr(image, name) for name in named} for image in labels.file.images],
        "annotations": annotations,
    }
    return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"


def _area(entry: Mapping[str, Any]) -> float:
    """Pixels of an entry's mask, else of its box."""
    if "segmentation" in entry:
        mask = entry["segmentation"]
        return int(areas([mask["counts"].encode()], *mask["size"])[0])
    return round(entry["bbox"][2] * entry["bbox"][3], 4)
