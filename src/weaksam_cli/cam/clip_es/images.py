"""From one image to its class activation maps by CLIP-ES."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps
from weaksam_cli.cam.clip_es.affinity import refine, transition
from weaksam_cli.cam.clip_es.boxes import box_mask, scoremap_boxes
from weaksam_cli.cam.clip_es.grad_cam import class_probabilities, grad_cam
from weaksam_cli.cam.clip_es.preprocessing import input_size, preprocess
from weaksam_cli.cam.recipe import AffinitySettings, ClipEsRecipe
from weaksam_cli.models.clip.vision import LastBlock, Trunk, run_last_block, run_trunk

_COARSE, _FINE = KINDS.index("coarse"), KINDS.index("fine")


@dataclass(frozen=True)
class ClipEs:
    """The image half of a frozen CLIP, with the embeddings of what it looks for.

    Attributes:
        visual: the vision transformer of `open_clip`, see `load_clip`.
        scale: the logarithm of CLIP's temperature, a scalar.
        classes: float32 (C, embed), unit vectors, in the order of the dataset's classes.
        background: float32 (b, embed), of the background names.
    """

    visual: Any
    scale: Tensor
    classes: Tensor
    background: Tensor

    def run(
        self, image: NDArray[np.uint8], recipe: ClipEsRecipe, *, attention_blocks: int
    ) -> tuple[Trunk, LastBlock]:
        """The image, uint8 RGB (H, W, 3), at the recipe's size through all blocks; see `run_trunk` and `run_last_block`."""
        patch = self.visual.patch_size[0]
        size = input_size(image.shape[0], image.shape[1], patch=patch, max_side=recipe.max_side)
        pixels = preprocess(image, size).to(self.classes.device)
        trunk = run_trunk(
            self.visual, pixels, attention_blocks=attention_blocks, half_positions=recipe.half_positions
        )
        return trunk, run_last_block(self.visual, trunk)

    def probabilities(self, feature: Tensor, classes: Tensor) -> Tensor:
        """Probabilities of some classes (k, embed) against all background names; see `class_probabilities`."""
        return class_probabilities(feature, classes, self.background, self.scale)


def chosen_classes(scores: NDArray[np.float32], given: Sequence[int] | None, threshold: float) -> list[int]:
    """The classes that get maps, ascending: those given, else all of at least `threshold`, and always the best."""
    if given is not None:
        return sorted(given)
    return sorted({*np.flatnonzero(scores >= threshold).tolist(), int(scores.argmax())})


def class_maps(
    clip: ClipEs, image: NDArray[np.uint8], given: Sequence[int] | None, recipe: ClipEsRecipe
) -> ClassMaps:
    """A coarse map (Grad-CAM) and a fine one (spread by attention) for each class, at network resolution.

    Args:
        clip: network and texts.
        image: uint8 RGB (H, W, 3).
        given: classes that get maps; None predicts them; an empty one gives no map.
        recipe: settings.
    """
    height, width = image.shape[:2]
    trunk, last = clip.run(image, recipe, attention_blocks=recipe.affinity.blocks)
    scores = clip.probabilities(last.class_feature.detach(), clip.classes).cpu().numpy()
    classes = chosen_classes(scores, given, recipe.predicted_threshold)
    coarse = grad_cam(last, clip.probabilities(last.patch_feature, clip.classes[classes]), trunk.size)
    fine = fine_maps(coarse, trunk, last, recipe.affinity)
    maps = torch.cat([coarse, fine]).cpu().numpy()
    return ClassMaps(
        class_index=np.tile(np.asarray(classes, np.int32), 2),
        kind=np.repeat(np.asarray([_COARSE, _FINE], np.int8), len(classes)),
        map_index=np.zeros(len(maps), np.int16),
        scale=np.full(len(maps), min(1.0, recipe.max_side / max(height, width)), np.float32),
        maps=tuple(maps),
        image_size=(height, width),
        class_scores=scores,
    )


def fine_maps(coarse: Tensor, trunk: Trunk, last: LastBlock, settings: AffinitySettings) -> Tensor:
    """float32 (k, h, w): coarse maps (k, h, w), each spread from inside the boxes of its bright parts."""
    if not len(coarse):
        return coarse
    matrix = transition((trunk.attention + last.attention) / settings.blocks, rounds=settings.rounds)
    masks = np.stack(
        [
            box_mask(
                scoremap_boxes(cam, settings.box_threshold, cover_border=settings.cover_border), *trunk.size
            )
            for cam in coarse.cpu().numpy()
        ]
    )
    return refine(coarse, matrix, torch.from_numpy(masks).to(coarse.device))
