"""Prompts tried on a dataset's own images, for `weaksam clip-templates`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.cam.clip_es.products import Words, clip_of
from weaksam_cli.cam.clip_es.sharpness import Sharpness, rank_templates
from weaksam_cli.data.labels import LabelledImage, Labels
from weaksam_cli.errors import ImageError, UserError

if TYPE_CHECKING:
    from weaksam_cli.cam.recipe import ClipEsRecipe

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
    network: Any,
    labels: Labels,
    images: Sequence[LabelledImage],
    recipe: ClipEsRecipe,
    on_image: Callable[[str | None], None],
) -> list[Sharpness]:
    """The recipe's templates, the one to choose first; see `image_sharpness`.

    An image is seen once, whatever the number of templates.

    Args:
        network: of `load_clip`.
        labels: of the images' split.
        images: of `choose_images`.
        recipe: words of classes and backgrounds, and the templates.
        on_image: called after every image, with why it could not be read and was left out, else None.
    """
    words = Words.of(recipe, labels.class_names)
    clips = {template: clip_of(network, words, [template]) for template in recipe.templates}
    scores: dict[str, list[NDArray[np.float32]]] = {template: [] for template in recipe.templates}
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
