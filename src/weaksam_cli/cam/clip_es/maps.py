"""Class activation maps by CLIP-ES: Grad-CAM, spread along attention from inside boxes (spec 01 §c.2, §c.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps
from weaksam_cli.cam.clip_es import AffinitySettings, Recipe
from weaksam_cli.cam.stage import chosen_classes, normalised
from weaksam_cli.models.clip import LastBlock, Trunk, embed_words, run_last_block, run_trunk

Box = tuple[int, int, int, int]
EPSILON: Final = 1e-7
MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
DEVIATION: Final = (0.26862954, 0.26130258, 0.27577711)
"""Of the images that CLIP was trained on, RGB in [0, 1]."""


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

    @classmethod
    def of(cls, network: Any, recipe: Recipe, class_names: Sequence[str], templates: Sequence[str]) -> ClipEs:
        """Of a network of `load_clip` and the words of a recipe, each embedded as the mean over the templates."""
        classes, background = recipe.words(class_names).values()
        embedded = embed_words(network, [*classes, *background], templates)
        return cls(network.visual, network.logit_scale, *embedded.split([len(classes), len(background)]))

    def run(
        self, image: NDArray[np.uint8], recipe: Recipe, *, attention_blocks: int
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


def class_maps(
    clip: ClipEs, image: NDArray[np.uint8], given: Sequence[int] | None, recipe: Recipe
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
    kinds = np.asarray([KINDS.index("coarse"), KINDS.index("fine")], np.int8)
    return ClassMaps(
        class_index=np.tile(np.asarray(classes, np.int32), 2),
        kind=np.repeat(kinds, len(classes)),
        map_index=np.zeros(len(maps), np.int16),
        scale=np.full(len(maps), min(1.0, recipe.max_side / max(height, width)), np.float32),
        maps=tuple(maps),
        image_size=(height, width),
        class_scores=scores,
    )


def input_size(height: int, width: int, *, patch: int, max_side: int) -> tuple[int, int]:
    """(height, width) at which an image is shown: each side rounded up to a multiple of the patch.

    Args:
        height, width: of the image, pixels.
        patch: side of a patch, pixels.
        max_side: an image whose longer side is larger is shrunk to it first.
    """
    longer = max(height, width)
    limit = min(longer, max_side)
    # In whole numbers: a rounding error would cost a row of patches.
    return -(-height * limit // (longer * patch)) * patch, -(-width * limit // (longer * patch)) * patch


def preprocess(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """An image uint8 RGB (H, W, 3) as float32 (1, 3, *size), resized bicubically and normalised for CLIP."""
    return torch.from_numpy(normalised(image, size[::-1], MEAN, DEVIATION)[None])


def class_probabilities(feature: Tensor, classes: Tensor, background: Tensor, scale: Tensor) -> Tensor:
    """Softmax over classes and background names.

    Args:
        feature: float32 (embed,), a unit vector of the image.
        classes: float32 (k, embed), unit vectors of the classes that take part.
        background: float32 (b, embed), of the background names.
        scale: the logarithm of CLIP's temperature, a scalar.

    Returns:
        float32 (k,), the classes' part of the k + b probabilities.
    """
    logits = scale.exp() * (torch.cat([classes, background]) @ feature)
    return logits.softmax(dim=0)[: len(classes)]


def grad_cam(last: LastBlock, probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps of the classes whose probabilities are given.

    For each class: the gradient of its probability with respect to the last block's normed patch tokens, averaged over
    them, weighs the channels of these tokens; the sum is cut off at 0 and min-max scaled twice, as published (once for
    the layer, once for the mean over the one layer).

    Args:
        last: the last block with its graph.
        probabilities: float32 (k,), made from `last.patch_feature`.
        size: (h, w), the grid of patches.

    Returns:
        float32 (k, h, w) in [0, 1].
    """
    tokens = last.normed.detach()[0, 1:]
    maps = []
    for probability in probabilities:
        (gradient,) = torch.autograd.grad(probability, last.normed, retain_graph=True)
        weights = gradient[0, 1:].mean(dim=0)
        maps.append((tokens @ weights).relu().reshape(size))
    if not maps:
        return tokens.new_zeros((0, *size))
    return min_max(min_max(torch.stack(maps)))


def min_max(maps: Tensor) -> Tensor:
    """Each map (..., h, w) shifted to a minimum of 0 and divided by 1e-7 plus its maximum then; zeros stay zeros."""
    shifted = maps - maps.amin(dim=(-2, -1), keepdim=True)
    return shifted / (EPSILON + shifted.amax(dim=(-2, -1), keepdim=True))


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


def transition(attention: Tensor, *, rounds: int) -> Tensor:
    """A symmetric, nearly doubly stochastic matrix from patch-to-patch attention, squared once.

    Args:
        attention: float32 (n, n), not negative, mean over blocks and heads; rows are queries.
        rounds: how often columns, then rows, are normalised.

    Returns:
        float32 (n, n); column j says where the value of patch j goes.
    """
    matrix = attention
    # A patch that nothing attends to, its softmax rounded to 0, stays without a value instead of making all of them NaN.
    least = torch.finfo(attention.dtype).tiny
    for _ in range(rounds):
        matrix = matrix / matrix.sum(dim=0, keepdim=True).clamp_min(least)
        matrix = matrix / matrix.sum(dim=1, keepdim=True).clamp_min(least)
    matrix = (matrix + matrix.T) / 2
    return matrix @ matrix


def refine(cams: Tensor, matrix: Tensor, masks: Tensor) -> Tensor:
    """Maps spread by a transition matrix and min-max scaled.

    Args:
        cams: float32 (k, h, w).
        matrix: float32 (h * w, h * w), see `transition`.
        masks: bool (k, h, w); values outside go nowhere. An empty mask gives a map of zeros.

    Returns:
        float32 (k, h, w) in [0, 1].
    """
    sources = torch.where(masks, cams, torch.zeros_like(cams)).flatten(1)
    return min_max((sources @ matrix.T).reshape(cams.shape))


def scoremap_boxes(cam: NDArray[np.float32], threshold: float, *, cover_border: bool) -> list[Box]:
    """(x0, y0, x1, y1) in cells, half-open, around every contour, outer and inner, in OpenCV's order.

    Args:
        cam: float32 (h, w) in [0, 1].
        threshold: cells above this fraction of the largest value are bright, in 8-bit steps.
        cover_border: let boxes reach the right and lower border. The published code cuts x1 to w - 1 and y1 to h - 1, so
            that no box covers the last column or row.

    Returns:
        One empty box (0, 0, 0, 0) where nothing is bright, as published.
    """
    import cv2

    levels = (cam * np.float32(255)).astype(np.uint8)
    bright = (levels > int(threshold * levels.max())).astype(np.uint8)
    contours = cv2.findContours(bright, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    height, width = cam.shape
    right, lower = (width, height) if cover_border else (width - 1, height - 1)
    boxes = []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        boxes.append((x, y, min(x + w, right), min(y + h, lower)))
    return boxes or [(0, 0, 0, 0)]


def box_mask(boxes: Sequence[Box], height: int, width: int) -> NDArray[np.bool_]:
    """bool (height, width), True inside any box."""
    mask = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask
