from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.proposals import SOURCES
from weaksam_cli.core.types import Points
from weaksam_cli.propose.methods import build
from weaksam_cli.propose.recipe import RegionTreeRecipe


def test_the_clues_nms_leaves_the_grid_alone(sample: Callable[[int, int], NDArray[np.uint8]]) -> None:
    image = sample(60, 80)
    point = Points(
        np.asarray([[20, 30]] * 3, np.int32),
        np.zeros(3, np.int32),
        np.ones(3, np.float32),
        np.zeros(3, np.int16),
    )
    boxes = {}
    for threshold in (0.3, 1.0):
        found = build(RegionTreeRecipe(clue_nms=threshold, grid_boxes=40), None, "cpu")(
            image, {"coarse": point}
        )
        grid = found.source == SOURCES.index("grid")
        boxes[threshold] = (found.boxes[grid], found.boxes[~grid])
    np.testing.assert_array_equal(boxes[0.3][0], boxes[1.0][0])
    assert len(boxes[0.3][0]) > 10
    assert len(boxes[0.3][1]) < len(boxes[1.0][1])
