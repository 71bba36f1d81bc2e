"""Writes the demo dataset in VOC layout: images, annotations, lists, class masks and instance masks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from weaksam_cli.core.boxes import edges_to_voc
from weaksam_cli.data.demo.scene import DemoImage, make_demo
from weaksam_cli.data.demo.things import CLASS_NAMES

_ANNOTATION = """<annotation>
\t<folder>VOC-demo</folder>
\t<filename>{key}.jpg</filename>
\t<source><database>weaksam demo, made by the program</database></source>
\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
\t<segmented>1</segmented>
{objects}
</annotation>
"""
_OBJECT = """\t<object>
\t\t<name>{name}</name><pose>Unspecified</pose><truncated>{truncated:d}</truncated><difficult>{difficult:d}</difficult>
\t\t<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
\t</object>"""


def write_demo_voc(folder: Path, *, seed: int, n_trainval: int, n_test: int) -> None:
    """Make the demo dataset and write it as a VOC folder; the same bytes for the same arguments and library versions.

    Masks are palette PNGs as in VOC, except that objects have no border of 255; in `SegmentationObject` value k is the
    k-th object of the XML, in `SegmentationClass` the k-th class by name.

    Args:
        folder: made when missing; holds JPEGImages, Annotations, ImageSets and the masks afterwards.
        seed: of everything random.
        n_trainval: images of the split `trainval`.
        n_test: images of the split `test`.
    """
    lists: dict[str, list[str]] = {}
    for drawn in make_demo(seed, n_trainval, n_test):
        lists.setdefault(drawn.split, []).append(drawn.key)
        image = Image.fromarray(drawn.image)
        image.save(_place(folder, "JPEGImages", f"{drawn.key}.jpg"), quality=92, subsampling=0)
        _place(folder, "Annotations", f"{drawn.key}.xml").write_text(_annotation(drawn), encoding="ascii")
        classes = [CLASS_NAMES.index(item.class_name) + 1 for item in drawn.objects]
        _write_mask(_place(folder, "SegmentationClass", f"{drawn.key}.png"), drawn, classes)
        _write_mask(
            _place(folder, "SegmentationObject", f"{drawn.key}.png"), drawn, range(1, len(classes) + 1)
        )
    for split, keys in lists.items():
        for task in ("Main", "Segmentation"):
            _place(folder, "ImageSets", task, f"{split}.txt").write_text(
                "\n".join(keys) + "\n", encoding="ascii"
            )


def _place(folder: Path, *parts: str) -> Path:
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _annotation(drawn: DemoImage) -> str:
    objects = (
        _OBJECT.format(
            name=item.class_name,
            truncated=item.truncated,
            difficult=item.difficult,
            box=edges_to_voc(item.box[None])[0].astype(int),
        )
        for item in drawn.objects
    )
    height, width = drawn.image.shape[:2]
    return _ANNOTATION.format(key=drawn.key, width=width, height=height, objects="\n".join(objects))


def _write_mask(path: Path, drawn: DemoImage, values: Iterable[int]) -> None:
    canvas = np.zeros(drawn.image.shape[:2], dtype=np.uint8)
    for item, value in zip(drawn.objects, values, strict=True):
        canvas[item.mask] = value
    image = Image.fromarray(canvas)
    image.putpalette(voc_palette())
    image.save(path, optimize=True)


def voc_palette() -> bytes:
    """VOC's 256 colours: the bits of the index dealt in turn to red, green and blue, highest first."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((np.arange(256) >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours.tobytes()
