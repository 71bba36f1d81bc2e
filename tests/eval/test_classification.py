from __future__ import annotations

import numpy as np
import pytest

from weaksam_cli.eval.classification import classification_ap


def test_average_precision_by_hand() -> None:
    """Images of equal score enter together; a class that no image shows has no figure."""
    labels = np.asarray([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], bool)
    scores = np.asarray([[0.9, 0.5, 0.1], [0.8, 0.5, 0.2], [0.7, 0.5, 0.3], [0.1, 0.5, 0.4]], np.float32)
    got = classification_ap(labels, scores, list("abc"))
    assert got.values == pytest.approx({"a": (1 + 2 / 3) / 2, "b": 0.5, "c": np.nan}, nan_ok=True)
    assert got.support == {"a": 2, "b": 2, "c": 0}
