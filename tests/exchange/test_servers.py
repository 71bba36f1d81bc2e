"""Results for VOC's and COCO's servers, read again as these and their kits read them."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.data.helpers import read_labelled, sample
from tests.exchange.annotations import annotated_image
from weaksam_cli.core.masks import decode, encode, tight_boxes
from weaksam_cli.data import coco
from weaksam_cli.errors import UserError
from weaksam_cli.exchange.annotated import Annotated, AnnotatedImage
from weaksam_cli.exchange.writing import write

CLASSES = ("cat", "dog", "potted plant")
KEYS = ("2008_000001", "2008_000002", "2008_000003", "2008_000004", "2008_000005")
COUNTS = (0, 1, 2, 6, 7)


def split(keys: tuple[str, ...] = KEYS, *, masks: bool = True, name: str = "test") -> Annotated:
    """0, 1, 2, 6, 7 boxes of cats and dogs in images of 64 x 48 pixels, with masks that overlap."""
    generator, images = np.random.default_rng(3), list[AnnotatedImage]()
    for number, (key, count) in enumerate(zip(keys, COUNTS, strict=False)):
        dense = np.zeros((count, 48, 64), bool)
        for mask in dense:
            top, left = generator.integers(0, 30, 2)
            mask[top : top + generator.integers(3, 18), left : left + generator.integers(3, 30)] = True
        counts = tuple(encode(dense)) if count else ()
        scores, classes = generator.random(count).tolist(), generator.integers(0, 2, count).tolist()
        made = annotated_image(key, tight_boxes(counts, 48, 64), classes, scores=scores)
        images.append(replace(made, id=100 + number, masks=counts if masks else None))
    return Annotated(CLASSES, tuple(images), (3, 7, 90), name)


def test_a_line_a_box_in_a_file_a_class(tmp_path: Path) -> None:
    """As the kit's `VOCevaldet` reads: image, confidence and corners, which are pixels counted from 1."""
    annotated = split(masks=False)
    write(annotated, "voc-server", tmp_path / "out")
    found: dict[tuple[str, str], list[list[float]]] = {}
    for name in CLASSES:
        lines = (tmp_path / f"out/results/VOC2012/Main/comp3_det_test_{name}.txt").read_text().splitlines()
        for key, *numbers in map(str.split, lines):
            found.setdefault((key, name), []).append([float(number) for number in numbers])
    assert not any(name == "potted plant" for _, name in found)
    for image in annotated.images:
        for index, name in enumerate(CLASSES):
            rows = [
                [row.score, row.box[0] + 1, row.box[1] + 1, row.box[2], row.box[3]]
                for row in image.rows()
                if row.class_index == index
            ]
            got = np.asarray(found.get((image.key, name), []))
            np.testing.assert_allclose(got, np.asarray(rows), atol=0.01)
    assert not (tmp_path / "out/results/VOC2012/Segmentation").exists()


def test_masks_are_pairs_of_pngs_with_scores_beside(tmp_path: Path) -> None:
    annotated = split()
    export = write(annotated, "voc-server", tmp_path / "out")
    folder = tmp_path / "out/results/VOC2012/Segmentation"
    assert any("it has no evaluation of instances" in hint for hint in export.hints)
    assert {path.name for path in (folder / "comp5_test_cls").iterdir()} == {f"{key}.png" for key in KEYS[1:]}
    for image in annotated.images[1:]:
        instances = np.asarray(Image.open(folder / f"comp5_test_inst/{image.key}.png"))
        classes = np.asarray(Image.open(folder / f"comp5_test_cls/{image.key}.png"))
        lines = (folder / f"comp5_test_inst/{image.key}.txt").read_text().splitlines()
        told = [line.split(" ", 2) for line in lines]
        dense = decode(image.masks or (), 48, 64)
        assert [int(number) for number, *_ in told] == list(range(1, len(image) + 1))
        assert [float(score) for _, score, _ in told] == pytest.approx(image.detections().scores.tolist())
        assert np.array_equal(instances > 0, dense.any(axis=0))
        best = np.where(dense, image.detections().scores[:, None, None], -1).argmax(axis=0) + 1
        assert np.array_equal(instances, np.where(dense.any(axis=0), best, 0))
        names = [name for _, _, name in told]
        assert {(names[number - 1], CLASSES[kind - 1]) for number, kind in zip(
            instances[instances > 0].tolist(), classes[instances > 0].tolist(), strict=True
        )} <= {(name, name) for name in CLASSES}  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "year"),
    [(("000001", "000022"), "VOC2007"), (("2008_000001",), "VOC2012"), (("a", "000001"), "VOC2012")],
)
def test_the_year_is_that_of_the_ids(tmp_path: Path, keys: tuple[str, ...], year: str) -> None:
    write(split(keys, name="val"), "voc-server", tmp_path / "out")
    assert (tmp_path / f"out/results/{year}/Main/comp3_det_val_cat.txt").is_file()


def test_coco_evaluates_both_files(tmp_path: Path) -> None:
    """The masks' file says masks: areas are theirs, not those of boxes."""
    annotated = split(name="test-dev2017")
    write(annotated, "coco-results", tmp_path / "my method!")
    name = "detections_test-dev2017_my-method-_results.json"
    assert sorted(
        path.relative_to(tmp_path / "my method!").as_posix() for path in tmp_path.rglob("*.json")
    ) == [
        f"bbox/{name}",
        f"segm/{name}",
    ]
    truth = COCO()
    rows = [(image, row) for image in annotated.images for row in image.rows()]
    truth.dataset = {
        "info": {},
        "images": [{"id": image.id, "height": 48, "width": 64} for image in annotated.images],
        "categories": [{"id": number, "name": name} for number, name in zip((3, 7, 90), CLASSES, strict=True)],
        "annotations": [
            {
                "id": number, "image_id": image.id, "category_id": (3, 7, 90)[row.class_index], "iscrowd": 0,
                "bbox": [row.box[0], row.box[1], row.box[2] - row.box[0], row.box[3] - row.box[1]], "area": 100,
                "segmentation": {"size": [48, 64], "counts": row.mask},
            }
            for number, (image, row) in enumerate(rows, start=1)
        ],
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        for kind in ("bbox", "segm"):
            found = truth.loadRes(str(tmp_path / "my method!" / kind / name))
            evaluation = COCOeval(truth, found, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert evaluation.stats[0] == pytest.approx(1)
            pixels = decode([mask for image in annotated.images for mask in image.masks or ()], 48, 64).sum(
                (1, 2)
            )
            areas = [item["area"] for item in found.anns.values()]
            assert kind == "bbox" or areas == pixels.tolist()


def test_without_masks_there_is_no_file_of_masks(tmp_path: Path) -> None:
    export = write(split(masks=False, name="val2017"), "coco-results", tmp_path / "x")
    assert [path.name for path in (tmp_path / "x").iterdir() if path.name[0] != "."] == ["bbox"]
    assert export.boxes == sum(COUNTS)
    assert "zip detections_val2017_x_results.zip" in export.hints[0]


def one(**changes: Any) -> Annotated:
    image = replace(annotated_image("2008_000001", [[1, 1, 9, 9]], [0], scores=[0.5]), id=1)
    return Annotated((changes.pop("name", "cat"),), (replace(image, **changes),))


@pytest.mark.parametrize(
    ("layout", "annotated", "message"),
    [
        ("voc-server", one(scores=None), "these boxes have no scores"),
        ("coco-results", one(scores=None), "these boxes have no scores"),
        ("voc-server", one(key="a b"), "the image 'a b' has no id of VOC"),
        ("voc-server", one(key="a/b"), "the image 'a/b' has no id of VOC"),
        ("voc-server", one(name="a/b"), "the class 'a/b' cannot name a file"),
        ("coco-results", one(id=None), "image '2008_000001' has no id of its dataset"),
    ],
)
def test_what_servers_cannot_take_is_refused(
    tmp_path: Path, layout: str, annotated: Annotated, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        write(annotated, layout, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_images_of_test_dev_keep_their_ids(tmp_path: Path) -> None:
    """COCO's `image_info_test-dev2017.json` has images and categories, and no annotations."""
    categories = [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}]
    images = [{"id": 581929, "file_name": "000000581929.jpg", "width": 40, "height": 30}]
    sample(tmp_path / "test2017" / "000000581929.jpg")
    path = tmp_path / "annotations" / "image_info_test-dev2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"images": images, "categories": categories}))
    (found,) = read_labelled(coco, path, tmp_path / "test2017", splits={"test-dev2017": "test"})
    assert (found.name, found.category_ids) == ("test-dev2017", (3, 90))
    assert [(image.image_id, image.labels) for image in found.images] == [(581929, None)]
