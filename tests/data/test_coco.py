from __future__ import annotations

import copy
import json
import math
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.data.helpers import coco_annotation, coco_content, make_coco, read_labelled, read_truth, sample
from weaksam_cli.core import masks as mask_codec
from weaksam_cli.data import coco
from weaksam_cli.data.coco.files import coco_files
from weaksam_cli.data.dataset import DatasetSplit
from weaksam_cli.errors import UserError


def labels(source: Path, images: Path | None = None, **options: Any) -> DatasetSplit:
    return read_labelled(coco, source, images, **options)[0]


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
    truth = read_truth(coco, make_coco(tmp_path, content), "train2017")
    first = truth.images[0]
    assert first.objects.boxes.tolist() == [[1, 2, 11, 14]] * 3
    assert first.objects.class_index.tolist() == [1, 0, 1]
    assert first.objects.difficult.tolist() == [False, True, False]
    assert first.objects.areas is not None
    assert first.objects.areas.tolist() == pytest.approx([50.5, np.nan, np.nan], nan_ok=True)
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
        read_truth(coco, root, "train2017")


def _changed(change: Any) -> Any:
    content = copy.deepcopy(coco_content())
    change(content)
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "no valid JSON: Input data was truncated"),
        ("[]", "is a list of entries"),
        ('[{"image_id": 5, "bbox": [1, 2, 3, 4], "score": 0.5}]', "is a list of detections"),
        ("5", "Expected `object`, got `int`"),
        ("{}", "images: expected a list of images, got nothing"),
        (_changed(lambda c: c.update(images={})), r"got `object` - at `\$\.images`"),
        (_changed(lambda c: c["images"].append(5)), r"images\[2\]: expected an object, got 5"),
        (_changed(lambda c: c["images"].clear()), "images: expected a list of images, got an empty list"),
        (_changed(lambda c: c["categories"].clear()), "there is no category with the id 90"),
        (_changed(lambda c: c["images"][0].update(id="")), r"images\[0\]\.id: .*, got ''"),
        (_changed(lambda c: c["images"][0].update(id=True)), "expected a whole number or a name, got True"),
        (_changed(lambda c: c["images"][0].update(id=2**70)), r"images\[0\]\.id: expected a whole number"),
        ('{"images": [{"id": 1' + "0" * 5000 + '}], "categories": [1]}', "number out of range"),
        (
            _changed(lambda c: c["images"][1].update(id=5)),
            "the id 5 stands twice, for 'a.jpg' and 'sub/b.jpg'",
        ),
        (_changed(lambda c: c["images"][0].pop("file_name")), r"images\[0\]: expected file_name"),
        (_changed(lambda c: c["categories"][1].update(id=90)), "the id 90 stands twice"),
        (_changed(lambda c: c["categories"][1].update(name=" ")), r"categories\[1\]\.name: "),
        (
            _changed(lambda c: c["annotations"][1].update(category_id=4)),
            r"annotations\[1\]: there is no category with the id 4. Categories: 90 zebra, 3 traffic light",
        ),
        (_changed(lambda c: c["annotations"][1].update(iscrowd="perhaps")), r"annotations\[1\]\.iscrowd"),
        (_changed(lambda c: c.pop("annotations")), "a.jpg: has no annotation, so no label to train with"),
        ('{"images": [' * 9000, "no valid JSON"),
    ],
)
def test_what_makes_identity_uncertain_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    root = make_coco(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        labels(root)
    assert "instances_train2017.json" in str(caught.value)


def test_what_is_odd_but_certain_is_told(tmp_path: Path) -> None:
    content = coco_content()
    content["images"][0].update(id="5")
    content["annotations"][0].update(image_id=5.0, id="x")
    content["annotations"][1].update(image_id=6)
    content["images"].append({"id": 10, "file_name": "../../etc/passwd"})
    content["images"].append({"id": 11, "file_name": "./a.jpg"})
    split = labels(make_coco(tmp_path, content))
    assert [image.labels for image in split.images] == [("zebra",), ()]
    assert [(item.key, item.reason[:21]) for item in split.failed] == [
        ("../../etc/passwd", "there is no such file")
    ]
    told = "\n".join(f"{item.key}: {item.reason}" for item in split.warnings)
    assert "1 annotations are of images that the file does not list and are left out: annotation 2" in told
    assert "1 images are listed under more than one id, and have the annotations of all: a.jpg" in told


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
    with pytest.raises(UserError, match="has no ground truth"):
        read_truth(coco, root, "test2017")


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
        ([math.nan, 2, 3, 5], "not finite"),
        ([math.inf, 2, 3, 5], "not finite"),
        ([1, 2, 3], "four numbers"),
        (["1", 2, 3, 4], None),
        (["one", 2, 3, 4], "four numbers"),
        (None, "four numbers"),
        ([100, 2, 3, 5], "outside the image"),
    ],
)
def test_boxes(tmp_path: Path, bbox: Any, failure: str | None) -> None:
    content = coco_content(annotations=[coco_annotation(7, 5, 90, bbox=bbox), coco_annotation(8, 5, 3)])
    root = make_coco(tmp_path, content)
    assert labels(root).images[0].labels == ("traffic light", "zebra")
    truth = read_truth(coco, root, "train2017")
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
    truth = read_truth(coco, root, "train2017", masks=True)
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
    assert list(coco_files(root)[0]) == ["train2017", "val2017"]
    splits = read_labelled(coco, root)
    assert [(split.name, split.role) for split in splits] == [("train2017", "train"), ("val2017", "test")]
    with pytest.raises(UserError, match="there is no split 'minival'"):
        read_labelled(coco, root, splits={"minival": "test"})


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"id": 4, "name": "bus"}, None),
        ({"id": 91, "name": "bus"}, None),
        ({"id": 90, "name": "bus"}, "90 is 'bus' in val2017, and in train2017 'zebra'"),
        ({"id": 4, "name": "zebra"}, "4 is 'zebra' in val2017, and in train2017 90"),
    ],
)
def test_classes_of_splits_are_joined_unless_one_would_become_another(
    tmp_path: Path, more: dict[str, Any], expected: str | None
) -> None:
    root = make_coco(tmp_path, coco_content())
    content = coco_content(categories=[{"id": 3, "name": "traffic light"}, more], annotations=[])
    make_coco(root, content, "annotations/instances_val2017.json")
    if expected is None:
        names = {split.class_names for split in read_labelled(coco, root)}
        assert names == {
            ("traffic light", "bus", "zebra") if more["id"] == 4 else ("traffic light", "zebra", "bus")
        }
        told = coco.read(root, coco.Recipe(), boxes=False).warnings
        assert told == ("the categories of train2017 lack bus", "the categories of val2017 lack zebra")
    else:
        with pytest.raises(UserError, match=expected):
            read_labelled(coco, root)


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


def test_names_of_classes_may_be_numbers(tmp_path: Path) -> None:
    root = make_coco(tmp_path, coco_content(categories=[{"id": 90, "name": 7}, {"id": 3, "name": 1.5}]))
    assert set(labels(root).class_names) == {"7", "1.5"}


def test_class_list_orders_and_checks(tmp_path: Path) -> None:
    root = make_coco(tmp_path, coco_content())
    split = labels(root, classes=("zebra", "traffic light"))
    assert (split.class_names, split.category_ids) == (("zebra", "traffic light"), (90, 3))
    with pytest.raises(UserError, match=r"the class 'zebra' is not in the class list, did you mean 'zebras'"):
        labels(root, classes=("zebras", "traffic light"))
    with pytest.raises(UserError, match="'bus' of the class list is none of the dataset's"):
        labels(root, classes=("zebra", "traffic light", "bus"))


def _images(*ids: object) -> list[dict[str, Any]]:
    return [{"id": key, "file_name": name} for key, name in zip(ids, ("a.jpg", "sub/b.jpg"), strict=True)]


@pytest.mark.parametrize(
    "change",
    [
        {"images": _images("5", 9.0), "annotations": [coco_annotation(1, 5, "90"), coco_annotation(2, "9", 3.0)]},
        {"images": _images("a.jpg", "b"), "annotations": [coco_annotation(1, "a.jpg", 90), coco_annotation(2, "b", 3)]},
        {"images": [{"id": 5, "path": "/mnt/images/a.jpg"}, {"id": 9, "file_name": None, "coco_url": "http://h/sub/b.jpg"}]},
        {"categories": None, "annotations": [
            coco_annotation(1, 5, 90, category_name="zebra"), coco_annotation(2, 9, 3, category_name="traffic light"),
        ]},
        {"annotations": [
            coco_annotation(1, 5, 90, iscrowd=None),
            coco_annotation(2, 9, 3, iscrowd=False),
            coco_annotation(3, 9, 90, iscrowd=True),
        ]},
        {"images": [*_images(5, 9), *_images(5, 9)]},
        {"images": [{**item, "license": 3, "neg_category_ids": [3]} for item in _images(5, 9)], "info": None},
    ],
)  # fmt: skip
def test_what_tools_write_in_other_words_is_read(tmp_path: Path, change: dict[str, Any]) -> None:
    annotations = [coco_annotation(1, 5, 90), coco_annotation(2, 9, 3)]
    split = labels(make_coco(tmp_path, coco_content(**{"annotations": annotations, **change})))
    assert [(image.key, image.labels) for image in split.images] == [
        ("a.jpg", ("zebra",)),
        ("sub/b.jpg", ("traffic light",)),
    ]
    assert split.category_ids == (3, 90)
    assert not split.failed


def test_categories_whose_ids_are_names_are_counted(tmp_path: Path) -> None:
    categories = [{"id": name, "name": name} for name in ("zebra", "bus")]
    annotations = [{"image_id": 5, "category_id": "bus"}]
    split = labels(make_coco(tmp_path, coco_content(categories=categories, annotations=annotations)))
    assert (split.class_names, split.category_ids) == (("zebra", "bus"), (1, 2))
    assert split.images[0].labels == ("bus",)


def test_what_stands_twice_is_put_together_and_told(tmp_path: Path) -> None:
    content = coco_content(annotations=[coco_annotation(1, 5, 90), coco_annotation(1, 7, 3)])
    content["images"].append({"id": 7, "file_name": "./a.jpg"})
    root = make_coco(tmp_path, content)
    split = labels(root)
    assert [image.labels for image in split.images] == [("traffic light", "zebra"), ()]
    assert [item.reason for item in split.warnings] == [
        "1 annotations have an id that stands before them, too: annotation 1; are two files put together here?",
        "1 images are listed under more than one id, and have the annotations of all: a.jpg",
    ]
    assert len(read_truth(coco, root, "train2017").images[0].objects) == 2


CATEGORIES = [
    {"id": 0, "name": "pets", "supercategory": "none"},
    {"id": 1, "name": "cat", "supercategory": "pets"},
    {"id": 2, "name": "dog", "supercategory": "pets"},
]


@pytest.mark.parametrize(
    ("categories", "used", "table", "told"),
    [
        (CATEGORIES, (1, 2), {"cat": 1, "dog": 2}, "no classes: 0 'pets'"),
        (CATEGORIES, (0, 2), {"pets": 0, "cat": 1, "dog": 2}, None),
        (CATEGORIES, (), {"cat": 1, "dog": 2}, "no classes: 0 'pets'"),
        ([{"id": 0, "name": "cat"}, *CATEGORIES[1:]], (1,), {"cat": 1, "dog": 2}, "no classes: 0 'cat'"),
        ([{"id": 0, "name": "cat"}, *CATEGORIES[1:]], (0, 1), {"cat": 0, "dog": 2}, "one class: 0 and 1 'cat'"),
        (
            [{"id": 0, "name": "fish", "supercategory": "none"}, {"id": 1, "name": "fish", "supercategory": "fish"}],
            (),
            {"fish": 1},
            "no classes: 0 'fish'",
        ),
        ([{"id": 0, "name": "_background_"}, {"id": 1, "name": "cat"}], (1,), {"cat": 1}, "0 '_background_'"),
        ([{"id": 1, "name": "cat", "supercategory": "cat"}, {"id": 2, "name": "dog"}], (2,), {"cat": 1, "dog": 2}, None),
        ([{"id": 1, "name": "cat ", "supercategory": ["x"]}], (), {"cat": 1}, None),
    ],
)  # fmt: skip
def test_parents_and_twins_among_the_categories(
    tmp_path: Path, categories: list[Any], used: tuple[int, ...], table: dict[str, int], told: str | None
) -> None:
    annotations = [coco_annotation(number, 5, key) for number, key in enumerate(used)]
    root = make_coco(tmp_path, coco_content(categories=categories, annotations=annotations))
    dataset = coco.read(root, coco.Recipe(), boxes=False)
    assert dataset.class_ids == table
    assert [told in line for line in dataset.warnings if told] == [True] * bool(told)
    assert len(dataset.warnings) == bool(told)


def test_a_parent_is_a_class_where_any_split_shows_it(tmp_path: Path) -> None:
    for name, key in (("train", 1), ("val", 0)):
        content = coco_content(categories=CATEGORIES, annotations=[coco_annotation(1, 5, key)])
        make_coco(tmp_path, content, f"annotations/instances_{name}.json")
    assert coco.read(tmp_path, coco.Recipe(), boxes=False).class_ids == {"pets": 0, "cat": 1, "dog": 2}


def test_a_class_list_may_leave_out_categories_without_annotations(tmp_path: Path) -> None:
    content = coco_content(annotations=[coco_annotation(1, 5, 90)])
    split = labels(make_coco(tmp_path, content), classes=("zebra",))
    assert (split.class_names, split.category_ids) == (("zebra",), (90,))


OUTLINE = [[3, 4, 20, 4, 20, 25]]
RUNS = {"size": [30, 40], "counts": [30 * 3 + 4, 10, 30 * 17 - 10 + 11, 1, 30 * 20 - 4 - 12]}


@pytest.mark.parametrize(
    ("entry", "box"),
    [
        ({"bbox": None, "segmentation": OUTLINE}, [3, 4, 20, 25]),
        ({"bbox": [], "segmentation": [*OUTLINE, [1, 2, 9, 2, 9, 9], [30, 2]]}, [1, 2, 20, 25]),
        ({"bbox": [0, 0, 0, 0], "segmentation": OUTLINE}, [3, 4, 20, 25]),
        ({"bbox": None, "segmentation": OUTLINE[0]}, [3, 4, 20, 25]),
        ({"bbox": None, "segmentation": [[3, 4], [20, 4], [20, 25]]}, [3, 4, 20, 25]),
        ({"bbox": None, "segmentation": RUNS}, [3, 4, 21, 16]),
        ({"bbox": ["3", "4", "10", "5.5"]}, [3, 4, 13, 9.5]),
    ],
)
def test_boxes_in_other_words(tmp_path: Path, entry: dict[str, Any], box: list[float]) -> None:
    content = coco_content(annotations=[coco_annotation(1, 5, 90) | entry])
    truth = read_truth(coco, make_coco(tmp_path, content), "train2017", masks=True)
    assert truth.images[0].objects.boxes.tolist() == [box]
    assert (truth.images[0].masks != (None,)) == ("segmentation" in entry)
    assert not truth.failed


@pytest.mark.parametrize(
    "segmentation",
    [[[3, 4, 20, 4]], "x", {"size": [30, 40]}, {"size": [10**6, 10**6], "counts": [1]}, [["a"] * 6], {}],
)
def test_an_annotation_without_bbox_and_outline_is_told(tmp_path: Path, segmentation: Any) -> None:
    annotations = [
        coco_annotation(1, 5, 90, segmentation=segmentation) | {"bbox": None},
        coco_annotation(2, 5, 3),
    ]
    truth = read_truth(coco, make_coco(tmp_path, coco_content(annotations=annotations)), "train2017")
    assert [(item.key, "annotation 1 (zebra)" in item.reason) for item in truth.failed] == [("a.jpg", True)]


def test_a_mask_elsewhere_than_its_box_is_told(tmp_path: Path) -> None:
    outline = [[0.1, 0.1, 0.6, 0.1, 0.6, 0.6]]
    content = coco_content(
        annotations=[coco_annotation(1, 5, 90, bbox=[0.1, 0.1, 0.5, 0.5], segmentation=outline)]
    )
    truth = read_truth(coco, make_coco(tmp_path, content), "train2017", masks=True)
    assert truth.images[0].objects.boxes.tolist() == [[4, 3, 24, 18]]
    assert truth.images[0].masks == (None,)
    assert ["elsewhere than its box" in item.reason for item in truth.failed] == [True]
    assert "fractions of the image's sides" in truth.warnings[0].reason


def test_numbers_that_are_none_are_read_as_python_writes_them(tmp_path: Path) -> None:
    text = json.dumps(coco_content(annotations=[coco_annotation(1, 5, 90, bbox=[math.nan, -math.inf, 3, 5])]))
    truth = read_truth(coco, make_coco(tmp_path, text.replace('"zebra"', '"zebra: NaN"')), "train2017")
    assert truth.class_names == ("traffic light", "zebra: NaN")
    assert ["not finite" in item.reason for item in truth.failed] == [True]


@pytest.mark.parametrize("boxes", [False, True])
def test_a_large_file_takes_little_more_than_its_size(tmp_path: Path, boxes: bool) -> None:
    outline = [[round(1 + number / 7, 2) for number in range(120)]]
    annotations = [coco_annotation(number, 5, 90, segmentation=outline) for number in range(4000)]
    root = make_coco(tmp_path, coco_content(annotations=annotations))
    size = (root / "annotations" / "instances_train2017.json").stat().st_size
    coco.read(root, coco.Recipe(), boxes=boxes)
    tracemalloc.start()
    try:
        dataset = coco.read(root, coco.Recipe(), boxes=boxes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(dataset.read("train2017").images[0].objects or ()) == 4000
    assert peak < 2.5 * size


def test_a_file_beyond_all_bounds_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "instances_train.json"
    path.write_text("{")
    os.truncate(path, 3 * 10**9)
    with pytest.raises(UserError, match="has 3,000,000,000 bytes, and at most 2,000,000,000 are read"):
        labels(path)
