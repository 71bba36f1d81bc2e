"""Prompts tried on a dataset's own images, for `weaksam clip-templates` (spec 01 §c.1).

The CLIP-ES paper chooses its prompt by sharpness, and its published code leaves that out. `a clean origami {}.` is what the
authors chose this way for VOC; with other images or classes another may be better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.cam.clip_es import Recipe
from weaksam_cli.cam.clip_es.maps import ClipEs
from weaksam_cli.data.labels import LabelledImage, Labels
from weaksam_cli.errors import ImageError, UserError
from weaksam_cli.models.clip import load_clip

FloatArray = NDArray[np.floating]
CANDIDATES: Final = (
    "a clean origami {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "itap of a {}.",
    "a bad photo of the {}.",
    "art of the {}.",
    "a cropped photo of the {}.",
    "a rendering of a {}.",
)
"""Tried when none is named: the published one, and templates of CLIP's own for ImageNet."""


def choose_images(labels: Labels, most: int) -> list[LabelledImage]:
    """Up to `most` images with two labels or more, evenly spread over the split.

    Raises:
        UserError: when there is none.
    """
    several = [image for image in labels.file.images if len(image.labels or ()) > 1]
    if not several:
        raise UserError("no image has two labels, so no template can be preferred", where=str(labels.path))
    step = max(len(several) / most, 1)
    return [several[int(index * step)] for index in range(min(most, len(several)))]


def rank_on_images(
    weights: Path,
    device: str,
    labels: Labels,
    images: Sequence[LabelledImage],
    recipe: Recipe,
    on_image: Callable[[str | None], None],
) -> list[Sharpness]:
    """The recipe's templates, the one to choose first; see `image_sharpness`.

    An image is seen once, whatever the number of templates.

    Args:
        weights: CLIP's checkpoint.
        device: where the network lives.
        labels: of the images' split.
        images: of `choose_images`.
        recipe: words of classes and backgrounds, and the templates.
        on_image: called after every image, with why it could not be read and was left out, else None.
    """
    network, names = load_clip(weights, device=device), labels.class_names
    clips = {template: ClipEs.of(network, recipe, names, [template]) for template in recipe.templates}
    scores: dict[str, list[FloatArray]] = {template: [] for template in recipe.templates}
    for image in images:
        try:
            pixels = labels.read_image(image)
        except ImageError as error:
            on_image(error.one_line())
            continue
        _, last = clips[recipe.templates[0]].run(pixels, recipe, attention_blocks=1)
        feature, present = last.patch_feature.detach(), labels.class_indexes(image)
        for template, clip in clips.items():
            scores[template].append(clip.probabilities(feature, clip.classes[present]).cpu().numpy())
        on_image(None)
    return rank_templates(scores)


@dataclass(frozen=True)
class Sharpness:
    """How a template did.

    Attributes:
        template: the prompt with `{}` for the class.
        value: the sum over images of variance / mean; the lower, the more evenly the present classes are seen.
    """

    template: str
    value: float


def image_sharpness(scores: FloatArray) -> float:
    """Variance (of the population) over mean of the softmax scores (k,) of one image's present classes.

    0 for fewer than two classes, and where all scores are 0.
    """
    mean = float(np.mean(scores, dtype=np.float64)) if len(scores) > 1 else 0.0
    return float(np.var(scores, dtype=np.float64)) / mean if mean else 0.0


def rank_templates(scores: Mapping[str, Sequence[FloatArray]]) -> list[Sharpness]:
    """All candidates, the one to choose first; of equals the one that was given first.

    Args:
        scores: template -> for each image the softmax scores (k,) of its k present classes. Images of one class say
            nothing and may be left out.
    """
    found = [
        Sharpness(template, sum(image_sharpness(image) for image in images))
        for template, images in scores.items()
    ]
    return sorted(found, key=lambda item: item.value)
