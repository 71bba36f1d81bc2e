"""Small datasets of every layout: the same six images, mostly the same box in each."""

from __future__ import annotations

import base64
import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from tests.tiny import CLASSES, write_voc

SOURCES = {
    "voc": ("voc",),
    "coco": ("coco/annotations.json", "--images", "coco/images"),
    "yolo": ("yolo",),
    "listed": ("listed/labels.csv", "--images", "listed"),
    "classes": ("classes",),
    "cvat": ("cvat",),
    "datumaro": ("datumaro",),
    "label_studio": ("label_studio",),
    "labelme": ("labelme",),
    "via": ("via",),
    "brush": ("brush",),
    "painted": ("painted",),
}
"""Name -> what `weaksam data` is told; each lies in a folder of its name."""
OUTLINED = ("coco", "yolo", "cvat", "datumaro", "label_studio", "labelme", "via", "brush", "painted")
"""Those of a single split that have polygons or masks."""

_LEFT, _TOP, _WIDTH, _HEIGHT = 6, 5, 32, 24
_RIGHT, _BOTTOM = _LEFT + _WIDTH, _TOP + _HEIGHT
_CORNERS = [[_LEFT, _TOP], [_RIGHT, _TOP], [_RIGHT, _BOTTOM], [_LEFT, _BOTTOM]]
_SIZE = {"width": 64, "height": 48}


def write_datasets() -> None:
    """Write all of them into the working folder."""
    write_voc(Path("voc"), trainval=4, test=2)
    images = sorted(Path("voc/JPEGImages").iterdir())
    names = [CLASSES[number % 3] for number in range(len(images))]
    folders = (
        "coco/images",
        "yolo/images/train",
        "listed",
        "cvat/images",
        "datumaro/images/train",
        "label_studio/images",
        "labelme",
        "via",
        "brush/images",
        "painted",
    )
    for place in (
        *folders,
        *(f"classes/{name}" for name in CLASSES),
        "yolo/labels/train",
        "datumaro/annotations",
    ):
        Path(place).mkdir(parents=True)
    for path, name in zip(images, names, strict=True):
        for place in (*folders, f"classes/{name}"):
            shutil.copy(path, place)
    named = list(zip(images, names, strict=True))
    _coco(named)
    _yolo(named)
    rows = [f"{path.name},{name};{CLASSES[0]}\n" for path, name in named]
    Path("listed/labels.csv").write_text("image,labels\n" + "".join(rows))
    _cvat(named)
    _datumaro(named)
    _label_studio(named)
    _labelme(named)
    _via(named)
    _brush(named)
    _painted(named)


Named = list[tuple[Path, str]]


def _write(path: str, content: Any) -> None:
    Path(path).write_text(content if isinstance(content, str) else json.dumps(content))


def _coco(named: Named) -> None:
    box = {"bbox": [_LEFT, _TOP, _WIDTH, _HEIGHT], "area": _WIDTH * _HEIGHT, "iscrowd": 0}
    outline: list[Any] = [[[value for corner in _CORNERS for value in corner]]] * len(named)
    outline[2] = {"size": [48, 64], "counts": [100, 20, 2952]}
    content = {
        "info": {"description": "made"},
        "images": [{"id": n, "file_name": path.name, **_SIZE} for n, (path, _) in enumerate(named, 1)],
        "categories": [{"id": n, "name": name, "supercategory": "one"} for n, name in enumerate(CLASSES, 1)],
        "annotations": [
            {
                "id": n,
                "image_id": n,
                "category_id": CLASSES.index(name) + 1,
                **box,
                "segmentation": outline[n - 1],
            }
            for n, (_, name) in enumerate(named, 1)
        ],
    }
    _write("coco/annotations.json", content)


def _yolo(named: Named) -> None:
    for number, (path, name) in enumerate(named):
        polygon = "1 0.1 0.1 0.4 0.1 0.4 0.5 0.1 0.5\n" if number == 2 else ""
        _write(f"yolo/labels/train/{path.stem}.txt", f"{CLASSES.index(name)} 0.35 0.35 0.5 0.5\n{polygon}")
    _write(
        "yolo/data.yaml",
        f"path: .\ntrain: images/train\nval: images/train\nnc: 3\nnames: {json.dumps(CLASSES)}\n",
    )


def _cvat(named: Named) -> None:
    points = ";".join(f"{x}.0,{y}.0" for x, y in _CORNERS)
    box = f'xtl="{_LEFT}.0" ytl="{_TOP}.0" xbr="{_RIGHT}.0" ybr="{_BOTTOM}.0"'
    images = "".join(
        f'<image id="{n}" name="{path.name}" subset="train" width="64" height="48">'
        f'<box label="{name}" occluded="0" {box} z_order="0"><attribute name="a">b</attribute></box>'
        f'<polygon label="{name}" points="{points}"/><tag label="{name}"/>'
        f'<mask label="{name}" rle="3, 5, 4" left="2" top="3" width="4" height="3"/></image>'
        for n, (path, name) in enumerate(named)
    )
    labels = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    _write(
        "cvat/annotations.xml",
        f"<annotations><version>1.1</version><meta><job><labels>{labels}</labels></job></meta>{images}</annotations>",
    )


def _datumaro(named: Named) -> None:
    items = [
        {"id": path.stem, "image": {"path": path.name, "size": [48, 64]}, "annotations": [
            {"id": n, "type": "bbox", "label_id": CLASSES.index(name), "bbox": [_LEFT, _TOP, _WIDTH, _HEIGHT],
            "group": 0, "attributes": {}},
            {"id": n + 50, "type": "polygon", "label_id": 0, "points": [value for corner in _CORNERS for value in corner]},
            {"id": n + 90, "type": "label", "label_id": CLASSES.index(name)}]}
        for n, (path, name) in enumerate(named)
    ]  # fmt: skip
    categories = {"label": {"labels": [{"name": name, "parent": "", "attributes": []} for name in CLASSES]}}
    _write("datumaro/annotations/train.json", {"info": {}, "categories": categories, "items": items})


def _label_studio(named: Named) -> None:
    def result(name: str) -> list[dict[str, Any]]:
        common = {"original_width": 64, "original_height": 48, "from_name": "label", "to_name": "image"}
        box = {"x": 10.0, "y": 10.0, "width": 50.0, "height": 50.0, "rotation": 0, "rectanglelabels": [name]}
        outline = {"points": [[10.0, 10.0], [60.0, 10.0], [60.0, 60.0]], "polygonlabels": [name]}
        return [
            {**common, "type": "rectanglelabels", "value": box},
            {**common, "type": "polygonlabels", "value": outline},
        ]

    tasks = [
        {"id": n, "data": {"image": f"/data/local-files/?d=images/{path.name}"}, "annotations": [{"id": n,
        "was_cancelled": False, "result": result(name)}]}
        for n, (path, name) in enumerate(named)
    ]  # fmt: skip
    _write("label_studio/tasks.json", tasks)


def _labelme(named: Named) -> None:
    for path, name in named:
        shapes: list[dict[str, Any]] = [
            {"label": name, "points": [[_LEFT, _TOP], [_RIGHT, _BOTTOM]], "shape_type": "rectangle", "flags": {},
            "group_id": None},
            {"label": name, "points": _CORNERS, "shape_type": "polygon", "flags": {}},
        ]  # fmt: skip
        _labelme_file("labelme", path, shapes)


def _labelme_file(folder: str, path: Path, shapes: list[dict[str, Any]]) -> None:
    content: dict[str, Any] = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": path.name,
        "imageData": None,
        "imageHeight": 48,
        "imageWidth": 64,
    }
    _write(f"{folder}/{path.stem}.json", content)


def _painted(named: Named) -> None:
    """LabelMe's masks."""
    drawn = BytesIO()
    Image.new("L", (_WIDTH, _HEIGHT), 1).save(drawn, "PNG")
    mask = base64.b64encode(drawn.getvalue()).decode()
    points = [[_LEFT, _TOP], [_RIGHT - 1, _BOTTOM - 1]]
    for path, name in named:
        shapes = [{"label": name, "points": points, "shape_type": "mask", "mask": mask, "flags": {}}]
        _labelme_file("painted", path, shapes)


def _brush(named: Named) -> None:
    """Label Studio's brush strokes: all of the picture but its last pixel."""
    # 12,288 words of 8 bits; lengths of 3, 4, 8 and 16 bits; 12,284 times 255, 4 times 0.
    bits = f"{12288:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}111{12283:016b}{255:08b}100{3:03b}{0:08b}"
    bits += "0" * (-len(bits) % 8)
    rle = [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]
    tasks = [
        {"id": n, "data": {"image": path.name}, "annotations": [{"id": n, "result": [{"type": "brushlabels",
        "original_width": 64, "original_height": 48, "value": {"format": "rle", "rle": rle, "brushlabels": [name]}}]}]}
        for n, (path, name) in enumerate(named)
    ]  # fmt: skip
    _write("brush/tasks.json", tasks)


def _via(named: Named) -> None:
    def regions(name: str) -> list[dict[str, Any]]:
        rectangle = {"name": "rect", "x": _LEFT, "y": _TOP, "width": _WIDTH, "height": _HEIGHT}
        polygon = {
            "name": "polygon",
            "all_points_x": [x for x, _ in _CORNERS],
            "all_points_y": [y for _, y in _CORNERS],
        }
        return [
            {"shape_attributes": shape, "region_attributes": {"label": name}}
            for shape in (rectangle, polygon)
        ]

    content: dict[str, Any] = {
        f"{path.name}{path.stat().st_size}": {"filename": path.name, "size": path.stat().st_size,
        "regions": regions(name), "file_attributes": {}}
        for path, name in named
    }  # fmt: skip
    _write("via/via.json", content)
