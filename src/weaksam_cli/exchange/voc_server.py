"""Results as VOC's evaluation server takes them, in the places of its development kit.

Boxes: `results/VOC2012/Main/comp3_det_<split>_<class>.txt`, a line a box: image, score, and pixels counted from 1, both
ends inside. Masks: the server evaluates classes of pixels alone, `Segmentation/comp5_<split>_cls/<image>.png`. Of instances
it has no evaluation, and the kit no more than a place, `comp5_<split>_inst`, for PNGs whose value k is the k-th instance;
what they lack, classes and scores, stands in a text file beside each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from weaksam_cli.errors import UserError
from weaksam_cli.exchange import voc_masks
from weaksam_cli.exchange.annotated import Annotated, AnnotatedImage, Options, require_scores, stems
from weaksam_cli.exchange.formats import Written
from weaksam_cli.exchange.voc import check_line, has_pixels, thin

WRITES: Final = {"voc-server": "pixels counted from 1, both ends inside"}
SUFFIX: Final = ""
_BOXES, _MASKS = "comp3", "comp5"
"""VOC's names of the competitions for what was trained on its own data; with other data they are comp4 and comp6."""
_ID_2007: Final = re.compile(r"\d{6}")
_DECIMALS: Final = 2


def write(annotated: Annotated, out: Path, options: Options) -> Written:
    """A folder to be packed: `results`.

    Raises:
        UserError: boxes without scores; an image or a class whose name a line or a file cannot hold.
    """
    require_scores(annotated)
    names, remarks = stems(annotated.images)
    for name, image in zip(names, annotated.images, strict=True):
        check_line(name, image)
        if len(name.split()) > 1 or "/" in name:
            what = f"the image {image.key[:200]!r} has no id of VOC: blanks and folders cannot stand in a line of results"
            raise UserError(what, remedy="Export to coco")
    for class_name in annotated.classes:
        if "/" in class_name or len(class_name.splitlines()) > 1:
            raise UserError(f"the class {class_name!r} cannot name a file", remedy="Export to coco-results")
    year = "VOC2007" if names and all(map(_ID_2007.fullmatch, names)) else "VOC2012"
    whole = [image.take(has_pixels(image.boxes)) for image in annotated.images]
    files = {
        f"results/{year}/Main/{_BOXES}_det_{annotated.split}_{class_name}.txt": text.encode()
        for class_name, text in zip(
            annotated.classes, _texts(names, whole, len(annotated.classes)), strict=True
        )
    }
    painted = {
        name: voc_masks.Painted(image) for name, image in zip(names, whole, strict=True) if image.masks
    }
    for name, image in zip(names, whole, strict=True):
        if name in painted:
            base = f"results/{year}/Segmentation/{_MASKS}_{annotated.split}"
            files[f"{base}_cls/{name}.png"] = painted[name].classes
            files[f"{base}_inst/{name}.png"] = painted[name].objects
            files[f"{base}_inst/{name}.txt"] = _instances(image, annotated.classes).encode()
    boxes = sum(map(len, whole))
    remarks += [*thin(annotated.boxes - boxes), *voc_masks.remarks(list(painted.values()))]
    hints = [
        f"pack it: tar czf results.tgz -C {out} results",
        "with other data than VOC's, comp3 is called comp4 there",
    ]
    if painted:
        hints.append(
            "the server evaluates the classes of pixels (comp5_*_cls); it has no evaluation of instances"
        )
    return Written(files, boxes, remarks, hints=hints)


def _texts(names: Sequence[str], images: Sequence[AnnotatedImage], n_classes: int) -> list[str]:
    """The lines of each class; a file without lines says that nothing was found."""
    lines: list[list[str]] = [[] for _ in range(n_classes)]
    for name, image in zip(names, images, strict=True):
        for index, (left, top, right, bottom), score, _ in image.rows():
            corners = (left + 1, top + 1, right, bottom)
            lines[index].append(
                " ".join([name, str(score), *(f"{value:.{_DECIMALS}f}" for value in corners)])
            )
    return ["".join(f"{line}\n" for line in own) for own in lines]


def _instances(image: AnnotatedImage, classes: Sequence[str]) -> str:
    """A line an instance: its value in the PNG, its score, its class."""
    rows = enumerate(image.rows(), start=1)
    return "".join(f"{number} {row.score} {classes[row.class_index]}\n" for number, row in rows)
