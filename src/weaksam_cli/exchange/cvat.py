"""CVAT for images 1.1: one XML, which CVAT takes for a task whose images have these names.

Scores are an attribute of the boxes, which CVAT shows where the task's labels have it: its labels are declared so here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element

from weaksam_cli.exchange.annotated import Annotated, Options
from weaksam_cli.exchange.formats import Written
from weaksam_cli.exchange.markup import add, xml_bytes

WRITES: Final = {"cvat": "pixels: left, top, right, bottom"}
SUFFIX: Final = ".xml"
_SCORE: Final = "score"
_DECIMALS: Final = 4


def write(annotated: Annotated, out: Path, options: Options) -> Written:
    """An XML of everything.

    Raises:
        UserError: a name that XML cannot hold.
    """
    root = Element("annotations")
    add(root, "version", "1.1")
    _describe(add(add(root, "meta"), "task"), annotated)
    for number, image in enumerate(annotated.images):
        frame = add(root, "image", id=number, name=image.file_name, width=image.width, height=image.height)
        for index, edges, score in image.rows():
            sides = dict(
                zip(("xtl", "ytl", "xbr", "ybr"), (round(edge, _DECIMALS) for edge in edges), strict=True)
            )
            box = add(
                frame, "box", label=annotated.classes[index], source="auto", occluded=0, **sides, z_order=0
            )
            if score is not None:
                add(box, "attribute", score, name=_SCORE)
    hints = ["in CVAT: a task of these images, then Upload annotations as 'CVAT 1.1'"]
    return Written({"": xml_bytes(root)}, annotated.boxes, hints=hints)


def _describe(task: Element, annotated: Annotated) -> None:
    add(task, "name", annotated.split)
    add(task, "size", len(annotated.images))
    add(task, "mode", "annotation")
    labels = add(task, "labels")
    for name in annotated.classes:
        label = add(labels, "label")
        add(label, "name", name)
        attributes = add(label, "attributes")
        if annotated.boxes and annotated.has_scores:
            attribute = add(attributes, "attribute")
            for tag, text in (
                ("name", _SCORE),
                ("mutable", "False"),
                ("input_type", "text"),
                ("default_value", ""),
            ):
                add(attribute, tag, text)
            add(attribute, "values")
