"""Detections and pseudo ground truth as JSON: COCO results and scored COCO annotations, one reader and one writer.

Both load in pycocotools and detectron2 as they are. Here boxes change between COCO's xywh and the program's xyxy, and
nowhere else on their way from a detector to the detector that is trained on its pseudo ground truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from weaksam_cli.artifacts import receipt as receipts
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.core.boxes import as_boxes, xywh_to_xyxy, xyxy_to_xywh
from weaksam_cli.core.types import Detections
from weaksam_cli.data.labels import Category, LabelledImage, Labels, LabelsFile, LabelsInfo
from weaksam_cli.errors import UserError

RESULTS = Schema("coco/results", 1, (), json=True)
"""Detections of a split: COCO's list of results."""
PGT = Schema("coco/pseudo-ground-truth", 1, ())
"""Pseudo ground truth: a COCO-JSON document with scores."""
RESULTS_FORMAT, RESULTS_VERSION = RESULTS.name, RESULTS.version
_BOX_DECIMALS = 2
_LARGEST = 1e9

_Coordinate = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]
_Side = Annotated[float, Field(ge=0, le=_LARGEST, allow_inf_nan=False)]


@with_config({"strict": True})
class _Entry(TypedDict):
    image_id: int
    category_id: int
    bbox: tuple[_Coordinate, _Coordinate, _Side, _Side]
    score: NotRequired[Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]]
    iscrowd: NotRequired[int | bool]


@with_config({"strict": True})
class _Image(TypedDict):
    id: int
    key: NotRequired[str]
    file_name: NotRequired[str]
    height: NotRequired[int]
    width: NotRequired[int]


@with_config({"strict": True})
class _Category(TypedDict):
    id: int
    name: str


class Document(TypedDict):
    """What is read of a file."""

    annotations: list[_Entry]
    images: NotRequired[list[_Image]]
    categories: NotRequired[list[_Category]]


_RESULTS, _DOCUMENT = TypeAdapter(list[_Entry]), TypeAdapter(Document)


def read_detections(path: Path, labels: Labels) -> dict[str, Detections]:
    """COCO results, or the annotations of a COCO-JSON document, by image key; every image of `labels` is a key.

    A document's images are those of its own table where that has keys, its classes those of its own table, by name; in
    results, both are numbered as in `labels`. An annotation without a score has the score 1; crowds are left out.

    Raises:
        UserError: a missing or damaged file; an entry with an unknown image or class, with numbers that are not finite, a
            negative side or a negative score. The entry is named.
    """
    return _by_image(read_document(path), labels, path)


def read_document(path: Path) -> Document:
    """COCO results or a COCO-JSON document, validated; results are annotations without tables.

    Raises:
        UserError: see `read_detections`.
    """
    record = receipts.read_receipt(path)
    if record is not None:
        receipts.verify(path, record)
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError as error:
        raise UserError("there is no such file", where=str(path)) from error
    try:
        if data.lstrip()[:1] != b"[":
            return _DOCUMENT.validate_json(data)
        document = Document(annotations=_RESULTS.validate_json(data))
    except ValidationError as error:
        raise _refusal(error, path) from error
    for number, entry in enumerate(document["annotations"]):
        if "score" not in entry:
            raise UserError("has no score", where=f"{path}: entry {number}")
    return document


def own_labels(path: Path) -> Labels | None:
    """The images and classes of a document's own tables, without labels; None where it does not name all images by keys.

    Raises:
        UserError: see `read_document`.
    """
    document = read_document(path)
    images = document.get("images", [])
    if not images or not all("key" in image for image in images):
        return None
    info = LabelsInfo(format="", format_version=0, dataset="", split=path.stem, role="test")
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
        for image in images
    ]
    categories = [Category(**item) for item in document.get("categories", [])]
    return Labels(
        path, LabelsFile(info=info, categories=categories, images=entries, annotations=[], failed=[]), Path()
    )


def _refusal(error: ValidationError, path: Path) -> UserError:
    """The first fault of a file in words."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return UserError(f"not readable as JSON: {first['ctx']['error']}", where=str(path))
    place = first["loc"][1:] if first["loc"][:1] == ("annotations",) else first["loc"]
    where, fields = str(path), [str(part) for part in place]
    if place and isinstance(place[0], int):
        where, fields = f"{path}: entry {place[0]}", fields[1:]
    name = ".".join(fields)
    if first["type"] == "missing":
        return UserError(f"has no {name or 'annotations'}", where=where)
    message = first["msg"].replace("Input should be", "expected")
    return UserError(f"{name}: {message}, got {str(first['input'])[:60]!r}".removeprefix(": "), where=where)


def _by_image(document: Document, labels: Labels, path: Path) -> dict[str, Detections]:
    keys = {image.id: image.key for image in labels.file.images}
    for image in document.get("images", ()):
        if "key" in image:
            keys[image["id"]] = image["key"]
    classes = {category.id: index for index, category in enumerate(labels.file.categories)}
    if "categories" in document:
        names = {name: index for index, name in enumerate(labels.class_names)}
        classes = {
            item["id"]: names[item["name"]] for item in document["categories"] if item["name"] in names
        }
    rows: dict[str, list[tuple[_Entry, int]]] = {key: [] for key in labels.keys}
    for number, entry in enumerate(document["annotations"]):
        key, index = keys.get(entry["image_id"], ""), classes.get(entry["category_id"])
        if key not in rows or index is None:
            name, value = (
                ("category_id", entry["category_id"]) if key in rows else ("image_id", entry["image_id"])
            )
            raise UserError(
                f"{name} {value} is not in {labels.path.name}",
                where=f"{path}: entry {number}",
                remedy="Give detections of this dataset and split",
            )
        if not entry.get("iscrowd"):
            rows[key].append((entry, index))
    return {
        key: Detections(
            xywh_to_xyxy(as_boxes([entry["bbox"] for entry, _ in found])),
            np.asarray([index for _, index in found], np.int32),
            np.asarray([entry.get("score", 1.0) for entry, _ in found], np.float32),
        )
        for key, found in rows.items()
    }


def _entries(labels: Labels) -> Callable[[str, Detections], list[dict[str, Any]]]:
    """What numbers images and classes: from an image's key and detections to COCO's entries, in the order given.

    A score is the shortest decimal that is the same float32, so that none is lost.
    """
    image_ids = {image.key: image.id for image in labels.file.images}
    category_ids = [category.id for category in labels.file.categories]

    def entries(key: str, found: Detections) -> list[dict[str, Any]]:
        boxes = xyxy_to_xywh(found.boxes).tolist()
        scores = [float(text) for text in found.scores.astype(str)]
        return [
            {
                "image_id": image_ids[key],
                "category_id": category_ids[index],
                "bbox": [round(value, _BOX_DECIMALS) for value in box],
                "score": score,
            }
            for box, index, score in zip(boxes, found.class_index.tolist(), scores, strict=True)
        ]

    return entries


def result_texts(labels: Labels) -> Callable[[str, Detections], list[str]]:
    """From an image's key and detections to its entries in a COCO results file, each as JSON text, in the order given."""
    entries = _entries(labels)
    return lambda key, found: [json.dumps(entry) for entry in entries(key, found)]


def annotations_bytes(detections: Mapping[str, Detections], labels: Labels) -> bytes:
    """Pseudo ground truth as a COCO-JSON document of all images of `labels`, numbered from 0 as published (spec 05 §8).

    The published code writes `image_id`, `bbox`, `category_id` and `id`; trainers that read the file with pycocotools or
    detectron2 need `area` and `iscrowd` as well, and `score` is the box's score.
    """
    named = ("id", "file_name", "height", "width", "key")
    entries = _entries(labels)
    boxes = [entry for key, found in detections.items() for entry in entries(key, found)]
    annotations = [
        {"id": number, **entry, "area": round(entry["bbox"][2] * entry["bbox"][3], 4), "iscrowd": 0}
        for number, entry in enumerate(boxes)
    ]
    content = {
        "info": {"description": "pseudo ground truth of weaksam", "dataset": labels.file.info.dataset},
        "categories": [category.model_dump() for category in labels.file.categories],
        "images": [{name: getattr(image, name) for name in named} for image in labels.file.images],
        "annotations": annotations,
    }
    return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"
