"""Dividing a test split off: every class keeps its share, and the same images are held out everywhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.data.dataset import DatasetSplit, ImageRecord, Role
from weaksam_cli.data.division import held_out, split_off
from weaksam_cli.errors import UserError


def images(*labels: tuple[str, ...] | None) -> tuple[ImageRecord, ...]:
    return tuple(
        ImageRecord(f"{number}.jpg", Path(f"{number}.jpg"), 30, 40, names)
        for number, names in enumerate(labels)
    )


def split(name: str, *labels: tuple[str, ...] | None, role: Role = "train") -> DatasetSplit:
    names = tuple(sorted({label for item in labels for label in item or ()}))
    return DatasetSplit(name, role, names, tuple(range(len(names))), images(*labels), (), (), name)


def test_classes_keep_their_share() -> None:
    labels = [("cat",)] * 50 + [("dog",)] * 20 + [("cat", "fox")] * 10 + [()] * 10 + [None] * 10
    found = images(*labels)
    off = held_out(found, 0.2)
    counts = Counter(name for image in found if image.key in off for name in image.labels or ())
    assert counts == {"cat": 12, "dog": 4, "fox": 2}
    assert len(off) == 20
    assert off == held_out(found[::-1], 0.2)


@given(st.lists(st.sets(st.sampled_from("abcd")), max_size=60), st.floats(0.05, 0.95))
def test_no_class_is_further_from_its_share_than_it_must(labels: list[set[str]], share: float) -> None:
    found = images(*(tuple(sorted(item)) for item in labels))
    off = held_out(found, share)
    single = [item for item in labels if len(item) == 1]
    if len(single) == len(labels):
        for name, count in Counter(name for item in labels for name in item).items():
            held = sum(name in (image.labels or ()) for image in found if image.key in off)
            assert abs(held - count * share) <= 1, "one label an image: rounding alone moves a class"


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
def test_few_images(count: int) -> None:
    off = held_out(images(*[("cat",)] * count), 0.5)
    assert len(off) == count // 2


def test_split_off() -> None:
    train, test = split_off([split("trainval", *[("cat",)] * 8, ("dog",))], "test", 0.25)
    assert (train.name, train.role, train.origin, len(train.images)) == ("trainval", "train", "trainval", 7)
    assert (test.name, test.role, test.origin, len(test.images)) == ("test", "test", "trainval", 2)
    assert any("dog" in (image.labels or ()) for image in train.images), "a class of one image is learnt from"
    assert test.class_names == train.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("splits", "name", "what"),
    [
        (
            [split("train", ("a",)), split("val", ("a",), role="test")],
            "test",
            r"train \(train\), val \(test\)",
        ),
        ([split("test", ("a",), role="test")], "held", r"test \(test\)"),
        ([split("test", ("a",))], "test", r"test \(train\)"),
        ([split("train", ("a",))], "test", "leave"),
        ([split("train", ("a",), ("a",))], "a/b", "cannot be the name"),
    ],
)
def test_what_cannot_be_divided(splits: list[DatasetSplit], name: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        split_off(splits, name, 0.2)
