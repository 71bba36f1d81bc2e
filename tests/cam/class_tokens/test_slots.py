from __future__ import annotations

import pytest

from weaksam_cli.cam.class_tokens.maps import COCO_IDS, class_slots
from weaksam_cli.data.labels import Category
from weaksam_cli.data.voc import VOC_CLASSES
from weaksam_cli.errors import UserError


def categories(names: list[str], ids: list[int] | None = None) -> list[Category]:
    numbers = ids or list(range(1, len(names) + 1))
    return [Category(id=number, name=name) for number, name in zip(numbers, names, strict=True)]


def coco(names: list[str] | None = None) -> list[Category]:
    return categories(names or list(COCO_IDS), list(COCO_IDS.values()))


def test_coco_has_80_categories_in_90_slots() -> None:
    assert len(COCO_IDS) == 80
    assert list(COCO_IDS.values()) == sorted(set(COCO_IDS.values()))
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert set(range(1, 91)) - set(COCO_IDS.values()) == gaps


@pytest.mark.parametrize(
    ("given", "slots", "names", "expected"),
    [
        (categories(list(VOC_CLASSES)), 20, None, list(range(20))),
        # Any order and any part of VOC's classes, by name.
        (categories(["dog", "cat", "aeroplane"]), 20, None, [11, 7, 0]),
        (coco(), 90, None, [number - 1 for number in COCO_IDS.values()]),
        (coco(), 80, None, list(range(80))),
        (categories(["toothbrush", "person"]), 90, None, [89, 0]),
        (categories(["toothbrush", "person"]), 80, None, [79, 0]),
        # COCO's ids under other names: by id.
        (
            coco([f"thing {number}" for number in COCO_IDS.values()]),
            90,
            None,
            [n - 1 for n in COCO_IDS.values()],
        ),
        # Nothing is known: the dataset's order.
        (categories(["b", "a"]), 2, None, [0, 1]),
        (categories([f"class {index}" for index in range(20)]), 20, None, list(range(20))),
        # A file that names its classes: by name, and more of them than the dataset has do no harm.
        (categories(["b", "a"]), 3, ("a", "c", "b"), [2, 0]),
        (categories(["cat"]), 1, ("cat",), [0]),
    ],
)
def test_the_slot_of_every_class(
    given: list[Category], slots: int, names: tuple[str, ...] | None, expected: list[int]
) -> None:
    assert class_slots(given, slots, names, where="w.pth") == expected


@pytest.mark.parametrize(
    ("given", "slots", "names", "message"),
    [
        (
            categories(["a", "b"]),
            20,
            None,
            r"has 20 classes and does not know 'a', the dataset has 2 classes",
        ),
        (categories(["a", "b"]), 3, None, r"has 3 classes, the dataset has 2 classes"),
        # VOC's ids fill a gap of COCO's, and its names are others.
        (
            categories(list(VOC_CLASSES)),
            90,
            None,
            r"has 90 classes and does not know 'aeroplane', the dataset has 20",
        ),
        (coco(), 20, None, r"has 20 classes and does not know 'motorcycle', the dataset has 80"),
        (categories(["a", "b"]), 2, ("a", "b", "c"), r"names 3 classes and has 2 class tokens"),
        # Names in the file are believed, even where the numbers are equal.
        (categories(["a", "b"]), 2, ("a", "c"), r"has 2 classes and does not know 'b', the dataset has 2"),
    ],
)
def test_other_classes_are_an_error_that_names_both_numbers(
    given: list[Category], slots: int, names: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        class_slots(given, slots, names, where="w.pth")
    assert caught.value.one_line().startswith("w.pth: ")
    assert "--set weights=" in caught.value.one_line() or "train it again" in caught.value.one_line()
