"""YOLO as ultralytics, Roboflow, CVAT and darknet write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.helpers import read_labelled, read_truth, sample
from weaksam_cli.core.masks import areas
from weaksam_cli.data import yolo
from weaksam_cli.data.stage import choose_layout
from weaksam_cli.errors import UserError

CAT, DOG = "0 0.5 0.5 0.2 0.2\n", "1 0.5 0.5 0.2 0.2\n"
NAMES = "names: [cat, dog]\n"
ULTRA = {
    "images/train/a.jpg": "",
    "images/train/b.jpg": "",
    "images/val/c.jpg": "",
    "labels/train/a.txt": CAT,
    "labels/train/b.txt": DOG,
    "labels/val/c.txt": CAT,
}
ROBOFLOW = {
    "train/images/a.jpg": "",
    "train/images/b.jpg": "",
    "valid/images/c.jpg": "",
    "train/labels/a.txt": CAT,
    "train/labels/b.txt": "",
    "valid/labels/c.txt": DOG,
}


def make(root: Path, files: dict[str, str]) -> Path:
    for number, (name, text) in enumerate(files.items()):
        if name.endswith(".jpg"):
            sample(root / name, 40 + number)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    return root


def shown(source: Path) -> dict[str, Any]:
    """Split -> (role, key -> labels)."""
    assert choose_layout(str(source), None) == "yolo"
    splits = read_labelled(yolo, source)
    return {split.name: (split.role, {item.key: item.labels for item in split.images}) for split in splits}


def remarks(source: Path) -> list[str]:
    found = yolo.read(source, yolo.Recipe(), boxes=False)
    texts = [*found.warnings]
    for split in read_labelled(yolo, source):
        texts += [f"{item.key}: {item.reason}" for item in (*split.failed, *split.warnings)]
    return texts


TRAIN_AND_VAL = {
    "train": ("train", {"images/train/a.jpg": ("cat",), "images/train/b.jpg": ("dog",)}),
    "val": ("test", {"images/val/c.jpg": ("cat",)}),
}


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        ("path: ../datasets/x\ntrain: images/train\nval: images/val\ntest: # none\nnames:\n  0: cat\n  1: dog\n", []),
        ("train: /content/ds/images/train\nval: C:\\ds\\images\\val\n" + NAMES, []),
        ("train: ../images/train\nval: [images/val]\n" + NAMES, []),
        ("train: list.txt\nval: images/val\n" + NAMES, []),
        ("train: images/train\nval: images/val\ntest: images/test\n" + NAMES,
         ["data.yaml names what is not there, test: images/test"]),
        ("train: images/train\nval: images/val\nnc: 3\n" + NAMES, ["data.yaml says nc: 3 and names 2 classes"]),
        (NAMES, []),
    ],
)  # fmt: skip
def test_the_yaml(tmp_path: Path, yaml: str, told: list[str]) -> None:
    make(
        tmp_path,
        {**ULTRA, "data.yaml": yaml, "list.txt": "./images/train/a.jpg\n/x/images/train/b.jpg\n"},
    )
    assert shown(tmp_path) == TRAIN_AND_VAL
    assert remarks(tmp_path) == told


def test_absolute_paths_of_this_machine(tmp_path: Path) -> None:
    make(tmp_path / "images of all", {"x/a.jpg": "", "x/a.txt": CAT})
    make(tmp_path / "mine", {"my.yaml": f"train: {tmp_path}/images of all/x\n" + NAMES})
    ((_, found),) = shown(tmp_path / "mine" / "my.yaml").values()
    assert list(found.values()) == [("cat",)]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({**ROBOFLOW, "data.yaml": "train: ../train/images\nval: ../valid/images\n" + NAMES},
         {"train": ("train", {"train/images/a.jpg": ("cat",), "train/images/b.jpg": ()}),
          "val": ("test", {"valid/images/c.jpg": ("dog",)})}),
        (ROBOFLOW,
         {"train": ("train", {"train/images/a.jpg": ("0",), "train/images/b.jpg": ()}),
          "valid": ("test", {"valid/images/c.jpg": ("1",)})}),
        ({**ULTRA, "classes.txt": "cat\ndog\n"}, TRAIN_AND_VAL),
        ({**ULTRA, "labels/train/classes.txt": "cat\ndog\n"}, TRAIN_AND_VAL),
        ({"Images/a.jpg": "", "Labels/a.txt": CAT, "classes.txt": "cat\ndog\n"},
         {"trainval": ("train", {"Images/a.jpg": ("cat",)})}),
        ({"a.jpg": "", "b.jpg": "", "a.txt": CAT, "b.txt": DOG},
         {"trainval": ("train", {"a.jpg": ("0",), "b.jpg": ("1",)})}),
        ({"images/train/a.jpg": "", "images/val/b.jpg": "", "labels/a.txt": CAT, "labels/b.txt": DOG,
          "obj.names": "cat\ndog"},
         {"train": ("train", {"images/train/a.jpg": ("cat",)}), "val": ("test", {"images/val/b.jpg": ("dog",)})}),
        ({"obj_train_data/a.jpg": "", "obj_train_data/a.txt": DOG, "obj.names": "cat\ndog\n",
          "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
          "train.txt": "data/obj_train_data/a.jpg\n"},
         {"train": ("train", {"obj_train_data/a.jpg": ("dog",)})}),
        ({"obj/a.jpg": "", "obj/b.jpg": "", "obj/a.txt": CAT, "obj/b.txt": DOG, "obj.names": "cat\ndog\n",
          "train.txt": "/x/obj/a.jpg\n", "test.txt": "obj/b.jpg\n"},
         {"train": ("train", {"obj/a.jpg": ("cat",)}), "test": ("test", {"obj/b.jpg": ("dog",)})}),
    ],
)  # fmt: skip
def test_folders_of_real_life(tmp_path: Path, files: dict[str, str], expected: dict[str, Any]) -> None:
    """Kind A: none of them becomes class folders."""
    assert shown(make(tmp_path, files)) == expected


def test_one_split_alone_has_its_role_and_the_names_above(tmp_path: Path) -> None:
    make(tmp_path, {**ROBOFLOW, "data.yaml": "train: train/images\n" + NAMES})
    assert shown(tmp_path / "valid") == {"valid": ("test", {"images/c.jpg": ("dog",)})}


def test_what_is_missing_is_counted(tmp_path: Path) -> None:
    make(tmp_path, {**ULTRA, "images/train/d.jpg": "", "labels/train/z.txt": CAT, "test/images/e.jpg": ""})
    make(tmp_path, {"l.txt": "images/val/c.jpg\ngone.jpg\n"})
    (tmp_path / "data.yaml").write_text("train: images/train\nval: l.txt\ntest: test/images\n" + NAMES)
    assert shown(tmp_path)["train"][1]["images/train/d.jpg"] == ()
    assert shown(tmp_path)["test"] == ("test", {"test/images/e.jpg": None}), "nobody annotated this split"
    assert sorted(remarks(tmp_path)) == [
        ": 1 of 1 images have no text file and nothing else has one, so their labels are unknown: test/images/e.jpg",
        ": 1 of 3 images have no text file and so show nothing: images/train/d.jpg",
        ": 1 text files of labels have no image: z.txt",
        "gone.jpg: there is no such image",
    ]


def test_numbers_are_classes_with_a_warning(tmp_path: Path) -> None:
    assert remarks(make(tmp_path, ULTRA)) == [
        "nothing names the classes (data.yaml, classes.txt), so they are called by their numbers"
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"data.yaml": "train: images/train\nnames: [cat]\n"}, r"labels/train/b.txt, line 1: the class 1 has no name"),
        ({"labels/train/b.txt": CAT + "dog 0.5 0.5 0.1 0.1\n"}, r"b.txt, line 2: expected `class x y w h`"),
        ({"labels/train/b.txt": "0 0.5 0.5 0.1\n"}, r"b.txt, line 1: expected `class x y w h`"),
        ({"labels/train/b.txt": "nan 0.5 0.5 0.1 0.1\n"}, r"b.txt, line 1: expected `class x y w h`"),
        ({"data.yaml": "train: elsewhere\nval: nowhere\n" + NAMES}, r"the images are not found below .*train: elsewhere"),
        ({"data.yaml": "train: images/train\nnames: [true, no]\n"}, r"names: expected class names by number, got 0: True"),
        ({"data.yaml": "train: images/train\nnames: [cat, cat]\n"}, r"distinct class names"),
        ({"data.yaml": f"train: images/train\nnames: [cat, {'x' * 1001}]\n"}, r"a class cannot be called 'xxx.*1001 char"),
        ({"data.yaml": "a: &a [cat]\ntrain: images/train\nnames: *a\n"}, r"got the alias \*a"),
        ({"labels/train/b.txt": "0" * 4_000_001}, r"b.txt: has 4,000,001 bytes, and at most 4,000,000 are read"),
    ],
)  # fmt: skip
def test_errors_name_file_and_line(tmp_path: Path, files: dict[str, str], message: str) -> None:
    make(tmp_path, {**ULTRA, "data.yaml": "train: images/train\nval: images/val\n" + NAMES, **files})
    assert choose_layout(str(tmp_path), None) == "yolo"
    with pytest.raises(UserError, match=message):
        read_labelled(yolo, tmp_path)


@pytest.mark.parametrize(
    ("line", "box", "area"),
    [
        ("0 0.5 0.5 0.2 0.4", (40, 15, 60, 35), None),
        ("0 0.5 0.5 0.2 0.4 0.93", (40, 15, 60, 35), None),
        ("0 0.1 0.2 0.5 0.2 0.5 0.8 0.1 0.8", (10, 10, 50, 40), 1200),
        ("0 0.1 0.2 0.5 0.2 0.1 0.8", (10, 10, 50, 40), 600),
        ("0 0.1 0.2 0.5 0.2 0.5 0.8 0.1 0.8 0.93", (10, 10, 50, 40), 1200),
        ("0 0.5 0.5 0.2 0.4 0.45 0.45 2 0.3 0.3 0 0.5 0.6 1", (40, 15, 60, 35), None),
        ("0 0.5 0.5 0.2 0.4 0.45 0.45 2", (40, 15, 60, 35), None),
    ],
)
def test_lines_of_every_task(tmp_path: Path, line: str, box: tuple[float, ...], area: float | None) -> None:
    """Boxes, with a score, polygons and turned boxes, with a score, keypoints behind a box."""
    sample(tmp_path / "a.jpg", 100, 50)
    (tmp_path / "a.txt").write_text(line)
    truth = read_truth(yolo, tmp_path, "trainval", masks=True)
    assert truth.images[0].objects.boxes[0] == pytest.approx(box, abs=1e-4)
    if area is None:
        assert truth.images[0].masks == (None,)
    else:
        (mask,) = truth.images[0].masks or ()
        assert mask is not None
        assert areas([mask], 50, 100)[0] == pytest.approx(area, rel=0.06)


def test_keypoints_of_two_numbers_are_told_by_the_yaml(tmp_path: Path) -> None:
    make(tmp_path, {"images/a.jpg": "", "labels/a.txt": "0 0.5 0.5 0.2 0.4 0.1 0.1 0.9 0.9"})
    (tmp_path / "pose.yaml").write_text("train: images\nkpt_shape: [2, 2]\nnames: [cat]\n")
    width, height = 40, 30
    boxes = read_truth(yolo, tmp_path, "train").images[0].objects.boxes
    assert boxes[0] == pytest.approx((0.4 * width, 0.3 * height, 0.6 * width, 0.7 * height), abs=1e-4)


def test_boxes_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    sample(tmp_path / "a.jpg", 100, 50)
    (tmp_path / "a.txt").write_text(CAT + "0 5 5 0.2 0.2\n0 nan 0.5 0.2 0.2\n0 inf 0 1 1\n0 0.5 0.5 0 0\n")
    truth = read_truth(yolo, tmp_path, "trainval")
    assert len(truth.images[0].objects.boxes) == 1
    assert [item.reason.partition(" (")[0] for item in truth.failed] == [
        "line 2",
        "line 3",
        "line 4",
        "line 5",
    ]


def test_labels_are_read_without_a_look_at_boxes(tmp_path: Path) -> None:
    make(tmp_path, {"a.jpg": "", "a.txt": CAT})
    (image,) = yolo.read(tmp_path, yolo.Recipe(), boxes=False).read("trainval").images
    assert [(item.box, item.mask) for item in image.objects or ()] == [(None, None)]


def test_images_are_where_the_dataset_says(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--images: a YOLO dataset says itself where its images are"):
        yolo.read(tmp_path, yolo.Recipe(), tmp_path, boxes=False)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    make(tmp_path, {**ROBOFLOW, "data.yaml": "names: [cat, dog]\n"})
    plain = shown(tmp_path)
    for path in tmp_path.glob("*/labels/*.txt"):
        path.write_text("\ufeff" + path.read_text())
    assert shown(tmp_path) == plain
