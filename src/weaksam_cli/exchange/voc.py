"""PASCAL VOC: an XML file an image in `Annotations`, the list of images in `ImageSets/Main`; masks, see `voc_masks`.

Boxes are VOC's: pixels counted from 1, both ends inside. Fractions of pixels are kept, as the releases since 2011 have them;
whole numbers have no point, for readers that want integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.errors import UserError
from weaksam_cli.exchange import voc_masks
from weaksam_cli.exchange.annotated import Annotated, AnnotatedImage, Options, not_held, stems
from weaksam_cli.exchange.formats import Written
from weaksam_cli.exchange.markup import add, xml_bytes

WRITES: Final = {"voc": "pixels counted from 1, both ends inside"}
SUFFIX: Final = ""
TAKES: Final = frozenset({"images"})
_DECIMALS: Final = 4
_IMAGES: Final = "JPEGImages"


def write(annotated: Annotated, out: Path, options: Options) -> Written:
    """A folder; the images belong into its `JPEGImages`.

    Raises:
        UserError: a name that a list with a name a line, or XML, cannot hold.
    """
    names, remarks = stems(annotated.images)
    whole = [image.take(has_pixels(image.boxes)) for image in annotated.images]
    files: dict[str, bytes] = {}
    images, painted = {}, {}
    for name, image in zip(names, whole, strict=True):
        check_line(name, image)
        file = name + image.suffix
        files[f"Annotations/{name}.xml"] = xml_bytes(_annotation(image, file, annotated.classes))
        if image.path:
            images[f"{_IMAGES}/{file}"] = image.path
        if image.masks:
            painted[name] = voc_masks.Painted(image)
            files[f"SegmentationObject/{name}.png"] = painted[name].objects
            files[f"SegmentationClass/{name}.png"] = painted[name].classes
    files[f"ImageSets/Main/{annotated.split}.txt"] = _lines(names)
    if painted:
        files[f"ImageSets/Segmentation/{annotated.split}.txt"] = _lines(painted)
    boxes = sum(map(len, whole))
    remarks += [*not_held(annotated, "VOC has no place for them"), *voc_masks.remarks(list(painted.values()))]
    remarks += thin(annotated.boxes - boxes)
    if inner := sum("/" in name for name in names):
        remarks.append(f"{inner} images lie in folders of their own, which many readers of VOC do not search")
    belong = f"its images belong into {_IMAGES}: `weaksam export --images link` puts them there, or copy"
    hints = [belong] if options.images == "none" else []
    return Written(files, boxes, remarks, images, hints)


def check_line(name: str, image: AnnotatedImage) -> None:
    """Refuse a name that breaks its line.

    Raises:
        UserError: it does.
    """
    if name != " ".join(name.splitlines()).strip():
        what = f"the image {image.key[:200]!r} cannot stand in a list with a name a line"
        raise UserError(what, remedy="Export to coco, or rename it")


def thin(count: int) -> list[str]:
    """What is to be told of boxes without `has_pixels`."""
    what = "boxes are narrower than a pixel, which VOC has no numbers for: left out"
    return [f"{count} {what}"] if count else []


def _lines(names: Iterable[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def has_pixels(boxes: FloatArray) -> NDArray[np.bool_]:
    """Which boxes (n, 4) are a pixel wide and high, so that VOC has numbers for them."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1))


def _annotation(image: AnnotatedImage, file: str, classes: tuple[str, ...]) -> Element:
    root = Element("annotation")
    add(root, "folder", _IMAGES)
    add(root, "filename", PurePosixPath(file).name)
    size = add(root, "size")
    for tag, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        add(size, tag, value)
    add(root, "segmented", int(bool(image.masks)))
    for index, (left, top, right, bottom), *_ in image.rows():
        thing = add(root, "object")
        add(thing, "name", classes[index])
        for tag, text in (("pose", "Unspecified"), ("truncated", 0), ("difficult", 0)):
            add(thing, tag, text)
        box = add(thing, "bndbox")
        for tag, edge in (("xmin", left + 1), ("ymin", top + 1), ("xmax", right), ("ymax", bottom)):
            add(box, tag, int(edge) if edge.is_integer() else round(edge, _DECIMALS))
    return root
