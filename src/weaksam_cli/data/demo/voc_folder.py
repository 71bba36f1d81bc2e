"""Writes the demo dataset in VOC layout: images, annotations, lists, class masks and instance masks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from weaksam_cli.core.boxes import edges_to_voc
from weaksam_cli.data.demo.scene import DemoImage, make_demo
from weaksam_cli.data.demo.things import CLASS_NAMES
from weaksam_cli.data.voc.png import voc_palette

_ANNOTATION = """<annotation>
\t<folder>VOC-demo</folder><filename>{key}.jpg</filename><segmented>1</segmented>
\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
{objects}
</annotation>
"""
_OBJECT = """\t<object>
\t\t<name>{0.class_name}</name><truncated>{0.truncated:d}</truncated><difficult>{0.difficult:d}</difficult>
\t\t<bndbox><xmin>{1}</xmin><ymin>{2}</ymin><xmax>{3}</xmax><ymax>{4}</ymax></bndbox>
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
        for kind, values in (("Class", classes), ("Object", range(1, len(classes) + 1))):
            _write_mask(_place(folder, f"Segmentation{kind}", f"{drawn.key}.png"), drawn, values)
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
    boxes = [edges_to_voc(item.box[None])[0].astype(int) for item in drawn.objects]
    objects = [_OBJECT.format(item, *box) for item, box in zip(drawn.objects, boxes, strict=True)]
    height, width = drawn.image.shape[:2]
    return _ANNOTATION.format(key=drawn.key, width=width, height=height, objects="\n".join(objects))


def _write_mask(path: Path, drawn: DemoImage, values: Iterable[int]) -> None:
    canvas = np.zeros(drawn.image.shape[:2], dtype=np.uint8)
    for item, value in zip(drawn.objects, values, strict=True):
        canvas[item.mask] = value
    image = Image.fromarray(canvas)
    image.putpalette(voc_palette())
    image.save(path, optimize=True)
