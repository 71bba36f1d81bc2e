"""What `detector(image)` gives."""

from __future__ import annotations

import numpy as np
import pytest

from weaksam_cli.core import masks
from weaksam_cli.predict.images import ImageDetections


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
def test_masks_are_decoded_when_they_are_asked_for(count: int) -> None:
    dense = np.random.default_rng(count).random((count, 9, 7)) > 0.5
    boxes, scores, names = np.zeros((count, 4), np.float32), np.zeros(count, np.float32), ("x",) * count
    counts = tuple(masks.encode(dense)) if count else ()
    found = ImageDetections(boxes, scores, names, counts, (9, 7))
    assert found.masks is not None and found.masks.dtype == np.bool_ and found.masks.shape == (count, 9, 7)
    np.testing.assert_array_equal(found.masks, dense)
    assert ImageDetections(boxes, scores, names).masks is None
    with pytest.raises(ValueError, match="expected as many masks as boxes"):
        ImageDetections(boxes, scores, names, (*counts, b""), (9, 7))
