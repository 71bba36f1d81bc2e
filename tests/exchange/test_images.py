from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.exchange.helpers import SIZE, image_boxes, labels
from weaksam_cli.core.boxes import edges_to_inclusive
from weaksam_cli.data.image_names import ImageNames, first_names, read_order
from weaksam_cli.errors import UserError
from weaksam_cli.exchange.formats import Outgoing, Remarks, fit_boxes, match_images

VOC = {"000005": 5, "2008_000021": 2008000021, "000012": 12}
COCO = {"COCO_val2014_000000000042.jpg": 42, "COCO_val2014_000000000073.jpg": 73}
OWN = {"cats/one.jpg": 31, "dogs/two.jpg": 17}
FOLDER = {"cat/a.jpg": 1, "cat/b.jpg": 2, "dog/a.jpg": 3, "dog/000007.jpg": 4}

MEANT: list[tuple[dict[str, int], Any, str | None]] = [
    (VOC, "000005", "000005"),
    (VOC, "000005.jpg", "000005"),
    (VOC, "5", "000005"),
    (VOC, 5, "000005"),
    (VOC, np.int64(5), "000005"),
    (VOC, "2008_000021", "2008_000021"),
    (VOC, "2008000021", "2008_000021"),
    (VOC, 2008000021, "2008_000021"),
    (VOC, "000006", None),
    (VOC, 6, None),
    (COCO, 42, "COCO_val2014_000000000042.jpg"),
    (COCO, "42", "COCO_val2014_000000000042.jpg"),
    (COCO, "000000000042", "COCO_val2014_000000000042.jpg"),
    (COCO, "COCO_val2014_000000000042", "COCO_val2014_000000000042.jpg"),
    (COCO, "000000000043", None),
    ({"000000000042.jpg": 42}, "COCO_train2014_000000000042", "000000000042.jpg"),
    (OWN, 17, "dogs/two.jpg"),
    (OWN, "17", "dogs/two.jpg"),
    (OWN, "two", "dogs/two.jpg"),
    (OWN, "cats/one.jpg", "cats/one.jpg"),
    (FOLDER, "b", "cat/b.jpg"),
    (FOLDER, "dog/a", "dog/a.jpg"),
    (FOLDER, "/data/pets/dog/a.png", "dog/a.jpg"),
    (FOLDER, "pets/b.jpg", "cat/b.jpg"),
    (FOLDER, "2.jpg", None),
    (VOC, "JPEGImages/000005.jpg", "000005"),
    (VOC, "images/2008_000021.PNG", "2008_000021"),
    ({"a.b": 1}, "a.b.jpg", "a.b"),
    ({"v1.2": 1, "v1.3": 2}, "v1.3", "v1.3"),
    (FOLDER, "000007", "dog/000007.jpg"),
    (FOLDER, "000002", None),
    (FOLDER, "2", None),
    (FOLDER, 2, "cat/b.jpg"),
]


@pytest.mark.parametrize(("images", "name", "key"), MEANT)
def test_which_image_is_meant(images: dict[str, int], name: Any, key: str | None) -> None:
    assert ImageNames.of_labels(labels(images)).resolve([name], where="file") == [key]


@pytest.mark.parametrize(("key", "identifier"), [("000005", 5), ("2008_000021", 2008000021), ("a.jpg", None)])
def test_keys_alone_have_vocs_ids(key: str, identifier: int | None) -> None:
    assert ImageNames.of_keys(Path("p.h5"), [key]).ids.get(key) == identifier


@pytest.mark.parametrize("name", ["a", "a.jpg", "pets/a.jpg"])
def test_equal_names_in_two_folders_are_refused(name: str) -> None:
    with pytest.raises(
        UserError, match=r"may be any of the images 'cat/a\.jpg', 'dog/a\.jpg' of trainval\.json"
    ):
        ImageNames.of_labels(labels(FOLDER)).resolve([name], where="file")


def test_two_names_for_one_image_are_refused() -> None:
    with pytest.raises(UserError, match=r"'000005' and 5 are both image '000005' of trainval\.json"):
        ImageNames.of_labels(labels(VOC)).resolve(["000005", 5], where="file")


@pytest.mark.parametrize("name", [None, 5.0, True, ("a",), b"000005"])
def test_a_name_is_text_or_an_integer(name: Any) -> None:
    with pytest.raises(UserError, match="expected image ids as text or integers"):
        ImageNames.of_labels(labels(VOC)).resolve([name], where="file")


@pytest.mark.parametrize(
    ("names", "text"),
    [([], ""), ([1], "1"), ([1, "b", 3], "1, 'b', 3"), ([1, 2, 3, 4], "1, 2, 3 and 1 more")],
)
def test_first_names(names: list[Any], text: str) -> None:
    assert first_names(names) == text


def test_lists_of_images(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("000005\n\n  cat/a b.jpg \r\n")
    assert read_order(path) == ["000005", "cat/a b.jpg"]
    path.write_text("\n")
    with pytest.raises(UserError, match="names no image"):
        read_order(path)
    path.write_bytes(b"\xff\xfe")
    for bad in (path, tmp_path / "none.txt"):
        with pytest.raises(UserError, match=r"expected a list of images, got .*Check --order"):
            read_order(bad)


def test_images_are_matched_in_the_order_of_the_split_and_counted() -> None:
    remarks = Remarks()
    names = [99, 12, "2008_000021", 98, 97, 96]
    found = match_images(names, ImageNames.of_labels(labels(VOC)), remarks, where="file")
    assert list(found.items()) == [("2008_000021", 2), ("000012", 1)]
    assert remarks.missing == ["000005"]
    assert remarks.strangers == [99, 98, 97, 96]
    assert list(remarks.lines("trainval.json")) == [
        "4 images of the file are not in trainval.json and are left out: 99, 98, 97 and 1 more"
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([1, "x"], r"no image of the file \(1, 'x'\) is in trainval\.json \('000005' \(id 5\)"),
        ([], "it is empty"),
    ],
)
def test_nothing_in_common_names_both_sides(names: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        match_images(names, ImageNames.of_labels(labels(VOC)), Remarks(), where="file")


H, W = SIZE
FITS: dict[str, tuple[list[list[float]], list[list[float]], int, int]] = {
    "inside": ([[0, 0, W, H], [1, 2, 3, 4]], [[0, 0, W, H], [1, 2, 3, 4]], 0, 0),
    "none": ([], [], 0, 0),
    "counted from 1": ([[1, 1, W + 1, H + 1]], [[1, 1, W, H]], 1, 0),
    "by two": ([[-2, -2, 5, 5], [0, 0, 1, 1]], [[0, 0, 5, 5], [0, 0, 1, 1]], 1, 0),
    "without area": ([[3, 3, 3, 9], [0, 0, 1, 1], [3, 3, 9, 3]], [[0, 0, 1, 1]], 0, 2),
    "beyond the edge": ([[W, 0, W + 1, 4]], [], 1, 1),
}


@pytest.mark.parametrize("name", list(FITS))
def test_boxes_are_cut_and_counted(name: str) -> None:
    edges, expected, cut, empty = FITS[name]
    remarks = Remarks()
    split = labels({"a.jpg": 1})
    entry = image_boxes(
        "a", edges_to_inclusive(np.asarray(edges, np.float32).reshape(-1, 4)), range(len(edges))
    )
    found = fit_boxes(entry, split.file.images[0], remarks, where="file")
    assert found.boxes.tolist() == expected
    assert len(found.predicted_iou) == len(expected)
    assert remarks.cut == ({"a.jpg": cut} if cut else {})
    assert remarks.empty == ({"a.jpg": empty} if empty else {})
    assert len(list(remarks.lines("x"))) == bool(cut) + bool(empty)


@pytest.mark.parametrize(
    ("inclusive", "message"),
    [
        ([[0, 0, W + 2, 4]], rf"image 'a' \('a\.jpg'\) is {W} x {H} pixels, and box 0 .* leaves it by 3"),
        ([[0, 0, 4, 4], [0, -2.5, 4, 4]], "box 1 .* leaves it by 2.5"),
        ([[0, 0, 65535, 4]], "leaves it by"),
        ([[30, 20, 10, 40]], r"box 0 \(30 20 11 41, pixel edges\) ends before it begins.*xywh"),
    ],
)
def test_boxes_of_other_images_are_refused(inclusive: list[list[float]], message: str) -> None:
    image = labels({"a.jpg": 1}).file.images[0]
    with pytest.raises(UserError, match=message):
        fit_boxes(image_boxes("a", inclusive), image, Remarks(), where="file")


@pytest.mark.parametrize(
    ("keys", "message"),
    [(["a/b.jpg"], r"'a/b\.jpg' has no integer id.*--labels"), (["0_1", "01"], "the same digits")],
)
def test_formats_that_know_images_by_integers(keys: list[str], message: str) -> None:
    artifact: Any = SimpleNamespace(path=Path("p.h5"), image_ids=keys, failed={})
    with pytest.raises(UserError, match=message):
        Outgoing.of(artifact, None, None).boxes(by="id")
