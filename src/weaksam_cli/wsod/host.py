"""The weakly supervised heads as detectron2 modules over precomputed proposals whose RoI features are at hand.

An image comes as detectron2's dict: `proposals` (Instances with `proposal_boxes`, `features` float (R, D) and `prior`
float (R, C)), `image_labels` float (C,) and `class_scores` float (C,). There is no backbone to run: the
features are those of a frozen one, computed once an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from weaksam_cli.detectron.compat import import_detectron2

import_detectron2()

from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY  # noqa: E402
from detectron2.modeling.roi_heads import ROIHeads  # noqa: E402
from detectron2.structures import Boxes, Instances  # noqa: E402

from weaksam_cli.wsod.losses import wsddn_scores  # noqa: E402
from weaksam_cli.wsod.objectives import HeadOutputs, mean_losses  # noqa: E402
from weaksam_cli.wsod.recipe import HeadSettings, RegionDetectorRecipe  # noqa: E402
from weaksam_cli.wsod.region_objective import region_losses  # noqa: E402

LARGEST_FEATURE = 6.0
"""Standardised features are cut there: rare cells would otherwise dominate."""


@ROI_HEADS_REGISTRY.register()
class WeakRoiHeads(ROIHeads):
    """WSDDN's two streams and the refinement branches of OICR over given RoI features.

    Args:
        recipe: what is trained.
        feature_size: D, length of a RoI feature.
        class_count: C.
    """

    def __init__(self, recipe: RegionDetectorRecipe, feature_size: int, class_count: int) -> None:
        super().__init__(
            num_classes=class_count, batch_size_per_image=1, positive_fraction=1.0, proposal_matcher=None
        )
        self.recipe = recipe
        heads = recipe.heads
        self.register_buffer("feature_mean", torch.zeros(feature_size))
        self.register_buffer("feature_deviation", torch.ones(feature_size))
        width = heads.hidden or feature_size
        necks = 1 if heads.shared else 1 + heads.refinements
        self.necks = nn.ModuleList(_neck(feature_size, heads) for _ in range(necks))
        self.classification = nn.Linear(width, class_count)
        self.detection = nn.Linear(width, class_count)
        self.refinements = nn.ModuleList(nn.Linear(width, class_count + 1) for _ in range(heads.refinements))
        for layer in (self.classification, self.detection, *self.refinements):
            nn.init.normal_(layer.weight, std=heads.initial_deviation)
            nn.init.zeros_(layer.bias)

    def set_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Mean and deviation (D,) that features are standardised with; saved with the weights."""
        self.feature_mean.copy_(mean)
        self.feature_deviation.copy_(deviation)

    def outputs(self, features: Tensor) -> HeadOutputs:
        """Raw outputs for the RoIs (R, D) of one image."""
        standard = (features - self.feature_mean) / self.feature_deviation
        cut = standard.clamp(-LARGEST_FEATURE, LARGEST_FEATURE)
        hidden = [neck(cut) for neck in self.necks]
        own = hidden[:1] * len(self.refinements) if self.recipe.heads.shared else hidden[1:]
        return HeadOutputs(
            self.classification(hidden[0]),
            self.detection(hidden[0]),
            [branch(found) for branch, found in zip(self.refinements, own, strict=True)],
        )

    def losses(self, proposals: Instances, image_labels: Tensor) -> dict[str, Tensor]:
        """Losses of one image."""
        return region_losses(
            self.outputs(proposals.features),
            proposals.proposal_boxes.tensor,
            image_labels,
            proposals.prior,
            self.recipe,
        )

    def scores(self, proposals: Instances, class_scores: Tensor) -> Tensor:
        """Scores (R, C): mean of the branches' probabilities (WSDDN's scores without branches), times the priors."""
        outputs = self.outputs(proposals.features)
        if outputs.refinement_logits:
            found = torch.stack([item.softmax(dim=1)[:, 1:] for item in outputs.refinement_logits]).mean(
                dim=0
            )
        else:
            found = wsddn_scores(outputs.class_logits, outputs.detection_logits)
        inference = self.recipe.inference
        prior = (proposals.prior + self.recipe.prior.floor) ** inference.prior_weight
        return found * prior * class_scores[None] ** inference.image_score_weight

    def forward(
        self,
        images: Any,
        features: Any,
        proposals: Sequence[Instances],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """detectron2's signature: scores of each image, or the losses of the batch in training mode."""
        if self.training:
            pairs = zip(proposals, targets, strict=True)
            return [], mean_losses([self.losses(found, target["image_labels"]) for found, target in pairs])
        pairs = zip(proposals, targets, strict=True)
        return [self.scores(found, target["class_scores"]) for found, target in pairs], {}


def _neck(feature_size: int, heads: HeadSettings) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(feature_size, heads.hidden), nn.ReLU()] if heads.hidden else []
    return nn.Sequential(*layers, nn.Dropout(heads.dropout))


@META_ARCH_REGISTRY.register()
class PrecomputedRegionDetector(nn.Module):
    """A detector whose proposals and RoI features come with the image."""

    def __init__(self, roi_heads: WeakRoiHeads) -> None:
        super().__init__()
        self.roi_heads = roi_heads

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.roi_heads.classification.weight.device

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> Any:
        """Losses by name in training mode, else the scores (R, C) of each image."""
        proposals = [item["proposals"].to(self.device) for item in batched_inputs]
        targets = [
            {name: item[name].to(self.device) for name in ("image_labels", "class_scores")}
            for item in batched_inputs
        ]
        scores, losses = self.roi_heads(None, None, proposals, targets)
        return losses if self.training else scores


def build_region_detector(
    recipe: RegionDetectorRecipe, feature_size: int, class_count: int
) -> PrecomputedRegionDetector:
    """The detector with fresh heads (seed torch before)."""
    return PrecomputedRegionDetector(WeakRoiHeads(recipe, feature_size, class_count))


def as_instances(boxes: Tensor, features: Tensor, prior: Tensor, height: int, width: int) -> Instances:
    """Proposals of one image as detectron2's Instances."""
    instances = Instances((height, width))
    instances.proposal_boxes = Boxes(boxes)
    instances.features = features
    instances.prior = prior
    return instances
