"""C-MIDN (Gao et al., ICCV 2019): two pairs of streams, the second without what the first found of an object.

No code of it is known. From its abstract are two pairs that complement each other by removal of proposals, the segmentation
that guides it, the coupling of both, and OICR's branches; how each is done, and every number, is our reading (spec 10a §3).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.method import Evidence, Outputs, Regions, Seen
from weaksam_cli.wsod.oicr import NearBest, RefiningRecipe
from weaksam_cli.wsod.stage import detector_steps

if TYPE_CHECKING:
    from torch import Tensor

    from weaksam_cli.wsod.mining import PseudoBoxes


class LabelMapSettings(Evidence):
    """A class label map of the image, and how every proposal lies on the map of every class of the image.

    Attributes:
        maps: kind of class activation maps that it is made from.
        threshold: where all normalised maps of the image's classes are below it, there is background.
    """

    needs_maps: ClassVar[bool] = True

    maps: Literal["coarse", "fine"] = "fine"
    threshold: float = Field(default=0.4, gt=0, lt=1)

    def width(self, class_count: int) -> int:
        """Two for each class."""
        return 2 * class_count

    def columns(self, seen: Seen) -> FloatArray:
        """See `map_overlaps`."""
        return map_overlaps(seen.proposals.boxes, self.label_map(seen), seen.class_count)

    def label_map(self, seen: Seen) -> NDArray[np.int32]:
        """(H, W): class + 1, or 0 for background."""
        from weaksam_cli.artifacts.class_maps import KINDS, class_heat

        assert seen.class_maps is not None
        size, known = seen.image.shape[:2], seen.class_maps.classes()
        heat = class_heat(seen.class_maps, KINDS.index(self.maps), *size)
        own = [index for index in known if index in seen.classes]
        if heat is None or not own:
            return np.zeros(size, np.int32)
        heat = heat[[known.index(index) for index in own]]
        labels = np.asarray(own, np.int32)[heat.argmax(axis=0)] + 1
        return np.where(heat.max(axis=0) < self.threshold, 0, labels).astype(np.int32)


def map_overlaps(boxes: FloatArray, label_map: NDArray[np.int32], class_count: int) -> FloatArray:
    """How each box lies on the mask of each class.

    Args:
        boxes: float32 (R, 4), xyxy pixel edges, which are cut to whole pixels.
        label_map: int32 (H, W), class + 1, or 0 for background.
        class_count: C.

    Returns:
        float32 (R, 2 C): the share of the mask that is inside the box, then the IoU of mask and box; 0 without a mask.
    """
    found = np.zeros((len(boxes), 2 * class_count), np.float32)
    left, top, right, bottom = np.floor(boxes).astype(np.int64).T
    areas = (right - left) * (bottom - top)
    for index in np.unique(label_map[label_map > 0]) - 1:
        mask = label_map == index + 1
        sums = np.pad(mask.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        found[:, index] = inside / mask.sum()
        found[:, class_count + index] = inside / (mask.sum() + areas - inside)
    return found


class RemovalSettings(RecipeModel):
    """What the second pair does not see of a class of the image.

    Attributes:
        coverage: nothing is removed where the first pair's best box holds this share of the mask.
        iou: otherwise proposals from this IoU with that box on.
    """

    coverage: float = Field(default=0.7, gt=0, le=1)
    iou: float = Field(default=0.5, gt=0, le=1)


class CouplingSettings(RecipeModel):
    """When the best boxes of both pairs are one object, and so one seed.

    Attributes:
        iou: from this IoU on.
        inside: or where this share of the smaller one is inside the other.
    """

    iou: float = Field(default=0.5, gt=0, le=1)
    inside: float = Field(default=0.9, gt=0, le=1)


class CMidn(NearBest):
    """Two pairs of streams; the first of OICR's branches learns from the seeds of both.

    Attributes:
        label_map: the segmentation.
        removal, coupling: see there.
    """

    method: Literal["c_midn"] = "c_midn"
    label_map: LabelMapSettings = LabelMapSettings()
    removal: RemovalSettings = RemovalSettings()
    coupling: CouplingSettings = CouplingSettings()

    @property
    def evidence(self) -> Evidence:
        """How proposals lie on the label map."""
        return self.label_map

    def stream_columns(self, class_count: int) -> int:
        """The first pair's classes, then the second's."""
        return 2 * class_count

    def losses(self, outputs: Outputs, regions: Regions) -> dict[str, Tensor]:
        """`loss_img` of the first pair, `loss_img2` of the second, and `loss_ref_cls<i>` of each branch."""
        from weaksam_cli.wsod.losses import wsddn_loss_sum, wsddn_scores

        classes = outputs.class_logits.shape[1] // 2
        first = wsddn_scores(outputs.class_logits[:, :classes], outputs.detection_logits[:, :classes])
        removed = self.removed(first, regions)
        kept = outputs.detection_logits[:, classes:].masked_fill(removed, -float("inf"))
        second = wsddn_scores(outputs.class_logits[:, classes:], kept)
        scores = first.detach()
        coupled = self.assign(self.coupled(scores, second.detach(), regions), regions)
        refined = self.refine(
            outputs,
            scores,
            regions,
            lambda source: coupled if source is scores else self.mine(source, regions),
        )
        labels = regions.image_labels
        images = {"loss_img": wsddn_loss_sum(first, labels), "loss_img2": wsddn_loss_sum(second, labels)}
        return images | refined

    def removed(self, scores: Tensor, regions: Regions) -> Tensor:
        """Segmentation-guided proposal removal: which proposals are no positives of a class for the second pair.

        The best box and what overlaps it goes, unless it holds the object, or nothing that is left would touch the mask:
        a class of the image keeps a positive.

        Args:
            scores: (R, C), of the first pair.
            regions: the proposals.

        Returns:
            bool (R, C); false for classes that the image has not.
        """
        import torch

        from weaksam_cli.wsod.mining import pairwise_iou

        gone = torch.zeros_like(scores, dtype=torch.bool)
        coverage, _ = self.on_map(regions)
        boxes = self.compared(regions.boxes)
        for index in regions.image_labels.nonzero().flatten().tolist() if len(scores) else ():
            top = int(scores[:, index].argmax())
            if coverage[top, index] >= self.removal.coverage:
                continue
            near = pairwise_iou(boxes, boxes[top : top + 1])[:, 0] >= self.removal.iou
            if (coverage[~near, index] > 0).any():
                gone[:, index] = near
        return gone

    def coupled(self, first: Tensor, second: Tensor, regions: Regions) -> PseudoBoxes:
        """Seeds from the scores (R, C) of both pairs: for each class of the image one, or two if they are apart.

        Of two boxes of one object that which fits the mask better is the seed; without a mask, that which scores higher.
        """
        import torch

        from weaksam_cli.wsod.mining import PseudoBoxes

        first, second = self.with_prior(first, regions), self.with_prior(second, regions)
        _, fit = self.on_map(regions)
        rows: list[int] = []
        classes: list[int] = []
        values: list[Tensor] = []
        for index in regions.image_labels.nonzero().flatten().tolist() if len(first) else ():
            one, two = int(first[:, index].argmax()), int(second[:, index].argmax())
            pair = [(one, first[one, index]), (two, second[two, index])]
            if self.one_object(regions.boxes[[one, two]]):
                values_of = (
                    fit[[one, two], index] if fit[:, index].any() else torch.stack([pair[0][1], pair[1][1]])
                )
                better = two if values_of[1] > values_of[0] else one
                pair = [(better, torch.maximum(pair[0][1], pair[1][1]))]
            rows += [row for row, _ in pair]
            values += [value for _, value in pair]
            classes += [index] * len(pair)
        return PseudoBoxes(
            self.compared(regions.boxes)[rows],
            torch.tensor(classes, dtype=torch.int64, device=first.device),
            torch.stack(values) if values else first.new_zeros(0),
        )

    def one_object(self, boxes: Tensor) -> bool:
        """Whether two boxes (2, 4) are of one object."""
        from weaksam_cli.wsod.mining import pairwise_iou

        compared = self.compared(boxes)
        low, high = compared[:, :2].amax(dim=0), compared[:, 2:].amin(dim=0)
        smaller = (compared[:, 2:] - compared[:, :2]).prod(dim=1).amin()
        common = (high - low).clamp(min=0).prod()
        near = pairwise_iou(compared[:1], compared[1:])[0, 0] >= self.coupling.iou
        return bool(near or common >= self.coupling.inside * smaller)

    def on_map(self, regions: Regions) -> tuple[Tensor, Tensor]:
        """Share of each class's mask in each proposal, and IoU of both: (R, C) each."""
        if regions.evidence is None:
            raise ValueError("C-MIDN is trained with evidence of each proposal, got none")
        coverage, fit = regions.evidence.chunk(2, dim=1)
        return coverage, fit


class Recipe(CMidn, RefiningRecipe):
    """C-MIDN on either network."""


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The steps of the network's path; the last makes the detections of the split."""
    return detector_steps(recipe, recipe.part(CMidn), context, split)
