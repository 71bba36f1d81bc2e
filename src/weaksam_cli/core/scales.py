"""From the maps of an artifact to fused ones, at image size or any other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.schemas import ClassMaps
from weaksam_cli.core.fusion import fuse_views


def fuse_scales(maps: ClassMaps, kind: int, height: int, width: int) -> NDArray[np.float32] | None:
    """The maps of one kind, all scales fused and normalised.

    Args:
        maps: maps of one image.
        kind: index into `formats.KINDS`.
        height, width: size of the answer.

    Returns:
        float32 (k, height, width), or (k, m, height, width) where a class has m maps; k runs over `maps.classes()`.
        None when there is no map of that kind.
    """
    views = maps.stacks(kind)
    if not views:
        return None
    entering = np.ones((len(views), len(views[0])), dtype=bool)
    return fuse_views(views, flipped=[False] * len(views), entering=entering, height=height, width=width)
