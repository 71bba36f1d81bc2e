"""Choosing a prompt by sharpness, which the CLIP-ES paper does and its published code leaves out (spec 01 §c.1).

`a clean origami {}.` is what the authors chose this way for VOC; with other images or classes another may be better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class Sharpness:
    """How a template did.

    Attributes:
        template: the prompt with `{}` for the class.
        value: the sum over images of variance / mean; the lower, the more evenly the present classes are seen.
        images: how many images have two present classes or more.
    """

    template: str
    value: float
    images: int


def image_sharpness(scores: FloatArray) -> float:
    """Variance (of the population) over mean of the softmax scores (k,) of one image's present classes.

    0 for fewer than two classes, and where all scores are 0.

    Raises:
        ValueError: for another shape, or values that are no probabilities.
    """
    if scores.ndim != 1 or not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"scores: expected probabilities of shape (k,), got {scores!r}")
    mean = float(np.mean(scores, dtype=np.float64)) if len(scores) > 1 else 0.0
    return float(np.var(scores, dtype=np.float64)) / mean if mean else 0.0


def rank_templates(scores: Mapping[str, Sequence[FloatArray]]) -> list[Sharpness]:
    """All candidates, the one to choose first; of equals the one that was given first.

    Args:
        scores: template -> for each image the softmax scores (k,) of its k present classes. Images of one class say
            nothing and may be left out.

    Raises:
        ValueError: when candidates were tried on different numbers of images.
    """
    if len({len(images) for images in scores.values()}) > 1:
        raise ValueError("scores: expected the same images for every template")
    found = [
        Sharpness(
            template,
            sum(image_sharpness(image) for image in images),
            sum(len(image) > 1 for image in images),
        )
        for template, images in scores.items()
    ]
    return sorted(found, key=lambda item: item.value)
