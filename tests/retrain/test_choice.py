"""Which detector is handed over, from image-level labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.core.types import Detections
from weaksam_cli.data.fused_maps import FusedMaps
from weaksam_cli.retrain.choice import (
    TRAINED,
    USES,
    ChoiceSettings,
    Use,
    choose,
    image_level_map,
    map_agreement,
)

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
    choice = choose(found, TRUTH, {}, ChoiceSettings(choice_margin=margin), "test", training_images=60)
    assert (choice.use, choice.split, choice.images) == (use, "test", 2)
    assert "by the labels of 2 images of test" in choice.reason()


@pytest.mark.parametrize(
    ("both", "retrain", "use"),
    [(GOOD, GOOD, "both"), (SWAPPED, GOOD, "retrain"), (SWAPPED, SWAPPED, "wsod"), (GOOD, SWAPPED, "both")],
)
def test_both_together_come_first(both: Best, retrain: Best, use: str) -> None:
    found: dict[Use, dict[str, Detections]] = {
        "wsod": detections(GOOD),
        "retrain": detections(retrain),
        "both": detections(both),
    }
    choice = choose(found, TRUTH, {}, ChoiceSettings(), "test", training_images=60)
    assert choice.use == use and choice.both is not None
    assert "-> 100.0 %" in choice.reason() or use == "wsod"


def test_a_detector_of_masks_is_handed_over_whatever_its_boxes_are_worth() -> None:
    found: dict[Use, dict[str, Detections]] = {"wsod": detections(GOOD), "retrain": detections(SWAPPED)}
    assert choose(found, TRUTH, {}, ChoiceSettings(), "test", training_images=60).use == "wsod"
    assert (
        choose(found, TRUTH, {}, ChoiceSettings(), "test", training_images=9, draws_masks=True).use
        == "retrain"
    )


@pytest.mark.parametrize(
    ("images", "use"), [(0, "wsod"), (1, "wsod"), (59, "wsod"), (60, "both"), (600, "both")]
)
def test_few_training_images_hand_over_wsod(images: int, use: str) -> None:
    found: dict[Use, dict[str, Detections]] = dict.fromkeys(USES, detections(GOOD))
    choice = choose(found, TRUTH, {}, ChoiceSettings(), "test", training_images=images)
    assert choice.use == use
    assert (f"for {images} training images are too few; by the labels" in choice.reason()) == (use == "wsod")
    assert (
        choose(found, TRUTH, {}, ChoiceSettings(choice_images=0), "test", training_images=images).use
        == "both"
    )


MAPS = {
    "0": FusedMaps(
        np.array([0]), np.array([[[1, 1, 0, 0], [1, 1, 0.5, 0]]], np.float32), height=20, width=40
    ),
    "1": FusedMaps(np.array([1]), np.array([[[0, 0, 0, 9], [0, 0, 0, 9]]], np.float32), height=20, width=40),
}


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(0, 0, 20, 20), (30, 0, 40, 20)], 1.0),
        ([(0, 0, 20, 10), (30, 0, 40, 20)], 0.75),
        ([(0, 0, 40, 20), (0, 0, 40, 20)], 0.375),
        ([(20, 0, 40, 20), (0, 0, 10, 20)], 0.0),
        ([(1, 1, 2, 2), (1, 1, 2, 2)], 0.0),
        ([None, (30, 0, 40, 20)], 0.5),
        ([None, None], 0.0),
    ],
)
def test_map_agreement(boxes: list[tuple[int, ...] | None], expected: float) -> None:
    found = {}
    for number, box in enumerate(boxes):
        own = [] if box is None else [box, (0, 0, 40, 20)]
        classes = np.full(len(own), number, np.int32)
        found[str(number)] = Detections(as_boxes(own), classes, np.array([0.9, 0.1], np.float32)[: len(own)])
    assert map_agreement(found, MAPS) == pytest.approx(expected)


def test_boxes_away_from_the_maps_are_not_handed_over() -> None:
    found: dict[Use, dict[str, Detections]] = {}
    places = {"wsod": [(0, 0, 20, 20), (30, 0, 40, 20)], "retrain": [(20, 0, 40, 20), (0, 0, 10, 20)]}
    for use in TRAINED:
        found[use] = {
            str(number): Detections(as_boxes([box]), np.array([number], np.int32), np.ones(1, np.float32))
            for number, box in enumerate(places[use])
        }
    choice = choose(found, TRUTH, MAPS, ChoiceSettings(), "test", training_images=60)
    assert (choice.use, choice.wsod.product, choice.retrain.product) == ("wsod", 1.0, 0.0)
    assert choose(found, TRUTH, {}, ChoiceSettings(), "test", training_images=60).use == "retrain"
    assert "agreement with the class maps 1.000 -> 0.000" in choice.reason()


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 100).map(lambda score: score / 100)), min_size=1).filter(
        lambda rows: any(shown for shown, _ in rows)
    )
)
def test_a_ranking_does_not_depend_on_the_scale_of_scores(rows: list[tuple[bool, float]]) -> None:
    truth = {str(key): np.array([shown]) for key, (shown, _) in enumerate(rows)}
    once = image_level_map(detections([(score,) for _, score in rows]), truth)
    half = image_level_map(detections([(score / 2,) for _, score in rows]), truth)
    assert 0 <= once <= 1 and once == pytest.approx(half)
