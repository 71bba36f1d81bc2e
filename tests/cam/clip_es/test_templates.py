from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from weaksam_cli.cam.clip_es.templates import image_sharpness, rank_templates


@pytest.mark.parametrize(
    ("scores", "value"),
    [
        ([], 0),
        ([0.7], 0),
        ([0.5, 0.5], 0),
        ([0.0, 0.0], 0),
        ([0.2, 0.6], 0.04 / 0.4),
        ([1.0, 0.0], 0.25 / 0.5),
        ([0.1, 0.1, 0.4], 0.02 / 0.2),
    ],
)
def test_variance_over_mean(scores: list[float], value: float) -> None:
    assert image_sharpness(np.asarray(scores)) == pytest.approx(value)


@given(arrays(np.float32, st.integers(2, 7), elements=st.floats(0, 1, width=32)), st.floats(0.1, 1))
def test_it_scales_with_the_scores_and_does_not_care_for_their_order(
    scores: np.ndarray, factor: float
) -> None:
    value = image_sharpness(scores.astype(np.float64))
    assert value >= 0
    assert image_sharpness(scores[::-1].astype(np.float64)) == pytest.approx(value)
    assert image_sharpness(scores.astype(np.float64) * factor) == pytest.approx(value * factor, abs=1e-12)


def test_the_template_that_sees_the_present_classes_most_evenly_comes_first() -> None:
    even, uneven = np.asarray([0.4, 0.4]), np.asarray([0.9, 0.1])
    ranked = rank_templates({"a {}.": [even, uneven], "b {}.": [even, even], "c {}.": [uneven, uneven]})
    assert [item.template for item in ranked] == ["b {}.", "a {}.", "c {}."]
    assert ranked[2].value == pytest.approx(2 * 0.16 / 0.5)


def test_images_of_one_class_say_nothing() -> None:
    ranked = rank_templates({"a {}.": [np.asarray([0.9])], "b {}.": [np.asarray([0.1])]})
    assert [(item.template, item.value) for item in ranked] == [("a {}.", 0), ("b {}.", 0)]
    assert rank_templates({}) == []
