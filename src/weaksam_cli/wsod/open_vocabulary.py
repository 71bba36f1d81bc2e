"""WSOVOD's parts: classes by likeness to texts, a vector of the whole image, losses over a batch (spec 10c §2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam_cli.errors import UserError
from weaksam_cli.wsod.losses import encode
from weaksam_cli.wsod.method import Regions
from weaksam_cli.wsod.mining import BACKGROUND, Assignment, PseudoBoxes, assign

_SQUEEZE: Final = 16
_SMALLEST_WEIGHT: Final = 1e-12


class OpenVocabulary(nn.Module):
    """Projects features to where texts are, and compares.

    Args:
        features: their length.
        hidden: of the layer between.
        size: of a text's embedding.
        temperature: factor on the cosine.
    """

    def __init__(self, features: int, hidden: int, size: int, temperature: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, size), nn.ReLU()
        )
        self.temperature = temperature

    def forward(self, features: Tensor, texts: Tensor) -> Tensor:
        """Logits (R, C + 1), background first, of features (R, D) and embeddings of the classes (C, size)."""
        return text_logits(self.layers(features), texts, self.temperature)


def text_logits(projected: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """Cosines (R, C) of projected features (R, d) and texts (C, d), times a factor; background, the first column, has 0.

    A feature of zeros has 0 everywhere.
    """
    cosines = F.normalize(projected.float(), dim=1) @ F.normalize(texts.float(), dim=1).T
    return F.pad(temperature * cosines, (1, 0))


class DataAware(nn.Module):
    """A vector that the whole image adds to the features of its RoIs: a mixture of learned prototypes.

    Args:
        channels: of the map.
        features: length of a prototype.
        prototypes: how many.
    """

    def __init__(self, channels: int, features: int, prototypes: int) -> None:
        super().__init__()
        squeezed = max(channels // _SQUEEZE, 1)
        self.mixture = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(), nn.Linear(squeezed, prototypes), nn.Tanh()
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, features))
        nn.init.xavier_uniform_(self.prototypes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) of maps (B, channels, h, w)."""
        mixed: Tensor = self.mixture(features.mean(dim=(2, 3))) @ self.prototypes
        return mixed


def class_texts(path: Path, names: Sequence[str], templates: Sequence[str], size: int) -> Tensor:
    """CLIP's embeddings of the classes, unit vectors, float32 (C, size).

    Raises:
        UserError: the file is missing or foreign, or its embeddings have another size.
    """
    from weaksam_cli.models.clip import embed_words, load_clip

    found = embed_words(load_clip(path), names, templates)
    if found.shape[1] != size:
        raise UserError(
            f"its embeddings have {found.shape[1]} numbers",
            where=f"texts.size = {size} with {path}",
            remedy=f"Use --set texts.size={found.shape[1]}, or ViT-B-32.pt, which has 512",
        )
    return found


@torch.no_grad()
def best_of_image(
    scores: Tensor, places: Tensor, image_scores: Tensor, image_labels: Tensor, least_area: float
) -> PseudoBoxes:
    """The best box of each class of the image, which weighs what the image scores for the class.

    Args:
        scores: (R, C), without background.
        places: (R, 4), xyxy: boxes that the scores are of.
        image_scores: (C,), probabilities of the image.
        image_labels: (C,).
        least_area: boxes up to this area are left out.
    """
    area = (places[:, 2] - places[:, 0]) * (places[:, 3] - places[:, 1])
    rows = (area > least_area).nonzero().flatten()
    classes = image_labels.nonzero().flatten()
    if not len(rows) or not len(classes):
        return PseudoBoxes(places[:0], classes[:0], image_scores[:0])
    best = rows[scores[rows][:, classes].argmax(dim=0)]
    return PseudoBoxes(places[best], classes, image_scores[classes])


@torch.no_grad()
def labels_of(regions: Regions, pseudo: PseudoBoxes, foreground_iou: float) -> Assignment:
    """What proposals learn; where an image of some class has no pseudo box, all are background of weight 1, as released."""
    mined = assign(regions.boxes, pseudo, foreground_iou=foreground_iou)
    if len(pseudo) or not regions.image_labels.any():
        return mined
    labels = torch.full_like(mined.labels, BACKGROUND)
    return Assignment(labels, torch.ones_like(mined.weights), mined.matched)


def batch_class_loss(logits: Sequence[Tensor], mined: Sequence[Assignment]) -> Tensor:
    """Weighted cross entropy over the proposals of all images, divided by how many weigh something; 0 with none.

    Args:
        logits: (R, C + 1) of each image, background first.
        mined: of each image.
    """
    labels = torch.cat([item.labels for item in mined]) + 1
    weights = torch.cat([item.weights for item in mined])
    losses = F.cross_entropy(torch.cat(list(logits)), labels, reduction="none")
    return (losses * weights).sum() / (weights > _SMALLEST_WEIGHT).sum().clamp(min=1)


def batch_box_loss(
    deltas: Sequence[Tensor], regions: Sequence[Regions], mined: Sequence[Assignment]
) -> Tensor:
    """Absolute differences of the foreground's deltas, weighted, divided by all proposals of all images; 0 with none.

    Args:
        deltas: (R, 4) of each image, for all classes.
        regions: of each image.
        mined: of each image.
    """
    total = torch.cat(list(deltas)).sum() * 0
    for found, own, learnt in zip(deltas, regions, mined, strict=True):
        foreground = learnt.labels != BACKGROUND
        targets = encode(learnt.matched[foreground], own.boxes[foreground])
        distances = (found[foreground] - targets).abs().sum(dim=1)
        total = total + (distances * learnt.weights[foreground]).sum()
    return total / max(sum(len(item) for item in deltas), 1)
