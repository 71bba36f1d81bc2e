"""What `data` says of a dataset: counts by split, and what looks like a mistake."""

from __future__ import annotations

import dataclasses

import pytest

from tests.data.test_division import split
from weaksam_cli.data.labels import LabelledImage, LabelsFile, LabelsInfo
from weaksam_cli.data.summary import class_table, oddities, separators, shared_images, slips


def test_the_table_counts_images_by_class_and_split() -> None:
    train = split("train", ("cat", "dog"), ("cat",), (), None)
    test = dataclasses.replace(split("val", ("dog",), role="test"), class_names=train.class_names)
    header, rows = class_table([train, test])
    assert header == ["class", "train (train)", "val (test)"]
    assert rows == [
        ["cat", "2", "0"],
        ["dog", "1", "1"],
        ["images", "4", "1"],
        ["without a class", "1", "0"],
        ["labels unknown", "1", "0"],
    ]


def test_of_many_classes_the_ends_are_shown() -> None:
    _, rows = class_table([split("train", *[(f"c{number:03}",) * 1 for number in range(100)])])
    assert [row[0] for row in rows[19:22]] == ["c019", "(60 more)", "c080"]
    assert rows[-1] == ["images", "100"]


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ({"dog": 50, "dgo": 1}, ["dgo"]),
        ({"dog": 3, "dgo": 3}, ["dgo"]),
        ({"dog": 40, "dogs": 40}, ["dogs"]),
        ({"zebra": 50, "zebre": 3}, ["zebre"]),
        ({"zebra": 50, "zbra": 3}, ["zbra"]),
        ({"cat": 50, "car": 60}, []),
        ({"cat": 0, "car": 0}, []),  # of VOC's list, and no image shows them
        ({"cat": 50, "cot": 2}, ["cot"]),
        ({"bus": 50, "boat": 2, "a": 1, "b": 1}, []),
        ({"tv monitor": 5, "tvmonitor": 5}, []),  # told by the class table
        ({"sheep": 50, "ship": 1}, []),
    ],
)
def test_slips(counts: dict[str, int], found: list[str]) -> None:
    assert [set(found) <= set(line.split("'")) for line in slips(list(counts), counts)] == [True] * len(found)


def test_slips_of_many_classes_take_no_time() -> None:
    names = [f"class number {number}" for number in range(3000)]
    assert list(slips(names, dict.fromkeys(names, 9))) == []


def test_separators() -> None:
    lines = list(separators(["cat", "dog", "cat|dog", "salt, pepper", "red/white"]))
    assert lines == ["the class 'cat|dog' may be 2 labels in one: 'cat', 'dog'"]


def test_what_changes_what_is_learnt_is_told() -> None:
    train = split("train", *[("cat",)] * 6, ("dog",), None)
    hidden = dataclasses.replace(train.images[0], labels=("cat",), difficult=("dog",))
    train = dataclasses.replace(train, class_names=("cat", "dog", "fox"), images=(hidden, *train.images[1:]))
    text = "\n".join(oddities([train]))
    for part in (
        "no image shows fox",
        "fewer than 5 images show dog (1)",
        "1 images have unknown labels",
        "in 1 images difficult objects or crowds alone show dog",
        "--set difficult=include counts them",
        "there is no test split",
        "--split-off test=0.2",
    ):
        assert part in text
    shown = dataclasses.replace(hidden, labels=("cat", "dog"))
    text = "\n".join(
        oddities([dataclasses.replace(train, images=(shown,)), split("t", ("cat",), role="test")])
    )
    assert "--set difficult=exclude leaves them out" in text
    assert "no test split" not in text
    assert "there is no training split" in "\n".join(oddities([split("t", ("cat",), role="test")]))


def _file(name: str, *images: tuple[str, str]) -> LabelsFile:
    info = LabelsInfo(dataset="d", split=name, role="train")
    entries = [
        LabelledImage(id=number, key=key, file_name=key, height=1, width=1, sha256=sha, labels=[])
        for number, (key, sha) in enumerate(images)
    ]
    return LabelsFile(info=info, categories=[], images=entries)


def test_images_of_two_splits() -> None:
    train = _file("train", ("a.jpg", "1"), ("b.jpg", "2"), ("c.jpg", "2"))
    test = _file("val", ("x.jpg", "1"), ("y.jpg", "3"))
    own, common = shared_images([train, test])
    assert own == "split train: 1 images have the same bytes as another one: c.jpg"
    assert common.startswith("1 images stand in train and in val (same bytes): x.jpg")
    assert list(shared_images([_file("train", ("a.jpg", "1"))])) == []
