"""WSOD2 (Zeng et al., ICCV 2019): OICR whose proposals count by bottom-up evidence first, and boxes that are regressed.

As its release does it (spec 10a §1). What the paper has besides, and the release has not, is left out: its other measures
of objectness, its other curves of alpha, and regression targets chosen by objectness.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from weaksam_cli.core import boxes as box_math
from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.settings import Weight
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.method import Evidence, Outputs, Regions, Seen
from weaksam_cli.wsod.oicr import MiningSettings, NearBest, RefiningRecipe
from weaksam_cli.wsod.stage import detector_steps

if TYPE_CHECKING:
    from torch import Tensor

    from weaksam_cli.wsod.mining import Assignment

_DELTA_SHARE: Final = 0.1
"""Of the heads' initial deviation: 0.001 beside 0.01 in the release."""


class SuperpixelSettings(Evidence):
    """Superpixel straddling: how well a box's border runs along borders of segments, 0 to 1.

    Attributes:
        smoothing: Gaussian before the image is segmented (Felzenszwalb and Huttenlocher), deviation in pixels.
        scale: preference for larger segments.
        min_area: segments below this many pixels are joined to a neighbour.
    """

    smoothing: float = Field(default=0.5, ge=0, le=100)
    scale: float = Field(default=200.0, gt=0, le=1e6)
    min_area: int = Field(default=50, ge=1, le=1_000_000)

    def width(self, class_count: int) -> int:
        """One."""
        return 1

    def columns(self, seen: Seen) -> FloatArray:
        """(R, 1), see `straddling`."""
        import cv2

        method = cv2.ximgproc.segmentation.createGraphSegmentation(self.smoothing, self.scale, self.min_area)
        segments = np.asarray(method.processImage(np.ascontiguousarray(seen.image)), np.int32)
        return straddling(seen.proposals.boxes, segments)[:, None]


def straddling(boxes: FloatArray, segments: NDArray[np.int32]) -> NDArray[np.float32]:
    """1 less the share of each box that segments leave on one side of its border or the other (spec 10a §1.2).

    A segment counts with what it has inside the box or outside, whichever is less. The box of the whole image has 1.

    Args:
        boxes: float32 (R, 4), xyxy pixel edges of the image. Those between pixels are cut as the release cuts them: as
            inclusive indexes, towards zero; their area is the uncut one.
        segments: int32 (H, W), 0 and up.

    Returns:
        float32 (R,).
    """
    sizes = np.bincount(segments.ravel())
    inclusive = box_math.edges_to_inclusive(boxes)
    cuts = np.trunc(inclusive).astype(np.int64)
    found = np.zeros(len(boxes), np.float32)
    for row, (left, top, right, bottom) in enumerate(cuts.tolist()):
        inside = np.bincount(segments[top : bottom + 1, left : right + 1].ravel(), minlength=len(sizes))
        found[row] = np.minimum(inside, sizes - inside).sum(where=inside > 0)
    ratio = found / box_math.area(inclusive, plus_one=True)
    return np.subtract(1, ratio, dtype=np.float32)


class Wsod2(NearBest):
    """OICR's branches, one regression of boxes for all classes, and foreground that weighs by objectness.

    A foreground proposal weighs alpha times what it would in OICR with `mining.weights`, and 1 - alpha times its bottom-up
    evidence; alpha rises from 0 to 1. With `balanced` weights the evidence is balanced, too.

    Attributes:
        superpixels: the bottom-up evidence.
        fade: share of the training in which alpha rises linearly; after it there is no bottom-up evidence.
        box_weight: of the box regression's loss.
    """

    method: Literal["wsod2"] = "wsod2"
    mining: MiningSettings = MiningSettings(weights="one")
    superpixels: SuperpixelSettings = SuperpixelSettings()
    fade: float = Field(default=0.5, gt=0, le=1)
    box_weight: Weight = 30.0

    @property
    def evidence(self) -> Evidence:
        """Superpixel straddling."""
        return self.superpixels

    def delta_columns(self, class_count: int) -> int:
        """Four for all classes."""
        return 4

    @property
    def regressed(self) -> int:
        """The last branch."""
        return 1

    @property
    def delta_deviation(self) -> float:
        """Smaller than the other heads'."""
        return self.heads.initial_deviation * _DELTA_SHARE

    def losses(self, outputs: Outputs, regions: Regions) -> dict[str, Tensor]:
        """`loss_img`, `loss_ref_cls<i>` of each branch, and `loss_box` by the labels of the last."""
        from weaksam_cli.wsod.losses import wsddn_loss_sum, wsddn_scores

        scores, mined = wsddn_scores(outputs.class_logits, outputs.detection_logits), []

        def mine(source: Tensor) -> Assignment:
            mined.append(self.mine(source, regions))
            return mined[-1]

        refined = self.refine(replace(outputs, deltas=()), scores.detach(), regions, mine)
        box = agnostic_box_loss(outputs.deltas[-1], self.compared(regions.boxes), mined[-1])
        image = wsddn_loss_sum(scores, regions.image_labels)
        return {"loss_img": image} | refined | {"loss_box": self.box_weight * box}

    def mine(self, source: Tensor, regions: Regions) -> Assignment:
        """As OICR, foreground weighed by objectness."""
        mined = super().mine(source, regions)
        if regions.evidence is None:
            raise ValueError("WSOD2 is trained with evidence of each proposal, got none")
        alpha, bottom_up = self.alpha(regions.progress), regions.evidence[:, 0]
        if self.mining.weights == "balanced":
            bottom_up = bottom_up * mined.weights
        mixed = alpha * mined.weights + (1 - alpha) * bottom_up
        return replace(mined, weights=mixed.where(mined.labels >= 0, mined.weights))

    def alpha(self, progress: float) -> float:
        """Share of top-down objectness in the iteration that follows this share of the training."""
        return min(1.0, progress / self.fade)

    def boxes(self, outputs: Outputs, boxes: Tensor) -> Tensor:
        """The regressed ones, (R, 4)."""
        from weaksam_cli.wsod.losses import decode

        compared = self.compared(boxes)
        return decode(outputs.deltas[-1], compared) + (boxes - compared)


def agnostic_box_loss(deltas: Tensor, boxes: Tensor, mined: Assignment) -> Tensor:
    """Smooth L1 (beta 1), weighted, of the foreground's deltas: the mean over its proposals and coordinates.

    Args:
        deltas: (R, 4), for all classes.
        boxes: (R, 4), the proposals.
        mined: labels, weights and pseudo boxes of the proposals.

    Returns:
        Scalar; 0 without foreground, where the release gives NaN.
    """
    import torch.nn.functional as F

    from weaksam_cli.wsod.losses import encode

    foreground = mined.labels >= 0
    if not foreground.any():
        return deltas.sum() * 0
    targets = encode(mined.matched[foreground], boxes[foreground])
    distances = F.smooth_l1_loss(deltas[foreground], targets, reduction="none")
    return (distances * mined.weights[foreground, None]).mean()


class Recipe(Wsod2, RefiningRecipe):
    """WSOD2 on either network."""


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The steps of the network's path; the last makes the detections of the split."""
    return detector_steps(recipe, recipe.part(Wsod2), context, split)
