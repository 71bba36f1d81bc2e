"""From one image to its class activation maps by the embedded classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps
from weaksam_cli.cam.lite0_head import LinearHead
from weaksam_cli.cam.lite0_maps import coarse_maps, fine_maps
from weaksam_cli.cam.recipe import Lite0Recipe

if TYPE_CHECKING:
    from weaksam_cli.models.lite0 import Lite0

_COARSE, _FINE = KINDS.index("coarse"), KINDS.index("fine")


def chosen_classes(scores: NDArray[np.float32], given: list[int] | None, threshold: float) -> list[int]:
    """The classes that get maps: those given, else those predicted, and always the best of the latter."""
    if given is not None:
        return sorted(given)
    predicted = set(np.flatnonzero(scores >= threshold).tolist()) | {int(scores.argmax())}
    return sorted(predicted)


def class_maps(
    backbone: Lite0, head: LinearHead, image: NDArray[np.uint8], given: list[int] | None, recipe: Lite0Recipe
) -> ClassMaps:
    """Coarse maps at every size, and fine maps on the stride-16 grid of the largest one.

    Args:
        backbone, head: the classifier.
        image: uint8 RGB (H, W, 3).
        given: classes that get maps; None predicts them.
        recipe: sizes and settings.
    """
    from weaksam_cli.models.views import view_features

    sides = dict.fromkeys([recipe.head.short_side, *recipe.short_sides])
    views = {side: view_features(backbone, image, side) for side in sides}
    pooled = views[recipe.head.short_side].last.mean(axis=(2, 3))
    scores = head.probabilities(pooled).mean(axis=0)
    classes = chosen_classes(scores, given, recipe.predicted_threshold)
    shortest = min(image.shape[:2])
    coarse, scales = [], []
    for short_side in recipe.short_sides:
        features = views[short_side]
        coarse.append(coarse_maps(features.last[0], features.last[1], head, classes))
        scales.append(short_side / shortest)
    settings = recipe.fine
    fine = fine_maps(
        coarse,
        views[recipe.short_sides[-1]].middle[0],
        threshold=settings.threshold,
        power=settings.power,
        rounds=settings.rounds,
    )
    maps = [*(item for stack in coarse for item in stack), *fine]
    n = len(classes)
    return ClassMaps(
        class_index=np.tile(np.asarray(classes, np.int32), len(coarse) + 1),
        kind=np.repeat(np.asarray([_COARSE, _FINE], np.int8), [n * len(coarse), n]),
        map_index=np.zeros(len(maps), np.int16),
        scale=np.repeat(np.asarray([*scales, scales[-1]], np.float32), n),
        maps=tuple(maps),
        image_size=(image.shape[0], image.shape[1]),
        class_scores=scores.astype(np.float32),
    )
