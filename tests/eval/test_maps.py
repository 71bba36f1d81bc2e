"""The energy of class activation maps inside boxes, and classification by their network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.core.types import GroundTruth
from weaksam_cli.data.fused_maps import FusedMaps
from weaksam_cli.errors import UserError
from weaksam_cli.eval.maps import classification_ap, energy_inside

CLASSES = ["cat", "dog"]


def objects(boxes: Any, classes: Any) -> GroundTruth:
    return GroundTruth(as_boxes(boxes), np.asarray(classes, np.int32), np.zeros(len(classes), bool))


def test_energy_at_low_resolution() -> None:
    """Cells of 10 x 10 pixels; the box covers one and a half of the two bright ones."""
    heat = np.asarray([[[0, 2, 0], [0, 2, 0]], [[0, 0, 0], [0, 0, -1]]], np.float32)
    truth = {"a": objects([[10, 0, 20, 15], [10, 5, 20, 15], [0, 0, 30, 20]], [0, 0, 1])}
    maps = {"a": FusedMaps(np.asarray([0, 1], np.int32), heat, 20, 30)}
    got = energy_inside(truth, maps, CLASSES)
    assert got.values == pytest.approx({"cat": 0.75, "dog": 0})
    assert got.support == {"cat": 1, "dog": 1}


def test_energy_at_full_resolution_is_a_sum_over_pixels() -> None:
    heat = np.random.default_rng(0).random((1, 20, 30)).astype(np.float32)
    truth = {"a": objects([[5, 3, 17, 11]], [1])}
    got = energy_inside(truth, {"a": FusedMaps(np.asarray([1], np.int32), heat, 20, 30)}, CLASSES)
    assert got.values["dog"] == pytest.approx(heat[0, 3:11, 5:17].sum() / heat.sum(), rel=1e-6)
    assert np.isnan(got.values["cat"])


def test_boxes_may_reach_past_the_image() -> None:
    heat = np.ones((1, 2, 2), np.float32)
    truth = {"a": objects([[-5, -5, 10, 5]], [0])}
    got = energy_inside(truth, {"a": FusedMaps(np.asarray([0], np.int32), heat, 10, 10)}, CLASSES)
    assert got.values["cat"] == pytest.approx(0.5)


def test_maps_of_unknown_images_are_refused() -> None:
    with pytest.raises(UserError, match="maps: 1 images"):
        energy_inside(
            {}, {"a": FusedMaps(np.zeros(1, np.int32), np.ones((1, 2, 2), np.float32), 2, 2)}, CLASSES
        )


def test_average_precision_by_hand() -> None:
    """Images of equal score enter together; a class that no image shows has no figure."""
    labels = np.asarray([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], bool)
    scores = np.asarray([[0.9, 0.5, 0.1], [0.8, 0.5, 0.2], [0.7, 0.5, 0.3], [0.1, 0.5, 0.4]], np.float32)
    got = classification_ap(labels, scores, list("abc"))
    assert got.values == pytest.approx({"a": (1 + 2 / 3) / 2, "b": 0.5, "c": np.nan}, nan_ok=True)
    assert got.support == {"a": 2, "b": 2, "c": 0}
