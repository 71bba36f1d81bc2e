"""Writes the demo dataset in VOC layout: images, annotations, lists, class masks and instance masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weaksam_cli.core.boxes import edges_to_voc
from weaksam_cli.data.demo.compose import DemoImage, Split, make_demo
from weaksam_cli.data.demo.scene import CLASS_NAMES

_QUALITY: Final = 92
_FOLDERS: Final = (
    "JPEGImages",
    "Annotations",
    "SegmentationClass",
    "SegmentationObject",
    "ImageSets/Main",
    "ImageSets/Segmentation",
)


def write_demo_voc(folder: Path, *, seed: int, n_trainval: int = 120, n_test: int = 60) -> Path:
    """Make the demo dataset and write it as a VOC folder; the same bytes for the same arguments and library versions.

    The lists in `ImageSets` are written last, so a folder without them was left unfinished and may be written again.
    Masks are palette PNGs as in VOC, except that objects have no border of 255; in `SegmentationObject` value k is the
    k-th object of the XML, in `SegmentationClass` the k-th class by name.

    Args:
        folder: made when missing; holds JPEGImages, Annotations, ImageSets and the masks afterwards.
        seed: of everything random.
        n_trainval: images of the split `trainval`.
        n_test: images of the split `test`.

    Returns:
        `folder`.

    Raises:
        ValueError: without at least one training image, or for a negative number.
    """
    if n_trainval < 1 or n_test < 0:
        raise ValueError(f"expected n_trainval >= 1 and n_test >= 0, got {n_trainval} and {n_test}")
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    keys: dict[Split, list[str]] = {"trainval": [], "test": []}
    for drawn in make_demo(seed, n_trainval, n_test):
        _write_image(folder, drawn)
        keys[drawn.split].append(drawn.key)
    for split, names in keys.items():
        for task in ("Main", "Segmentation"):
            if names:
                (folder / "ImageSets" / task / f"{split}.txt").write_text(
                    "\n".join(names) + "\n", encoding="ascii"
                )
    return folder


def _write_image(folder: Path, drawn: DemoImage) -> None:
    image = Image.fromarray(drawn.image)
    image.save(folder / "JPEGImages" / f"{drawn.key}.jpg", quality=_QUALITY, subsampling=0)
    _annotation(drawn).write(folder / "Annotations" / f"{drawn.key}.xml", encoding="utf-8")
    classes = [CLASS_NAMES.index(item.class_name) + 1 for item in drawn.objects]
    masks = [item.mask for item in drawn.objects]
    _write_mask(folder / "SegmentationClass" / f"{drawn.key}.png", drawn, masks, classes)
    _write_mask(folder / "SegmentationObject" / f"{drawn.key}.png", drawn, masks, range(1, len(masks) + 1))


def _annotation(drawn: DemoImage) -> ElementTree:
    height, width = drawn.image.shape[:2]
    root = Element("annotation")
    _add(root, "folder", "VOC-demo")
    _add(root, "filename", f"{drawn.key}.jpg")
    _add(SubElement(root, "source"), "database", "weaksam demo, made by the program")
    size = SubElement(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        _add(size, tag, str(value))
    _add(root, "segmented", "1")
    for item in drawn.objects:
        element = SubElement(root, "object")
        _add(element, "name", item.class_name)
        _add(element, "pose", "Unspecified")
        _add(element, "truncated", str(int(item.truncated)))
        _add(element, "difficult", str(int(item.difficult)))
        box = SubElement(element, "bndbox")
        corners = edges_to_voc(item.box[None])[0]
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            _add(box, tag, str(int(value)))
    indent(root, "\t")
    return ElementTree(root)


def _add(parent: Element, tag: str, text: str) -> None:
    SubElement(parent, tag).text = text


def _write_mask(
    path: Path, drawn: DemoImage, masks: Sequence[NDArray[np.bool_]], values: Iterable[int]
) -> None:
    canvas = np.zeros(drawn.image.shape[:2], dtype=np.uint8)
    for mask, value in zip(masks, values, strict=True):
        canvas[mask] = value
    image = Image.fromarray(canvas)
    image.putpalette(_PALETTE)
    image.save(path, optimize=True)


def voc_palette() -> bytes:
    """VOC's 256 colours: the bits of the index dealt in turn to red, green and blue, highest first."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    for index in range(256):
        for bit in range(8):
            colours[index, bit % 3] |= ((index >> bit) & 1) << (7 - bit // 3)
    return colours.tobytes()


_PALETTE: Final = voc_palette()
