"""Which detector is handed over, from image-level labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.core.types import Detections
from weaksam_cli.retrain.choice import ChoiceSettings, Use, choose, image_level_map

Best = list[tuple[float, ...]]
"""For each image the best score of each class."""
GOOD: Best = [(0.9, 0.1), (0.2, 0.8)]
SWAPPED: Best = [(0.1, 0.9), (0.8, 0.2)]
NOTHING: Best = [(), ()]
TRUTH = {"0": np.array([True, False]), "1": np.array([False, True])}


def detections(best: Best) -> dict[str, Detections]:
    """Two boxes of each class in each image, one of the given score and one half as sure."""
    found = {}
    for key, scores in enumerate(best):
        values = np.array([value for score in scores for value in (score, score / 2)], np.float32)
        classes = np.repeat(np.arange(len(scores), dtype=np.int32), 2)
        boxes = as_boxes([(0, 0, 4, 4)] * len(values))
        found[str(key)] = Detections(boxes, classes, values)
    return found


@pytest.mark.parametrize(
    ("best", "expected"),
    [(GOOD, 1.0), (SWAPPED, 0.5), (NOTHING, 0.5), ([(0.5, 0.5), (0.5, 0.5)], 0.5), ([(0.5,), ()], 0.75)],
)
def test_image_level_map(best: Best, expected: float) -> None:
    assert image_level_map(detections(best), TRUTH) == pytest.approx(expected)


def test_classes_that_no_image_shows_do_not_count() -> None:
    truth = {"0": np.array([True, False]), "1": np.array([False, False])}
    assert image_level_map(detections(GOOD), truth) == 1.0
    assert image_level_map(detections(SWAPPED), truth) == 0.5


@pytest.mark.parametrize(
    ("wsod", "retrain", "margin", "use"),
    [
        (GOOD, GOOD, 0.0, "retrain"),
        (GOOD, SWAPPED, 0.05, "wsod"),
        (GOOD, SWAPPED, 0.5, "retrain"),
        (SWAPPED, GOOD, 0.05, "retrain"),
        (NOTHING, NOTHING, 0.05, "retrain"),
        (GOOD, NOTHING, 0.05, "wsod"),
    ],
)
def test_choice(wsod: Best, retrain: Best, margin: float, use: str) -> None:
    found: dict[Use, dict[str, Detections]] = {"wsod": detections(wsod), "retrain": detections(retrain)}
    choice = choose(found, TRUTH, ChoiceSettings(choice_margin=margin), "test")
    assert (choice.use, choice.split, choice.images) == (use, "test", 2)
    assert "by the labels of 2 images of test" in choice.reason()


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=1, max_size=20).filter(
        lambda rows: any(shown for shown, _ in rows)
    )
)
def test_a_ranking_does_not_depend_on_the_scale_of_scores(rows: list[tuple[bool, float]]) -> None:
    truth = {str(key): np.array([shown]) for key, (shown, _) in enumerate(rows)}
    once = image_level_map(detections([(score,) for _, score in rows]), truth)
    half = image_level_map(detections([(score / 2,) for _, score in rows]), truth)
    assert 0 <= once <= 1 and once == pytest.approx(half)
