"""`train_aug` and the masks of SBD, as people lay them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tests.data.helpers import make_voc, read_labelled, read_truth, voc_object, voc_xml
from weaksam_cli.core import masks as mask_codec
from weaksam_cli.data import voc
from weaksam_cli.data.ground_truth import AnnotatedImage
from weaksam_cli.errors import UserError

CAT, DOG = voc.VOC_CLASSES.index("cat") + 1, voc.VOC_CLASSES.index("dog") + 1
IDS = ("2007_000001", "2008_000002", "2008_000003", "2007_000004")
SETTINGS: dict[str, Any] = {"task": "Segmentation", "splits": {"train_aug": "train", "val": "test"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One image in VOC's segmentation train, one in its val, and two more; the second shows a cat, a dog and a cat."""
    cat = voc_object("cat", box=(1, 1, 10, 10))
    many = voc_xml(cat, voc_object("dog", box=(21, 1, 30, 10)), voc_object("cat", box=(11, 11, 20, 20)))
    xml = dict.fromkeys(IDS, voc_xml(cat)) | {IDS[1]: many}
    root = make_voc(tmp_path / "VOCdevkit" / "VOC2012", xml, {"train": IDS[:3], "val": IDS[3:]})
    segmentation = root / "ImageSets" / "Segmentation"
    segmentation.mkdir()
    (segmentation / "train.txt").write_text(f"{IDS[0]}\n")
    (segmentation / "val.txt").write_text(f"{IDS[3]}\n")
    return root


def instances() -> np.ndarray:
    """Three instances of the second image, in another order than its objects: a dog, the second cat, the first cat."""
    values = np.zeros((30, 40), np.uint8)
    values[0:10, 20:30] = 1
    values[10:20, 10:19] = 2
    values[0:9, 0:10] = 3
    return values


def write_matlab(folder: Path, image_id: str, values: np.ndarray, classes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "Segmentation": values,
        "Categories": np.asarray(classes, np.uint8).reshape(-1, 1),
        "Boundaries": [],
    }
    savemat(folder / f"{image_id}.mat", {"GTinst": content})


def decoded(image: AnnotatedImage) -> list[np.ndarray | None]:
    return [
        None if mask is None else mask_codec.decode([mask], image.height, image.width)[0]
        for mask in image.masks or ()
    ]


@pytest.mark.parametrize(
    ("place", "lines"),
    [
        ("ImageSets/Segmentation/train_aug.txt", "{}"),
        ("ImageSets/Segmentation/trainaug.txt", "{}"),
        ("ImageSets/SegmentationAug/train_aug.txt", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png"),
        ("ImageSets/trainaug.txt", "{}"),
        ("train_aug.txt", "{}.jpg"),
    ],
)
@pytest.mark.parametrize("task", ["Segmentation", "Main"])
def test_its_list_is_found_where_people_put_it(root: Path, place: str, lines: str, task: str) -> None:
    (root / place).parent.mkdir(exist_ok=True)
    (root / place).write_text("".join(lines.format(image_id) + "\n" for image_id in IDS[:3]))
    splits = read_labelled(voc, root, **{**SETTINGS, "task": task})
    assert [(split.name, split.role) for split in splits] == [("train_aug", "train"), ("val", "test")]
    assert [(image.key, image.labels) for image in splits[0].images] == [
        (IDS[0], ("cat",)),
        (IDS[1], ("cat", "dog")),
        (IDS[2], ("cat",)),
    ]
    assert splits[0].failed == ()


@pytest.mark.parametrize(
    "home", ["VOCdevkit/VOC2012", "VOCdevkit/VOCaug/dataset", "benchmark_RELEASE/dataset", "SBD"]
)
@pytest.mark.parametrize("lists", [True, False])
def test_without_a_list_it_is_made_of_sbd_and_voc(root: Path, home: str, lists: bool) -> None:
    """SBD's 11,355 images and VOC's segmentation train, without its val."""
    folder = root.parent.parent / home
    for image_id in IDS[1:]:
        write_matlab(folder / "inst", image_id, np.ones((30, 40), np.uint8), [CAT])
    if lists:
        (folder / "train.txt").write_text(f"{IDS[1]}\n")
        (folder / "val.txt").write_text(f"{IDS[3]}\n{IDS[2]}\n")
    (split, _) = read_labelled(voc, root, **SETTINGS)
    assert [image.key for image in split.images] == sorted(IDS[:3])
    recipe = voc.Recipe(**SETTINGS)
    assert voc.read(root, recipe, boxes=False).warnings == (), "all images are in a split"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("train.txt", "ImageSets/Segmentation/train.txt"),
        ("", "SBD (benchmark_RELEASE) in the folder or beside it"),
    ],
)
def test_what_is_missing_is_said(root: Path, name: str, what: str) -> None:
    if name:
        (root / "ImageSets" / "Segmentation" / name).unlink()
    with pytest.raises(UserError) as caught:
        read_labelled(voc, root, **SETTINGS)
    assert (
        caught.value.what == "the split train_aug has no list (train_aug.txt or trainaug.txt below ImageSets)"
    )
    assert what in (caught.value.remedy or "")


def test_an_image_without_xml_has_no_label(root: Path) -> None:
    (root / "ImageSets" / "Segmentation" / "train_aug.txt").write_text(
        "".join(f"{name}\n" for name in IDS[:3])
    )
    (root / "Annotations" / f"{IDS[2]}.xml").unlink()
    (split, _) = read_labelled(voc, root, **SETTINGS)
    assert [(item.key, item.reason) for item in split.failed] == [
        (IDS[2], "has no annotation, so no label to train with")
    ]


@pytest.mark.parametrize("form", ["matlab", "png"])
def test_instances_go_to_the_objects_of_their_class_and_place(root: Path, form: str) -> None:
    values, classes = instances(), [DOG, CAT, CAT]
    if form == "matlab":
        write_matlab(root.parent.parent / "benchmark_RELEASE" / "dataset" / "inst", IDS[1], values, classes)
    else:
        for name, pixels in (("Object", values), ("Class", np.asarray([0, *classes], np.uint8)[values])):
            (root / f"Segmentation{name}Aug").mkdir()
            Image.fromarray(pixels).save(root / f"Segmentation{name}Aug" / f"{IDS[1]}.png")
    (root / "SegmentationObject").mkdir()
    Image.fromarray((values == 3).astype(np.uint8)).save(root / "SegmentationObject" / f"{IDS[0]}.png")
    truth = read_truth(voc, root, "train", masks=True)
    official, added, bare = truth.images
    for mask, number in zip(decoded(added), (3, 1, 2), strict=True):
        assert mask is not None and np.array_equal(mask, values == number)
    (mask,) = decoded(official)
    assert mask is not None and mask.sum() == 90
    assert decoded(bare) == [None]
    assert truth.failed == ()
    assert [item.reason for item in truth.warnings] == [f"1 objects of 1 images have no mask: {IDS[2]}"]


def test_an_instance_of_another_class_or_place_is_nobodys(root: Path) -> None:
    values = np.zeros((30, 40), np.uint8)
    values[0:10, 0:10] = 1
    values[20:30, 20:30] = 2
    write_matlab(root / "inst", IDS[0], values, [DOG, CAT])
    first = read_truth(voc, root, "train", masks=True).images[0]
    assert decoded(first) == [None]


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_any_number_of_instances(root: Path, n: int) -> None:
    """MATLAB has no lists: one category is a number alone."""
    values = np.zeros((30, 40), np.uint8)
    objects = []
    for number in range(1, n + 1):
        values[0:10, 5 * number : 5 * number + 4] = number
        objects.append(voc_object("cat", box=(5 * number + 1, 1, 5 * number + 4, 10)))
    (root / "Annotations" / f"{IDS[0]}.xml").write_text(voc_xml(*objects))
    write_matlab(root / "inst", IDS[0], values, [CAT] * n)
    first = read_truth(voc, root, "train", masks=True).images[0]
    assert [None if mask is None else int(mask.sum()) for mask in decoded(first)] == [40] * n


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no matlab", "cannot be read as SBD's instances"),
        (bytes(1_000_001), "is no file of SBD"),
        (None, "expected 40 x 30 pixels, got 5 x 4"),
    ],
)
def test_damaged_instances_are_named(root: Path, content: bytes | None, reason: str) -> None:
    write_matlab(root / "inst", IDS[0], np.ones((4, 5), np.uint8), [CAT])
    if content is not None:
        (root / "inst" / f"{IDS[0]}.mat").write_bytes(content)
    truth = read_truth(voc, root, "train", masks=True)
    assert [item.key for item in truth.failed] == [IDS[0]]
    assert reason in truth.failed[0].reason


def test_boxes_alone_open_no_instances(root: Path) -> None:
    write_matlab(root / "inst", IDS[0], np.ones((4, 5), np.uint8), [CAT])
    (root / "inst" / f"{IDS[0]}.mat").write_bytes(b"no matlab")
    assert read_truth(voc, root, "train").failed == ()
