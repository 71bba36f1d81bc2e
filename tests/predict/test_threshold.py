"""The threshold that image-level labels choose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.core.types import Detections
from weaksam_cli.predict.threshold import WITHOUT_LABELS, Threshold, best_f1

CASES = {
    "apart": ([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0], 0.55, 1.0),
    "the last is right": ([0.9, 0.8, 0.3], [1, 1, 1], 0.15, 1.0),
    "equal scores stay together": ([0.5, 0.5, 0.2], [1, 0, 0], 0.35, 2 / 3),
    "a miss": ([0.9, 0.0], [1, 1], 0.45, 2 / 3),
    "nothing was found": ([0.0, 0.0], [1, 0], WITHOUT_LABELS, 0.0),
    "no image": ([], [], WITHOUT_LABELS, 0.0),
}


@pytest.mark.parametrize("name", list(CASES))
def test_the_best_agreement(name: str) -> None:
    scores, truth, threshold, f1 = CASES[name]
    found = best_f1(np.asarray(scores, np.float32), np.asarray(truth, np.bool_))
    assert found == pytest.approx((threshold, f1), abs=1e-6)


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=30))
def test_no_threshold_is_better(pairs: list[tuple[float, bool]]) -> None:
    scores = np.asarray([score for score, _ in pairs], np.float32)
    truth = np.asarray([value for _, value in pairs])
    threshold, best = best_f1(scores, truth)

    def f1(least: float) -> float:
        shown = (scores >= least) & (scores > 0)
        return float(2 * (shown & truth).sum() / max(shown.sum() + truth.sum(), 1))

    assert f1(threshold) == pytest.approx(best)
    assert best >= max(f1(score) for score in scores.tolist()) - 1e-9


def test_what_is_believed() -> None:
    scores = np.asarray([0.9, 0.5, 0.4, 0.2, 0.05], np.float32)
    found = Detections(np.zeros((5, 4), np.float32), np.asarray([0, 0, 0, 1, 2], np.int32), scores)
    assert Threshold(score=0.1).believes(found).tolist() == [True, True, False, True, False]
    assert Threshold(score=0.1, share=0).believes(found).tolist() == [True, True, True, True, False]
    assert len(Threshold(score=0.1).believes(Detections.empty())) == 0
