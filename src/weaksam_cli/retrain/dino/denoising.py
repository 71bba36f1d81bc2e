"""Contrastive denoising (Zhang et al. 2022, section 3.3), by transformers' RT-DETR, whose groups are DINO's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers.models.rt_detr.modeling_rt_detr import get_contrastive_denoising_training_group

from weaksam_cli.retrain.dino.losses import Match, Targets
from weaksam_cli.retrain.dino.network import Noisy
from weaksam_cli.retrain.dino.settings import Denoising


def noisy_queries(
    targets: Sequence[Targets], classes: nn.Embedding, queries: int, settings: Denoising
) -> tuple[Noisy, list[Match]] | None:
    """Denoising queries of a batch, and what the positive ones are to become; None where no image has an object.

    Args:
        targets: objects of the images.
        classes: a row a class, and one that stands where an image has fewer objects than another.
        queries: the others, which do not see these.
        settings: how many, and how noisy.
    """
    if settings.queries == 0 or not any(len(item.classes) for item in targets):
        return None
    content, box_logits, mask, meta = get_contrastive_denoising_training_group(
        [{"class_labels": item.classes, "boxes": item.boxes} for item in targets],
        classes.num_embeddings - 1,
        queries,
        classes,
        settings.queries,
        settings.label_noise,
        settings.box_noise,
    )
    if settings.box_noise == 0:
        box_logits = torch.logit(box_logits, eps=1e-5)  # which that function leaves out without noise
    groups = meta["dn_num_group"]
    matches = [
        (positive, torch.arange(len(item.classes), device=positive.device).repeat(groups))
        for positive, item in zip(meta["dn_positive_idx"], targets, strict=True)
    ]
    return Noisy(content, box_logits, mask), matches
