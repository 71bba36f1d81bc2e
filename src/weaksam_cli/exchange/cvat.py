"""CVAT for images 1.1: one XML, which CVAT takes for a task whose images have these names.

Scores are an attribute of the shapes, which CVAT shows where the task's labels have it: its labels are declared so here.
A mask is run lengths, row by row and beginning with what is outside, of the rectangle around it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element

import numpy as np

from weaksam_cli.core.masks import decode, tight_boxes
from weaksam_cli.exchange.annotated import Annotated, AnnotatedImage, Options, Row
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
        for row in image.rows():
            tag, place = _place(row, image)
            label = annotated.classes[row.class_index]
            shape = add(frame, tag, label=label, source="auto", occluded=0, **place, z_order=0)
            if row.score is not None:
                add(shape, "attribute", row.score, name=_SCORE)
    hints = ["in CVAT: a task of these images, then Upload annotations as 'CVAT 1.1'"]
    return Written({"": xml_bytes(root)}, annotated.boxes, hints=hints)


def _place(row: Row, image: AnnotatedImage) -> tuple[str, dict[str, object]]:
    """The tag of a shape, and the attributes that say where it is."""
    if row.mask is None:
        edges = (round(edge, _DECIMALS) for edge in row.box)
        return "box", dict(zip(("xtl", "ytl", "xbr", "ybr"), edges, strict=True))
    size = (image.height, image.width)
    left, top, right, bottom = tight_boxes([row.mask], *size)[0].astype(int).tolist()
    inside = decode([row.mask], *size)[0, top:bottom, left:right].reshape(-1)
    changes = np.flatnonzero(np.diff(inside, prepend=False))
    runs = np.diff(changes, prepend=0, append=inside.size).tolist()
    place = {"left": left, "top": top, "width": right - left, "height": bottom - top}
    return "mask", {"rle": ", ".join(map(str, runs)), **place}


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
