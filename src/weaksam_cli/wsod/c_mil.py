"""C-MIL (Wan et al., CVPR 2019): proposals are pooled in subsets that shrink over the training to single ones.

Two releases differ, the authors' (Torch7, which does not run) and a port of it to VGG16 (DRN-WSOD); the port is the default
(spec 10a §2). A counter switches the authors' re-weighting of features off after the
first images of an epoch; it is off here, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.method import BranchWeights, Outputs, Regions, RingScale, Rois
from weaksam_cli.wsod.oicr import PriorMethod, PriorUse, RefiningRecipe
from weaksam_cli.wsod.stage import detector_steps

if TYPE_CHECKING:
    from torch import Tensor

    from weaksam_cli.wsod.detector import RegionHeads

Rule = Literal["port", "seed", "torch7"]
Curve = Literal["log", "linear", "plinear", "sigmoid", "exp"]
Overlap = Annotated[float, Field(ge=0, le=1)]

_LOG_OFFSET: Final = 0.01
_STAIR: Final = 4
"""Epochs for which `plinear` stays the same, and in which `exp` falls to 1/e."""
_TORCH7_EPSILON: Final = 1e-5
_SLOWER: Final = 1.5
"""Re-weighting ends at the reciprocal of it."""


class SubsetSettings(RecipeModel):
    """How proposals are pooled.

    Attributes:
        rule: a subset takes a lower-scored proposal whose IoU is at least lambda with all its members (`port`), or with its
            best one (`seed`, as we remember the paper), or as `port`, but from other subsets, too (`torch7`).
        top: of so many best proposals; the others are subsets of one.
        window: a subset spans so many ranks at most; `seed` has no such limit.
        curve, epochs: lambda rises from 0 to 1 over so many epochs of the published training, whatever the length of this.
        loss: `bce`, binary cross entropy of the streams' product (port), or `hinge`, without softmax over classes (Torch7).
    """

    rule: Rule = "port"
    top: int = Field(default=200, ge=1, le=2_000)
    window: int = Field(default=40, ge=1, le=2_000)
    curve: Curve = "log"
    epochs: float = Field(default=40.0, gt=0, le=1_000)
    loss: Literal["bce", "hinge"] = "bce"


class MiningSettings(PriorUse):
    """What the branches learn from the best box of each class.

    Attributes:
        thresholds: those below, or from lambda (`moving`, as we remember the paper): 1 - lambda / 2 and lambda / 2.
        positive: foreground from this IoU on.
        negative: background from the first IoU on to below the second; what is neither is not learnt from.
        positives, negatives: at most so many, drawn at random.
        weights: a proposal by the image's score for the class of its box (`image`, port), or all alike (`one`, authors').
        branch_weights: of the branches' losses; there are as many branches.
    """

    thresholds: Literal["fixed", "moving"] = "fixed"
    positive: float = Field(default=0.6, gt=0, le=1)
    negative: tuple[Overlap, Overlap] = (0.1, 0.4)
    positives: int = Field(default=32, ge=1, le=10_000)
    negatives: int = Field(default=96, ge=0, le=10_000)
    weights: Literal["image", "one"] = "image"
    branch_weights: BranchWeights = (1.0, 1.0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.negative[0] <= self.negative[1] <= self.positive:
            given = f"{list(self.negative)} and positive {self.positive}"
            raise ValueError(f"negative: expected two rising IoUs, up to positive at most; got {given}")
        return self

    def bounds(self, lam: float) -> tuple[float, float, float]:
        """At a lambda: the least IoU of foreground, the least of background, and the first too large for it."""
        if self.thresholds == "moving":
            return 1 - lam / 2, 0.0, lam / 2
        return self.positive, *self.negative


def continuation(progress: float, curve: Curve, epochs: float) -> float:
    """Lambda after a share of the training, 0 to about 1 (spec 10a §2.2)."""
    done = progress * epochs
    if curve == "log":
        start = math.log(_LOG_OFFSET)
        return (math.log(done + _LOG_OFFSET) - start) / (math.log(epochs + _LOG_OFFSET) - start)
    if curve == "linear":
        return progress
    if curve == "plinear":
        return min(1.0, _STAIR * math.ceil(done / _STAIR) / epochs)
    if curve == "sigmoid":
        return 1 / (1 + math.exp(epochs / 2 - done))
    return math.exp((done - epochs) / _STAIR)


def reweighting_rate(epoch: int, epochs: float) -> float:
    """What a proposal's recognition weighs in its features in an epoch, counted from 1, of so many (spec 10a §2.7)."""
    return max(0, epoch - 2) / epochs / _SLOWER


def partition(close: NDArray[np.bool_], rule: Rule, window: int) -> NDArray[np.int64]:
    """Subsets of n proposals in the order of their scores.

    Args:
        close: (n, n), whether the IoU is at least lambda.
        rule, window: see `SubsetSettings`.

    Returns:
        (n,), indexes from 0 in the order of the subsets' best members.
    """
    count, subsets = len(close), 0
    found = np.full(count, -1, np.int64)
    for seed in range(count):
        if found[seed] >= 0:
            continue
        found[seed] = subsets
        if rule == "seed":
            found[close[seed] & (found < 0)] = subsets
        else:
            fits = close[seed].copy()
            for other in range(seed + 1, min(seed + window, count)):
                if fits[other] and (rule == "torch7" or found[other] < 0):
                    found[other] = subsets
                    fits &= close[other]
        subsets += 1
    return found


@dataclass(frozen=True)
class Labelled:
    """What a branch learns from.

    Attributes:
        rows: int64 (k,), proposals.
        labels: int64 (k,), their classes, -1 for background.
        weights: (k,).
    """

    rows: Tensor
    labels: Tensor
    weights: Tensor


class CMil(PriorMethod):
    """WSDDN over subsets of proposals, and branches that learn from the clearly right and wrong ones alone.

    Attributes:
        rings: the detection stream sees a RoI's frame less its context, which are so many times as large as what they leave
            out; null lets it see the RoI.
        reweight: in training, features of a proposal weigh the more, the surer the last branch is of a class, as the authors
            meant it; their counter switches it off after the first images of an epoch.
    """

    method: Literal["c_mil"] = "c_mil"
    subsets: SubsetSettings = SubsetSettings()
    mining: MiningSettings = MiningSettings()
    rings: RingScale | None = None
    reweight: bool = False

    @property
    def branches(self) -> int:
        """One for each weight."""
        return len(self.mining.branch_weights)

    def outputs_of_rois(self, heads: RegionHeads, rois: Rois, neck: Callable[[Tensor], Tensor]) -> Outputs:
        """In training with `rings` and `reweight`; at test branches alone answer."""
        if not heads.training:
            return super().outputs_of_rois(heads, rois, neck)
        features = neck(rois.pool())
        found, factors = heads(features), None
        if self.reweight:
            epoch = int(rois.regions[0].progress * self.subsets.epochs) + 1
            rate = reweighting_rate(epoch, self.subsets.epochs)
            surest = found.refinement_logits[-1].detach().softmax(dim=1)[:, 1:].amax(dim=1, keepdim=True)
            factors = 1 - rate + rate * surest
            found = heads(features * factors)
        if self.rings is not None:
            from weaksam_cli.wsod.rings import frame_less_context

            detection = frame_less_context(heads, rois, neck, self.rings, factors)
            found = replace(found, detection_logits=detection)
        return found

    def losses(self, outputs: Outputs, regions: Regions) -> dict[str, Tensor]:
        """`loss_img` of the subsets, a mean over the classes, and `loss_ref_cls<i>` of each branch."""
        from weaksam_cli.wsod.losses import wsddn_scores

        lam = continuation(regions.progress, self.subsets.curve, self.subsets.epochs)
        scores = wsddn_scores(outputs.class_logits, outputs.detection_logits).detach()
        subsets = self.subset_of(scores.amax(dim=1), regions, lam)
        classes, detection = (
            pooled(item, subsets) for item in (outputs.class_logits, outputs.detection_logits)
        )
        losses = {"loss_img": self.image_loss(classes, detection, regions.image_labels)}
        image = wsddn_scores(classes, detection).sum(dim=0).detach()
        source = self.first_source(scores)
        for index, logits in enumerate(outputs.refinement_logits):
            learnt = self.labelled(source, image, regions, lam)
            losses[f"loss_ref_cls{index}"] = self.mining.branch_weights[index] * self.branch_loss(
                logits, learnt
            )
            source = logits.detach().softmax(dim=1)[:, 1:]
        return losses

    def subset_of(self, scores: Tensor, regions: Regions, lam: float) -> Tensor:
        """The subset of each proposal, int64 (R,), from its best score (R,) over all classes."""
        import torch

        from weaksam_cli.wsod.mining import pairwise_iou

        order = scores.argsort(descending=True, stable=True)
        top = order[: self.subsets.top]
        close = pairwise_iou(regions.boxes[top], regions.boxes[top]) >= lam
        found = partition(close.cpu().numpy(), self.subsets.rule, self.subsets.window)
        subsets = torch.empty_like(order)
        subsets[top] = torch.from_numpy(found).to(order.device)
        alone = len(order) - len(top)
        subsets[order[len(top) :]] = torch.arange(alone, device=order.device) + int(found.max(initial=-1)) + 1
        return subsets

    def image_loss(self, class_logits: Tensor, detection_logits: Tensor, image_labels: Tensor) -> Tensor:
        """Of subsets, (M, C) each, a mean over the C classes."""
        from weaksam_cli.wsod.losses import wsddn_loss_sum, wsddn_scores

        if self.subsets.loss == "bce":
            scores = wsddn_scores(class_logits, detection_logits)
            return wsddn_loss_sum(scores, image_labels) / len(image_labels)
        if not len(class_logits):
            return class_logits.sum()
        image = (class_logits * detection_logits.softmax(dim=0)).sum(dim=0)
        return (1 - (2 * image_labels - 1) * image).clamp(min=0).mean()

    def labelled(self, source: Tensor, image_scores: Tensor, regions: Regions, lam: float) -> Labelled:
        """What a branch learns from scores (R, C) and the image's scores (C,).

        The best boxes of two classes are not the same one, as in the port.
        """
        import torch

        from weaksam_cli.wsod.mining import PseudoBoxes, assign, pairwise_iou, top_one_pseudo_boxes

        settings = self.mining
        tops = top_one_pseudo_boxes(self.with_prior(source, regions), regions.boxes, regions.image_labels)
        weighed = PseudoBoxes(tops.boxes, tops.classes, image_scores[tops.classes])
        positive, low, high = settings.bounds(lam)
        mined = assign(regions.boxes, weighed, foreground_iou=positive)
        if not len(tops):
            return Labelled(mined.labels.new_zeros(0), mined.labels[:0], mined.weights[:0])
        overlap = pairwise_iou(regions.boxes, tops.boxes).amax(dim=1)
        negative = (mined.labels < 0) & (overlap >= low) & (overlap < high)
        rows = _drawn(mined.labels >= 0, settings.positives), _drawn(negative, settings.negatives)
        chosen = torch.cat(rows)
        weights = mined.weights[chosen]
        return Labelled(
            chosen, mined.labels[chosen], weights if settings.weights == "image" else weights * 0 + 1
        )

    def branch_loss(self, logits: Tensor, learnt: Labelled) -> Tensor:
        """Weighted mean of the cross entropy of logits (R, C + 1), background first; 0 where nothing weighs."""
        import torch.nn.functional as F

        total = learnt.weights.sum()
        if not total > 0:
            return logits.sum() * 0
        chosen = logits[learnt.rows]
        if self.mining.weights == "one":
            right = chosen.softmax(dim=1).gather(1, learnt.labels[:, None] + 1)[:, 0]
            return -(right + _TORCH7_EPSILON).log().mean()
        return (learnt.weights * F.cross_entropy(chosen, learnt.labels + 1, reduction="none")).sum() / total


def pooled(logits: Tensor, subsets: Tensor) -> Tensor:
    """Means of logits (R, C) over the members of each subset, (M, C); `subsets` is int64 (R,)."""
    count = int(subsets.max()) + 1 if len(subsets) else 0
    sums = logits.new_zeros(count, logits.shape[1]).index_add(0, subsets, logits)
    return sums / subsets.bincount(minlength=count)[:, None]


def _drawn(kind: Tensor, most: int) -> Tensor:
    """At most so many rows of a kind, bool (R,), at random."""
    import torch

    rows = kind.nonzero().flatten()
    if len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), device=rows.device)[:most]]


class Recipe(CMil, RefiningRecipe):
    """C-MIL on either network."""

    without_map: ClassVar[Mapping[str, object]] = {"rings": None}


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The steps of the network's path; the last makes the detections of the split."""
    return detector_steps(recipe, recipe.part(CMil), context, split)
