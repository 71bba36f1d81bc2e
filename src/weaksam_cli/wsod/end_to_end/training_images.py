"""Training images with their proposals and labels, as the detector takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.data.labels import LabelledImage, Labels
from weaksam_cli.errors import UserError
from weaksam_cli.training.batches import augmentation_rng
from weaksam_cli.wsod.end_to_end.predict import view_item
from weaksam_cli.wsod.end_to_end.recipe import MistRecipe, OicrRecipe
from weaksam_cli.wsod.end_to_end.views import training_view, usable_proposals


@dataclass(frozen=True)
class TrainingImages:
    """Images that are learnt from: those with a label and proposals.

    Attributes:
        labels: of the training split.
        proposals: artifact of the split, open.
        images: by position.
        recipe: how images are changed, and which proposals are used.
        seed: decides every view.
    """

    labels: Labels
    proposals: Artifact
    images: tuple[LabelledImage, ...]
    recipe: MistRecipe | OicrRecipe
    seed: int

    @classmethod
    def of(
        cls, labels: Labels, proposals: Artifact, recipe: MistRecipe | OicrRecipe, seed: int
    ) -> TrainingImages:
        """All images of a split that can be learnt from.

        Raises:
            UserError: there is none.
        """
        by_key: Mapping[str, LabelledImage] = labels.by_key()
        images = tuple(by_key[key] for key in proposals.image_ids if key in by_key and by_key[key].labels)
        if not images:
            raise UserError("no training image has both proposals and labels", where=str(proposals.path))
        return cls(labels, proposals, images, recipe, seed)

    def __len__(self) -> int:
        return len(self.images)

    def item(self, iteration: int, position: int, index: int) -> dict[str, Any]:
        """A view of the image `index` for its place in a step.

        Raises:
            ImageError: the image cannot be read, or is not the one that `weaksam data` saw.
        """
        image = self.images[index]
        pixels = self.labels.read_image(image)
        raw = self.proposals.rows(image.key, "boxes").astype(np.float32)
        boxes = usable_proposals(raw, pixels.shape[0], pixels.shape[1], self.recipe.proposals)
        rng = augmentation_rng(self.seed, iteration, position)
        view = training_view(pixels, boxes, self.recipe.train_images, self.recipe.pixels, rng)
        target = torch.zeros(len(self.labels.class_names))
        target[self.labels.class_indexes(image)] = 1
        return {**view_item(view), "image_labels": target, "image_id": image.key}
