"""Label Studio: tasks with predictions, which it shows as pre-annotations, and the labelling configuration beside them.

Boxes are percents of the image's sides, and so are the polygons of masks, whose parts and holes are joined
(`core.polygons`): a region is one polygon. Images are named as Label Studio serves local files: relative to its document
root.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from xml.etree.ElementTree import Element

from weaksam_cli import __version__
from weaksam_cli.exchange.annotated import Annotated, AnnotatedImage, Options, Row, json_bytes
from weaksam_cli.exchange.formats import Written
from weaksam_cli.exchange.markup import add, xml_bytes

WRITES: Final = {"label-studio": "percents: left, top, width, height, or polygons of masks"}
SUFFIX: Final = ".json"
_ADDRESS: Final = "/data/local-files/?d="
_IMAGE: Final = "image"
_CONTROLS: Final = {
    "rectanglelabels": ("RectangleLabels", "label"),
    "polygonlabels": ("PolygonLabels", "outline"),
}
"""Type of a result -> tag and name of what draws it."""
_DECIMALS: Final = 8


def write(annotated: Annotated, out: Path, options: Options) -> Written:
    """A json of tasks, and `<name>.label_config.xml` beside it."""
    root, names = _served(annotated)
    tasks = [
        {
            "id": number,
            "data": {_IMAGE: _ADDRESS + quote(os.fsencode(name))},
            "predictions": [_prediction(image, annotated.classes, number)],
        }
        for number, (name, image) in enumerate(zip(names, annotated.images, strict=True), start=1)
    ]
    config = f"{out.stem}.label_config.xml"
    files = {
        config: labelling_config(annotated.classes, _kinds(tasks)),
        "": json_bytes(tasks),
    }
    hints = [
        "start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root or 'the folder of the images'}",
        f"give the project the labelling configuration in {out.with_name(config)}",
    ]
    return Written(files, annotated.boxes, hints=hints)


def _served(annotated: Annotated) -> tuple[str | None, list[str]]:
    """The deepest folder that holds all images, and their paths below it; their keys, where nobody knows their files."""
    paths = [os.path.abspath(image.path) for image in annotated.images if image.path]  # noqa: PTH100 - links are kept
    if not paths or len(paths) < len(annotated.images):
        return None, [image.file_name for image in annotated.images]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    return root, [Path(path).relative_to(root).as_posix() for path in paths]


def _prediction(image: AnnotatedImage, classes: tuple[str, ...], task: int) -> dict[str, Any]:
    results = []
    for number, row in enumerate(image.rows()):
        kind, value = _region(row, image)
        result = {
            "id": f"{task}-{number}",
            "type": kind,
            "from_name": _CONTROLS[kind][1],
            "to_name": _IMAGE,
            "original_width": image.width,
            "original_height": image.height,
            "image_rotation": 0,
            "value": {**value, kind: [classes[row.class_index]]},
        }
        results.append(result if row.score is None else {**result, "score": row.score})
    scores = [] if image.scores is None else image.scores.tolist()
    mean = {"score": sum(scores) / len(scores)} if scores else {}
    return {"model_version": f"weaksam {__version__}", **mean, "result": results}


def _region(row: Row, image: AnnotatedImage) -> tuple[str, dict[str, Any]]:
    """The type of a region, and where it is."""
    polygon = row.polygon(image)
    if polygon is None:
        edges = zip(("x", "y", "width", "height"), row.fractions(image), strict=True)
        return "rectanglelabels", {**{name: _percent(share) for name, share in edges}, "rotation": 0}
    points = [[_percent(x / image.width), _percent(y / image.height)] for x, y in polygon]
    return "polygonlabels", {"points": points, "closed": True}


def _percent(share: float) -> float:
    return round(100 * share, _DECIMALS)


def _kinds(tasks: list[dict[str, Any]]) -> list[str]:
    """The types of results that there are; rectangles where there is none."""
    used = {
        result["type"]
        for task in tasks
        for prediction in task["predictions"]
        for result in prediction["result"]
    }
    return [kind for kind in _CONTROLS if kind in used] or [next(iter(_CONTROLS))]


def labelling_config(classes: tuple[str, ...], kinds: Sequence[str]) -> bytes:
    """What a project of Label Studio needs to show regions of some types."""
    view = Element("View")
    add(view, "Image", name=_IMAGE, value=f"${_IMAGE}")
    for kind in kinds:
        tag, own = _CONTROLS[kind]
        control = add(view, tag, name=own, toName=_IMAGE)
        for name in classes:
            add(control, "Label", value=name)
    return xml_bytes(view)
