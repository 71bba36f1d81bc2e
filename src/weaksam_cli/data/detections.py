"""Detections as COCO results JSON: `[{image_id, category_id, bbox, score}, ...]`, loadable by pycocotools as it is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weaksam_cli.artifacts import receipt as receipts
from weaksam_cli.artifacts.schema import Batch
from weaksam_cli.artifacts.schemas import detections_by_image
from weaksam_cli.core.boxes import xywh_to_xyxy, xyxy_to_xywh
from weaksam_cli.core.types import Detections
from weaksam_cli.data.labels import Labels
from weaksam_cli.errors import UserError

RESULTS_FORMAT = "coco/results"
RESULTS_VERSION = 1
_BOX_DECIMALS, _SCORE_DECIMALS = 2, 6


def results_bytes(detections: Iterable[tuple[str, Detections]], labels: Labels) -> bytes:
    """(image key, detections) pairs as a COCO results file, a line a detection, in the order given."""
    images = labels.by_key()
    category_ids = [category.id for category in labels.file.categories]
    lines = []
    for key, found in detections:
        image_id = images[key].id
        for box, index, score in zip(xyxy_to_xywh(found.boxes), found.class_index, found.scores, strict=True):
            entry = {
                "image_id": image_id,
                "category_id": category_ids[int(index)],
                "bbox": [round(float(value), _BOX_DECIMALS) for value in box],
                "score": round(float(score), _SCORE_DECIMALS),
            }
            lines.append(json.dumps(entry))
    return ("[\n" + ",\n".join(lines) + "\n]\n").encode()


def render_batches(batches: Iterable[Batch], labels: Labels) -> bytes:
    """The shards of a detecting stage as a COCO results file."""
    return results_bytes((item for batch in batches for item in detections_by_image(batch).items()), labels)


def read_results(path: Path, labels: Labels) -> dict[str, Detections]:
    """A COCO results file as detections by image key; every image of `labels` is a key.

    Raises:
        UserError: a missing or damaged file, or an entry with an unknown image or category or bad numbers.
    """
    raw = _load(path)
    if not isinstance(raw, list):
        raise UserError("expected a list of detections (COCO results)", where=str(path))
    return _collect(raw, labels, path)


def read_annotations(path: Path, labels: Labels) -> dict[str, Detections]:
    """Scored annotations of a COCO-JSON file (pseudo ground truth) by image key; a missing score is 1.

    Raises:
        UserError: as `read_results`.
    """
    raw = _load(path)
    annotations = raw.get("annotations") if isinstance(raw, dict) else None
    if not isinstance(annotations, list):
        raise UserError("expected COCO-JSON with annotations", where=str(path))
    return _collect(
        [{"score": 1.0, **item} if isinstance(item, dict) else item for item in annotations], labels, path
    )


def _load(path: Path) -> Any:
    record = receipts.read_receipt(path)
    if record is not None:
        receipts.verify(path, record)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError("there is no such file", where=str(path)) from error
    except ValueError as error:
        raise UserError(f"not readable as JSON: {error}", where=str(path)) from error


def _collect(raw: list[Any], labels: Labels, path: Path) -> dict[str, Detections]:
    keys = {image.id: image.key for image in labels.file.images}
    classes = {category.id: index for index, category in enumerate(labels.file.categories)}
    rows: dict[str, list[tuple[list[float], int, float]]] = {key: [] for key in keys.values()}
    for number, item in enumerate(raw):
        place = f"{path}: entry {number}"
        key = keys.get(_field(item, "image_id", place))
        index = classes.get(_field(item, "category_id", place))
        if key is None or index is None:
            name, value = (
                ("image_id", item["image_id"]) if key is None else ("category_id", item["category_id"])
            )
            raise UserError(
                f"{name} {value!r} is not in {labels.path.name}",
                where=place,
                remedy="Give detections of this dataset and split",
            )
        box, score = _field(item, "bbox", place), _field(item, "score", place)
        rows[key].append((_numbers(box, 4, "bbox", place), index, _numbers([score], 1, "score", place)[0]))
    return {key: _detections(items) for key, items in rows.items()}


def _field(item: Any, name: str, place: str) -> Any:
    if not isinstance(item, Mapping) or name not in item:
        raise UserError(f"has no {name}", where=place)
    value = item[name]
    if name.endswith("_id") and not isinstance(value, int):
        raise UserError(f"{name}: expected an integer, got {value!r}", where=place)
    return value


def _numbers(values: Any, count: int, name: str, place: str) -> list[float]:
    good = isinstance(values, list) and len(values) == count
    good = good and all(isinstance(item, (int, float)) and math.isfinite(item) for item in values)
    if not good:
        raise UserError(f"{name}: expected {count} finite numbers, got {values!r}", where=place)
    return [float(item) for item in values]


def _detections(items: list[tuple[list[float], int, float]]) -> Detections:
    if not items:
        return Detections.empty()
    return Detections(
        xywh_to_xyxy(np.asarray([box for box, _, _ in items], np.float32)),
        np.asarray([index for _, index, _ in items], np.int32),
        np.asarray([score for _, _, score in items], np.float32),
    )
