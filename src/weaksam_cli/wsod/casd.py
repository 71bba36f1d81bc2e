"""CASD (Huang et al., NeurIPS 2020): OICR whose attention of a RoI agrees between views of an image and between layers.

The default is our reading of the paper over OICR: the released commands train neither kind of agreement (spec 10b §A.6). Of
the release there are its attention, its second division, its graph of seeds, its hinge, its pooling of frame and context,
its other branch's box regression, and inverted attention, which hides the cells that a RoI's class hangs on. Left out of it:
a stride of 16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from weaksam_cli.core.settings import RecipeModel, Weight
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.method import ClassBoxes, Outputs, Regions, RingScale, Rois
from weaksam_cli.wsod.oicr import MiningSettings, NearBest, RefiningRecipe
from weaksam_cli.wsod.stage import detector_steps

if TYPE_CHECKING:
    from torch import Tensor

    from weaksam_cli.wsod.attention import Hiding
    from weaksam_cli.wsod.detector import RegionHeads
    from weaksam_cli.wsod.mining import Assignment

Cells = Annotated[int, Field(ge=1, le=48)]
OneIn = Annotated[int, Field(ge=1, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]

_DELTA_DEVIATION: Final = 0.001


class GraphSettings(RecipeModel):
    """Seeds and labels of the release.

    Attributes:
        overlap: proposals are neighbours above this IoU.
        most: seeds of a class; so many proposals are left over, too.
        foreground_iou: proposals above this IoU with a seed are foreground.
        background_iou: they are background from the first IoU to below the second, and left out between that and foreground.
        foreground, background: at most so many of a view teach.
    """

    overlap: float = Field(default=0.4, gt=0, lt=1)
    most: int = Field(default=5, ge=1, le=1000)
    foreground_iou: float = Field(default=0.6, gt=0, lt=1)
    background_iou: tuple[Share, Share] = (0.1, 0.4)
    foreground: int = Field(default=32, ge=1, le=100_000)
    background: int = Field(default=96, ge=1, le=100_000)


class SeedSettings(MiningSettings):
    """OICR's seeds, or the release's.

    Attributes:
        graph: the release's, in place of `ratio`, `nms`, `foreground_iou` and `weights`; null for OICR's.
    """

    graph: GraphSettings | None = None


class DistillationSettings(RecipeModel):
    """Attention of a RoI learns from the largest of all views, and of all layers.

    Attributes:
        weight: for each branch.
        start: share of the training before which there is none.
        attention: see `attention.attention_maps`.
        layers: agreement of the last three blocks, too, which no released code has.
        divide: `once` takes the mean over RoIs and cells; `release` divides by views and by RoIs once more.
    """

    weight: Weight = 0.1
    start: float = Field(default=0.45, ge=0, le=1)
    attention: Literal["paper", "release"] = "paper"
    layers: bool = True
    divide: Literal["once", "release"] = "once"


class HidingSettings(RecipeModel):
    """Inverted attention: RoIs whose recognition hangs most on a few cells lose them. Pairs are early and late in training.

    Attributes:
        switch: share of the training after which it is late.
        candidates: so many cells of highest attention may be hidden.
        cells: so many of them are, at random.
        foreground, background: one RoI in so many loses cells.
    """

    switch: float = Field(default=0.6, ge=0, le=1)
    candidates: tuple[Cells, Cells] = (25, 29)
    cells: tuple[Cells, Cells] = (16, 20)
    foreground: tuple[OneIn, OneIn] = (6, 5)
    background: tuple[OneIn, OneIn] = (18, 15)

    def at(self, progress: float) -> Hiding:
        """What holds at a share of the training."""
        from weaksam_cli.wsod.attention import Hiding

        late = int(progress > self.switch)
        return Hiding(self.candidates[late], self.cells[late], self.foreground[late], self.background[late])


class Casd(NearBest, ClassBoxes):
    """OICR over several views, with attention.

    Attributes:
        rings: the detection stream sees a RoI's frame less its context, which are so many times as large as what they leave
            out; null lets it see the RoI.
        regression: branches regress a box for each class, towards the mean of the proposals around their seed.
        image_loss: `wsddn` as in OICR; `hinge` is the release's, of logits weighed by the softmax over proposals.
        distillation: null leaves it out, which is what a fresh run of the release trains.
        hiding: inverted attention; null leaves it out.
    """

    method: Literal["casd"] = "casd"
    mining: SeedSettings = SeedSettings()
    image_loss: Literal["wsddn", "hinge"] = "wsddn"
    rings: RingScale | None = None
    regression: bool = False
    distillation: DistillationSettings | None = DistillationSettings()
    hiding: HidingSettings | None = HidingSettings()

    @property
    def views(self) -> int:
        """Two sizes, each plain and mirrored."""
        return 4

    def delta_columns(self, class_count: int) -> int:
        """Four for each class, if any."""
        return super().delta_columns(class_count) if self.regression else 0

    @property
    def delta_deviation(self) -> float:
        """The release's."""
        return _DELTA_DEVIATION

    def boxes(self, outputs: Outputs, boxes: Tensor) -> Tensor:
        """The regressed ones, if any, (R, C, 4); else the proposals."""
        return super().boxes(outputs, boxes) if self.regression else boxes

    def distilled(self, progress: float) -> DistillationSettings | None:
        """The distillation, once it has begun."""
        settings = self.distillation
        return settings if settings is not None and progress > settings.start else None

    def outputs_of_rois(self, heads: RegionHeads, rois: Rois, neck: Callable[[Tensor], Tensor]) -> Outputs:
        """In training, branches see RoIs with hidden cells.

        `labels<k>`, `weights<k>` and `targets<k>` are what the RoIs of all views learn in a branch; `attention` and
        `layer<q>` are of their cells.
        """
        import torch

        from weaksam_cli.wsod.attention import attention_maps, inverted_attention

        pooled = rois.pool()
        found = heads(neck(pooled))
        if not heads.training:
            return found
        if self.rings is not None:
            from weaksam_cli.wsod.rings import frame_less_context

            detection = frame_less_context(heads, rois, neck, self.rings)
            found = replace(found, detection_logits=detection)
        extra = self._taught(found, rois.regions)
        progress, masked = rois.regions[0].progress, [found] * self.branches
        if self.hiding is not None:
            for index in range(self.branches):

                def of_branch(cells: Tensor, index: int = index) -> Tensor:
                    return heads(neck(cells)).refinement_logits[index]

                with _evaluating(heads, neck):
                    draws = torch.rand(len(pooled), pooled[0, 0].numel() if len(pooled) else 0).to(
                        pooled.device
                    )
                    mask = inverted_attention(
                        pooled.detach(),
                        of_branch,
                        extra[f"labels{index}"] + 1,
                        extra[f"weights{index}"] > 0,
                        self.hiding.at(progress),
                        draws,
                    )
                masked[index] = heads(neck(pooled * mask))
        if settings := self.distilled(progress):
            extra["attention"] = attention_maps(pooled, settings.attention)
            for index, stride in enumerate((4, 8) if settings.layers else ()):
                seen = rois.pool(rois.maps[index], stride)
                extra[f"layer{index}"] = attention_maps(seen, settings.attention)
        logits = tuple(own.refinement_logits[k] for k, own in enumerate(masked))
        deltas = tuple(own.deltas[k] for k, own in enumerate(masked) if own.deltas)
        return replace(found, refinement_logits=logits, deltas=deltas, extra=extra)

    def _taught(self, outputs: Outputs, regions: Sequence[Regions]) -> dict[str, Tensor]:
        """`labels<k>`, `weights<k>` and, with `regression`, `targets<k>` of the RoIs of all views of all images."""
        import torch

        parts: dict[str, list[Tensor]] = {}
        start = first = 0
        while first < len(regions):
            own = regions[first]
            count = len(own.mirrored)
            stop = start + count * len(own.boxes)
            for index, source in enumerate(self._sources(outputs.rows(start, stop), own)):
                mined = self._learnt(self.with_prior(source, own), own)
                parts.setdefault(f"labels{index}", []).append(mined.labels)
                parts.setdefault(f"weights{index}", []).append(mined.weights)
                if self.regression:
                    views = [item.boxes for item in regions[first : first + count]]
                    parts.setdefault(f"targets{index}", []).append(self.targets(mined.matched, own, views))
            start, first = stop, first + count
        return {name: torch.cat(items) for name, items in parts.items()}

    def _sources(self, outputs: Outputs, regions: Regions) -> list[Tensor]:
        """Scores (R, C) that each branch is mined from, means of the views."""
        import torch

        from weaksam_cli.wsod.losses import wsddn_scores

        views = outputs.class_logits.detach(), outputs.detection_logits.detach()
        pairs = zip(*(_by_view(item, regions) for item in views), strict=True)
        streams = torch.stack([wsddn_scores(*pair) for pair in pairs]).mean(dim=0)
        branches = [
            _by_view(item.detach().softmax(dim=1)[:, 1:], regions).mean(dim=0)
            for item in outputs.refinement_logits[:-1]
        ]
        return [self.first_source(streams), *branches]

    def _learnt(self, source: Tensor, regions: Regions) -> Assignment:
        """What the RoIs (V * R) of an image learn; the seed (R, 4) that each is nearest to, in the first view."""
        import torch

        from weaksam_cli.wsod.graph_seeds import drawn, graph_labels, graph_pseudo_boxes
        from weaksam_cli.wsod.mining import Assignment, assign

        views, graph = len(regions.mirrored), self.mining.graph
        if graph is None:
            mined = self.assign(self.seeds(source, regions), regions)
            return Assignment(mined.labels.repeat(views), mined.weights.repeat(views), mined.matched)
        pseudo = graph_pseudo_boxes(
            source, regions.boxes, regions.image_labels, overlap=graph.overlap, most=graph.most
        )
        labels, taught = graph_labels(
            regions.boxes, pseudo, foreground_iou=graph.foreground_iou, background_iou=graph.background_iou
        )
        kept = [drawn(labels, taught, graph.foreground, graph.background) for _ in range(views)]
        return Assignment(
            labels.repeat(views), torch.cat(kept).float(), assign(regions.boxes, pseudo).matched
        )

    def targets(self, seeds: Tensor, regions: Regions, views: Sequence[Tensor]) -> Tensor:
        """Deltas (V * R, 4) to the mean of the proposals that are foreground of the same seed (spec 10b §A.5).

        Args:
            seeds: (R, 4), the seed of each proposal, in the first view.
            regions: in the first view.
            views: the proposals (R, 4) in each view.
        """
        import torch

        from weaksam_cli.wsod.losses import encode
        from weaksam_cli.wsod.mining import pairwise_iou

        least = self.mining.foreground_iou if self.mining.graph is None else self.mining.graph.foreground_iou
        boxes = regions.boxes if self.mining.graph else self.compared(regions.boxes)
        near = (pairwise_iou(seeds, boxes) > least).to(boxes.dtype)
        shares = near / near.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.cat([encode(shares @ view, view) for view in views])

    def losses(self, outputs: Outputs, regions: Regions) -> dict[str, Tensor]:
        """`loss_img`, `loss_ref_cls<i>` and `loss_ref_reg<i>`, means of the views, and `loss_distil`, where there is any."""
        from weaksam_cli.wsod.graph_seeds import taught_loss
        from weaksam_cli.wsod.losses import OICR_EPSILON, refinement_loss

        losses = {"loss_img": self._image_loss(outputs, regions)}
        for index, logits in enumerate(outputs.refinement_logits):
            labels, weights = outputs.extra[f"labels{index}"], outputs.extra[f"weights{index}"]
            if self.mining.graph is None:
                loss = refinement_loss(logits, labels, weights, epsilon=OICR_EPSILON)
            else:
                loss = taught_loss(logits, labels, weights > 0, len(regions.mirrored))
            losses[f"loss_ref_cls{index}"] = self.mining.branch_weights[index] * loss
            if self.regression:
                box_loss = self._box_loss(outputs, index, len(regions.mirrored))
                losses[f"loss_ref_reg{index}"] = self.mining.branch_weights[index] * box_loss
        if settings := self.distilled(regions.progress):
            losses["loss_distil"] = settings.weight * self._agreement(outputs, regions, settings)
        return losses

    def _box_loss(self, outputs: Outputs, index: int, views: int) -> Tensor:
        """Weighted smooth L1 (beta 1) of a branch's foreground: over coordinates and the first view's foreground, a mean."""
        import torch.nn.functional as F

        labels, weights = outputs.extra[f"labels{index}"], outputs.extra[f"weights{index}"]
        foreground = (labels >= 0) & (weights > 0)
        deltas = outputs.deltas[index]
        own = deltas.unflatten(1, (deltas.shape[1] // 4, 4))[foreground, labels[foreground] + 1]
        targets = outputs.extra[f"targets{index}"][foreground]
        distances = F.smooth_l1_loss(own, targets, reduction="none").mean(dim=1) * weights[foreground]
        first = foreground[: len(foreground) // views].sum()
        return distances.sum() / first.clamp(min=1) / views

    def _image_loss(self, outputs: Outputs, regions: Regions) -> Tensor:
        import torch

        from weaksam_cli.wsod.graph_seeds import hinge_loss
        from weaksam_cli.wsod.losses import wsddn_loss_sum, wsddn_scores

        classes, detections = (
            _by_view(item, regions) for item in (outputs.class_logits, outputs.detection_logits)
        )
        if self.image_loss == "hinge" and len(regions.boxes):
            return hinge_loss((classes * detections.softmax(dim=1)).sum(dim=1), regions.image_labels)
        views = zip(classes, detections, strict=True)
        return torch.stack(
            [wsddn_loss_sum(wsddn_scores(*view), regions.image_labels) for view in views]
        ).mean()

    def _agreement(self, outputs: Outputs, regions: Regions, settings: DistillationSettings) -> Tensor:
        """Of views and layers, for the RoIs that each branch learns from in the first view."""
        from weaksam_cli.wsod.attention import distillation, unmirrored

        views = unmirrored(outputs.extra["attention"], regions.mirrored)
        layers = [item for name, item in outputs.extra.items() if name.startswith("layer")]
        total = outputs.extra["attention"].sum() * 0
        kept = outputs.extra["weights0"][:0] > 0
        for index in range(self.branches):
            kept = outputs.extra[f"weights{index}"][: len(regions.boxes)] > 0
            if kept.any():
                total = total + distillation([view[kept] for view in views])
                everywhere = kept.repeat(len(views))
                together = [item[everywhere] for item in (*layers, outputs.extra["attention"])]
                total = total + distillation(together)
        if settings.divide == "release":
            return total / len(views) / kept.sum().clamp(min=1)
        return total


def _by_view(rows: Tensor, regions: Regions) -> Tensor:
    """(V, R, k) of (V * R, k)."""
    return rows.view(len(regions.mirrored), len(regions.boxes), rows.shape[1])


@contextmanager
def _evaluating(*modules: Any) -> Iterator[None]:
    """Inside, nothing is dropped out."""
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module in modules:
            module.train()


class Recipe(Casd, RefiningRecipe):
    """CASD on either network."""

    without_map: ClassVar[Mapping[str, object]] = {"distillation": None, "hiding": None, "rings": None}


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The steps of the network's path; the last makes the detections of the split."""
    return detector_steps(recipe, recipe.part(Casd), context, split)
