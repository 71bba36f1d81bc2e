from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_cli.errors import UserError
from weaksam_cli.eval.classification import classification_ap


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.sampled_from([1, 2, 6, 7, 30]))
def test_it_equals_scikit_learn(seed: int, n: int) -> None:
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(seed)
    labels, scores = rng.random((n, 3)) < 0.4, rng.integers(0, 8, (n, 3)) / 8
    got = classification_ap(
        {str(i): row for i, row in enumerate(labels)},
        {str(i): row for i, row in enumerate(scores)},
        list("abc"),
    )
    for index, name in enumerate("abc"):
        if labels[:, index].any():
            assert got.values[name] == pytest.approx(
                average_precision_score(labels[:, index], scores[:, index])
            )
        else:
            assert np.isnan(got.values[name])
        assert got.support[name] == labels[:, index].sum()


def test_no_images() -> None:
    assert np.isnan(classification_ap({}, {}, ["cat"]).mean)


def test_an_image_without_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="every class of 'b'"):
        classification_ap(
            {"a": np.asarray([True]), "b": np.asarray([True])}, {"a": np.asarray([0.1])}, ["cat"]
        )
    with pytest.raises(UserError, match="scores: 1 images"):
        classification_ap({}, {"a": np.asarray([0.1])}, ["cat"])
