from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.data.helpers import coco_annotation, coco_content, make_coco, sample
from weaksam_cli.core import masks as mask_codec
from weaksam_cli.data.coco import Recipe, coco_files, read, read_ground_truth
from weaksam_cli.data.dataset import DatasetSplit
from weaksam_cli.errors import UserError


def labels(source: Path, images: Path | None = None, **options: Any) -> DatasetSplit:
    return read(source, Recipe(**options), images)[0]


def test_labels_gaps_and_crowds(tmp_path: Path) -> None:
    root = make_coco(tmp_path, coco_content())
    split = labels(root)
    assert (split.name, split.role) == ("train2017", "train")
    assert (split.class_names, split.category_ids) == (("traffic light", "zebra"), (3, 90))
    assert [(image.key, image.image_id, image.labels) for image in split.images] == [
        ("a.jpg", 5, ("zebra",)),
        ("sub/b.jpg", 9, ()),
    ]
    assert labels(root, difficult="include").images[0].labels == ("traffic light", "zebra")


def test_ground_truth(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][0]["area"] = 50.5
    truth = read_ground_truth(make_coco(tmp_path, content), "train2017", Recipe())
    first = truth.images[0]
    assert first.objects.boxes.tolist() == [[1, 2, 11, 14]] * 3
    assert first.objects.class_index.tolist() == [1, 0, 1]
    assert first.objects.difficult.tolist() == [False, True, False]
    assert first.areas.tolist() == [50.5, 120, 120]
    assert first.image_id == 5
    assert len(truth.images[1].objects) == 0
    assert first.masks is None


def test_firewall_labels_do_not_depend_on_boxes(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][0]["segmentation"] = [[0, 0, 5, 0, 5, 5]]
    before = labels(make_coco(tmp_path, content))
    for entry in content["annotations"]:
        for field in ("bbox", "segmentation", "area"):
            entry.pop(field, None)
    root = make_coco(tmp_path, content)
    assert labels(root) == before
    with pytest.raises(UserError, match="have no boxes"):
        read_ground_truth(root, "train2017", Recipe())


def _changed(change: Any) -> Any:
    content = copy.deepcopy(coco_content())
    change(content)
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', r"no valid JSON: .* at line 1 column"),
        ("[]", "expected an object with images, annotations and categories, got an empty list"),
        ("{}", "categories: expected a list of classes, got nothing"),
        (_changed(lambda c: c.update(images={})), "images: expected a list of images, got an object"),
        (_changed(lambda c: c["images"].append(5)), r"images\[2\]: expected an object, got 5"),
        (_changed(lambda c: c["images"].clear()), "images: expected a list of images, got an empty list"),
        (
            _changed(lambda c: c["categories"].clear()),
            "categories: expected a list of classes, got an empty list",
        ),
        (
            _changed(lambda c: c["images"][0].update(id="000005")),
            r'images\[0\]\.id: expected a whole number, got "000005"',
        ),
        (_changed(lambda c: c["images"][0].update(id=True)), "expected a whole number, got true"),
        (_changed(lambda c: c["images"][0].update(id=2**70)), "expected a whole number"),
        (_changed(lambda c: c["images"][1].update(id=5)), "the image id 5 stands twice"),
        (
            _changed(lambda c: c["images"][1].update(file_name="./a.jpg")),
            "the file name 'a.jpg' stands twice",
        ),
        (_changed(lambda c: c["images"][0].pop("file_name")), "expected the path of the image"),
        (_changed(lambda c: c["images"][0].update(file_name="../../etc/passwd")), "leaves the folder"),
        (_changed(lambda c: c["images"][0].update(file_name="/etc/passwd")), "leaves the folder"),
        (_changed(lambda c: c["images"][0].update(file_name="C:/x.jpg")), "leaves the folder"),
        (_changed(lambda c: c["categories"][1].update(id=90)), "the category id 90 stands twice"),
        (
            _changed(lambda c: c["categories"][1].update(name="zebra ")),
            "the category name 'zebra' stands twice",
        ),
        (_changed(lambda c: c["categories"][1].update(name=" ")), "expected the name of the category"),
        (_changed(lambda c: c["annotations"][1].update(id=1)), "the annotation id 1 stands twice"),
        (
            _changed(lambda c: c["annotations"][1].update(image_id=6)),
            r"annotations\[1\]: there is no image with the id 6",
        ),
        (
            _changed(lambda c: c["annotations"][1].update(category_id=4)),
            r"there is no category with the id 4. Categories: 3 traffic light, 90 zebra",
        ),
        (_changed(lambda c: c["annotations"][1].update(iscrowd="no")), "iscrowd: expected 0 or 1"),
        (_changed(lambda c: c.pop("annotations")), "there are no annotations, so no labels to train with"),
    ],
)
def test_what_makes_identity_uncertain_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    root = make_coco(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        labels(root)
    assert "instances_train2017.json" in str(caught.value)


def test_large_ids_and_missing_fields_are_fine(tmp_path: Path) -> None:
    content = coco_content(annotations=[{"image_id": 2**40, "category_id": 90}])
    content["images"][0] = {"id": 2**40, "file_name": "a.jpg"}
    split = labels(make_coco(tmp_path, content))
    assert split.images[0].image_id == 2**40


def test_a_test_set_without_annotations_is_unlabelled(tmp_path: Path) -> None:
    content = coco_content()
    del content["annotations"]
    root = make_coco(tmp_path, content, "annotations/instances_test2017.json")
    assert [image.labels for image in labels(root).images] == [None, None]
    with pytest.raises(UserError, match="there is no ground truth"):
        read_ground_truth(root, "test2017", Recipe())


def test_missing_image_and_wrong_size_are_told(tmp_path: Path) -> None:
    root = make_coco(tmp_path, coco_content())
    sample(root / "images" / "a.jpg", 50, 30)
    (root / "images" / "sub" / "b.jpg").unlink()
    split = labels(root)
    assert [item.key for item in split.failed] == ["sub/b.jpg"]
    assert "says 40 x 30 pixels, the file has 50 x 30" in split.warnings[0].reason


@pytest.mark.parametrize(
    ("bbox", "failure"),
    [
        ([1, 2, 10, 12], None),
        ([-0.5, 0, 41, 30], None),
        ([1, 2, 0, 5], "no extent"),
        ([1, 2, -3, 5], "no extent"),
        ([math.nan, 2, 3, 5], "four finite numbers"),
        ([math.inf, 2, 3, 5], "four finite numbers"),
        ([1, 2, 3], "four finite numbers"),
        (["1", 2, 3, 4], "four finite numbers"),
        (None, "four finite numbers"),
        ([100, 2, 3, 5], "outside the image"),
    ],
)
def test_boxes(tmp_path: Path, bbox: Any, failure: str | None) -> None:
    content = coco_content(annotations=[coco_annotation(7, 5, 90, bbox=bbox), coco_annotation(8, 5, 3)])
    root = make_coco(tmp_path, content)
    assert labels(root).images[0].labels == ("traffic light", "zebra")
    truth = read_ground_truth(root, "train2017", Recipe())
    assert len(truth.images[0].objects) == (1 if failure else 2)
    assert [failure in item.reason and "annotation 7" in item.reason for item in truth.failed if failure] == [
        True
    ] * bool(failure)


def _run_lengths(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> list[int]:
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(np.diff(flat.astype(np.int8)))
    return np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()


def test_masks_of_all_forms(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), dtype=bool)
    mask[3:20, 5:30] = True
    mask[8:10, 7:9] = False
    compressed = mask_codec.encode(mask[None])[0].decode()
    forms: list[Any] = [
        [[5, 3, 30, 3, 30, 20, 5, 20]],
        {"size": [30, 40], "counts": _run_lengths(mask)},
        {"size": [30, 40], "counts": compressed},
        None,
        [[1, 2, 3, 4]],
        [[1, 2, 3, math.nan, 4, 5]],
        {"size": [31, 40], "counts": compressed},
        {"size": [30, 40], "counts": compressed[:-1]},
        {"size": [30, 40], "counts": [10]},
        {"size": [30, 40], "counts": [-10, 1210]},
        {"size": [30, 40], "counts": "\x00~é" * 9},
        "nonsense",
    ]
    entries = [coco_annotation(index, 5, 90, segmentation=schema) for index, schema in enumerate(forms)]
    root = make_coco(tmp_path, coco_content(annotations=entries))
    truth = read_ground_truth(root, "train2017", Recipe(), masks=True)
    found = truth.images[0].masks
    assert found is not None
    assert [item is not None for item in found] == [True] * 3 + [False] * 9
    for item in found[1:3]:
        assert item is not None
        assert np.array_equal(mask_codec.decode([item], 30, 40)[0], mask)
    assert found[0] is not None
    assert coco_mask.area({"size": [30, 40], "counts": found[0]}) == 17 * 25
    assert len(truth.failed) == 8


def test_files_and_roles(tmp_path: Path) -> None:
    root = make_coco(tmp_path, coco_content())
    make_coco(root, coco_content(), "annotations/instances_val2017.json")
    make_coco(root, {}, "annotations/captions_val2017.json")
    assert list(coco_files(root)) == ["train2017", "val2017"]
    splits = read(root, Recipe())
    assert [(split.name, split.role) for split in splits] == [("train2017", "train"), ("val2017", "test")]
    with pytest.raises(UserError, match="there is no split 'minival'"):
        read(root, Recipe(splits={"minival": "test"}))
    categories = coco_content()["categories"]
    make_coco(
        root,
        coco_content(categories=[*categories, {"id": 4, "name": "bus"}]),
        "annotations/instances_val2017.json",
    )
    with pytest.raises(
        UserError, match=r"train2017 and val2017 have different classes.*only val2017 has \['bus'\]"
    ):
        read(root, Recipe())


@pytest.mark.parametrize("folder", ["images", "train2017", "images/train2017", ".", "annotations"])
def test_images_root_is_guessed(tmp_path: Path, folder: str) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(coco_content()))
    for name in ("a.jpg", "sub/b.jpg"):
        sample(tmp_path / folder / name)
    assert len(labels(tmp_path).images) == 2
    assert len(labels(tmp_path / "annotations" / "instances_train2017.json").images) == 2


def test_images_root_is_given_or_asked_for(tmp_path: Path) -> None:
    (tmp_path / "some.json").write_text(json.dumps(coco_content()))
    with pytest.raises(UserError, match=r"looked for a\.jpg in .*--images FOLDER"):
        labels(tmp_path / "some.json")
    sample(tmp_path / "elsewhere" / "a.jpg")
    split = labels(tmp_path / "some.json", images=tmp_path / "elsewhere")
    assert (split.name, len(split.images), len(split.failed)) == ("some", 1, 1)
    with pytest.raises(UserError, match="no such folder of images"):
        labels(tmp_path / "some.json", images=tmp_path / "absent")


@pytest.mark.parametrize("subset", [("sub/b.jpg",), ("b.jpg",), ("b",), ("9",)])
def test_subset_names_one_of_several_ways(tmp_path: Path, subset: tuple[str, ...]) -> None:
    root = make_coco(tmp_path, coco_content())
    split = labels(root, subset=subset, splits={"mine": "test"})
    assert (split.name, split.role, [image.key for image in split.images]) == ("mine", "test", ["sub/b.jpg"])
    with pytest.raises(UserError, match="1 entries of the list fit no image: c"):
        labels(root, subset=(*subset, "c"))


def test_class_list_orders_and_checks(tmp_path: Path) -> None:
    root = make_coco(tmp_path, coco_content())
    split = labels(root, classes=("zebra", "traffic light"))
    assert (split.class_names, split.category_ids) == (("zebra", "traffic light"), (90, 3))
    with pytest.raises(UserError, match=r"the class 'zebra' is not in the class list, did you mean 'zebras'"):
        labels(root, classes=("zebras", "traffic light"))
    with pytest.raises(UserError, match="'bus' of the class list is no category"):
        labels(root, classes=("zebra", "traffic light", "bus"))
