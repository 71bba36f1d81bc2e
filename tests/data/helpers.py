"""Small datasets of every layout, made in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from weaksam_cli.data.dataset import DatasetSplit, Remark
from weaksam_cli.data.ground_truth import AnnotatedImage, annotated
from weaksam_cli.data.labels import Labels, common_root, labels_file
from weaksam_cli.data.reading import read_splits


def read_labelled(
    layout: Any, source: Path, images: Path | None = None, **options: Any
) -> tuple[DatasetSplit, ...]:
    """The splits of a dataset as `weaksam data` reads them."""
    recipe = layout.Recipe(**options)
    return read_splits(layout.read(source, recipe, images, boxes=False), recipe)


@dataclass(frozen=True)
class Truth:
    class_names: tuple[str, ...]
    images: list[AnnotatedImage]
    failed: tuple[Remark, ...]
    warnings: tuple[Remark, ...]


def read_truth(
    layout: Any, source: Path, split: str, images: Path | None = None, *, masks: bool = False, **options: Any
) -> Truth:
    """The ground truth of a split as `weaksam eval` reads it."""
    options["splits"] = {split: "test"}
    (labelled,) = read_labelled(layout, source, images, **options)
    root = common_root([labelled])
    labels = Labels(source, labels_file("d", labelled, root, 10**8), root)
    raw = layout.read(source, layout.Recipe(**options), images, boxes=True).read(split)
    found = annotated(raw, labels, masks=masks)
    return Truth(labelled.class_names, list(found.images.values()), found.failed, found.warnings)


def sample(path: Path, width: int = 40, height: int = 30) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (width % 256, height % 256, 7)).save(path)
    return path


def voc_object(
    name: str, box: Sequence[object] | None = (1, 1, 10, 10), difficult: str | None = "0", extra: str = ""
) -> str:
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    corners = ""
    if box is not None:
        tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        corners = "<bndbox>" + "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags) + "</bndbox>"
    return f"<object><name>{name}</name>{flag}{corners}{extra}</object>"


def voc_xml(*objects: str, size: tuple[int, int] | None = (40, 30), filename: str = "") -> str:
    shape = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{filename}</filename>{shape}{''.join(objects)}</annotation>"


def make_voc(root: Path, annotations: Mapping[str, str | None], lists: Mapping[str, Sequence[str]]) -> Path:
    """A VOC folder: annotation per id (None: no file), and lists of ids."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for image_id, xml in annotations.items():
        sample(root / "JPEGImages" / f"{image_id}.jpg")
        if xml is not None:
            (root / "Annotations" / f"{image_id}.xml").write_text(xml, encoding="utf-8")
    for name, lines in lists.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def coco_annotation(
    number: int, image_id: int | str | float, category_id: int | str | float, **more: Any
) -> dict[str, Any]:
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": [1, 2, 10, 12], **more}


def coco_content(**more: Any) -> dict[str, Any]:
    """Two images, categories with a gap, one crowd."""
    return {
        "images": [
            {"id": 5, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 9, "file_name": "sub/b.jpg", "width": 40, "height": 30},
        ],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 3, "name": "traffic light"}],
        "annotations": [
            coco_annotation(1, 5, 90),
            coco_annotation(2, 5, 3, iscrowd=1),
            coco_annotation(3, 5, 90),
        ],
        **more,
    }


def make_coco(root: Path, content: Any, name: str = "annotations/instances_train2017.json") -> Path:
    """A COCO folder with images a.jpg and sub/b.jpg in `images`."""
    for file_name in ("a.jpg", "sub/b.jpg"):
        sample(root / "images" / file_name)
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return root
