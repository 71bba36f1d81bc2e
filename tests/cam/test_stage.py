"""What the methods share: whose classes get maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cam.class_tokens.helpers import split
from weaksam_cli.cam.stage import LabelSettings, chosen_classes, label_rows


@pytest.mark.parametrize(
    ("given", "threshold", "expected"),
    [
        ([2, 0], 0.1, [0, 2]),
        ([], 0.1, []),
        (None, 0.1, [1, 3]),
        (None, 0.3, [3]),
        (None, 0.9, [3]),
        (None, 0.01, [0, 1, 2, 3]),
    ],
)
def test_classes_are_those_given_or_predicted(
    given: list[int] | None, threshold: float, expected: list[int]
) -> None:
    scores = np.asarray([0.05, 0.25, 0.02, 0.4], np.float32)
    assert chosen_classes(scores, given, threshold) == expected


def test_a_predicted_class_may_have_just_the_threshold() -> None:
    assert chosen_classes(np.asarray([0.5, 0.25], np.float32), None, 0.25) == [0, 1]


@pytest.mark.parametrize(
    ("source", "role", "known", "expected"),
    [
        ("auto", "train", True, [1]),
        ("auto", "test", True, None),  # the labels of a test split are never looked at by accident
        ("auto", "train", False, None),
        ("given", "test", True, [1]),
        ("given", "test", False, None),
        ("predicted", "train", True, None),
    ],
)
def test_labels_are_given_where_they_may_be_used(
    tmp_path: Path, source: str, role: str, known: bool, expected: list[int] | None
) -> None:
    labels = split(tmp_path, 2, 2)
    labels.file.info.__dict__["role"] = role
    image = labels.file.images[1].model_copy(update={} if known else {"labels": None})
    assert LabelSettings(label_source=source).given(labels, image) == expected


def test_a_row_of_labels_an_image(tmp_path: Path) -> None:
    labels = split(tmp_path, 3, 2)
    assert label_rows(labels, ["1", "0"]).tolist() == [[False, True], [True, False]]
