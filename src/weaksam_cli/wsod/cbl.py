"""CBL (Yin et al., ICCV 2023): OICR and a branch with box regression, which learn with a teacher that is their average.

The teacher ranks proposals for the two streams, votes on the pseudo boxes of the last branch, and has half of the score at
test (spec 10c §1). As its release; its paper's figure draws pseudo boxes from the teacher alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import Field, model_validator

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.method import ClassBoxes, Outputs, Regions, Rois
from weaksam_cli.wsod.oicr import LabelSettings, Refining, RefiningRecipe
from weaksam_cli.wsod.stage import detector_steps

if TYPE_CHECKING:
    from torch import Tensor

    from weaksam_cli.training.loop import Stateful
    from weaksam_cli.training.loop import Step as TrainingStep
    from weaksam_cli.wsod.detector import RegionDetector, RegionHeads
    from weaksam_cli.wsod.mining import Assignment, PseudoBoxes

_DELTA_SHARE: Final = 0.1
"""Of the heads' initial deviation."""
_LEAST: Final = 1e-9
"""Scores stay this far from 0 and 1 when a class's best is looked for."""


class TeacherSettings(RecipeModel):
    """The teacher.

    Attributes:
        backbone: it has one of its own, as published; otherwise it looks at the student's map.
        momentum: of its average over time, which is a plain mean until it would be longer.
    """

    backbone: bool = True
    momentum: float = Field(default=0.999, ge=0, lt=1)


class RampSettings(RecipeModel):
    """What changes over the training.

    Attributes:
        reached: the loss of the image falls from 1 to 1 less this, that of the ranking rises from 0 to this.
        near_iou: proposals from this IoU with the teacher's best box on are ranked; on the same ramp it goes towards 1.
    """

    reached: float = Field(default=0.875, gt=0, le=1)
    near_iou: float = Field(default=0.5, gt=0, le=1)

    def fading(self, progress: float) -> float:
        """Weight of the image's loss; 1 less it weighs the ranking."""
        return max(1 - self.reached * progress, 0.0)

    def threshold(self, progress: float) -> float:
        """IoU from which on proposals are ranked."""
        return 1 - (1 - self.near_iou) * self.fading(progress)


class MultiSeedSettings(RecipeModel):
    """Pseudo boxes of the last branch.

    Attributes:
        start: share of the training before which the last branch learns from one box a class, as the others do.
        share: the top int(R * share) proposals of a branch are candidates.
        ratio: of these, those above this share of the class's best.
        overlap: candidates give way from this IoU with a better one on.
        agreement_iou: another branch agrees where a candidate of its own has an IoU above this.
        power: of the share of branches that agree, by which a box's weight grows; it may exceed 1.
        few: below 1 / share proposals, `one` takes the best (interpretation); `all` is the published code's accident.
    """

    start: float = Field(default=0.4, ge=0, le=1)
    share: float = Field(default=0.05, gt=0, le=1)
    ratio: float = Field(default=0.7, ge=0, lt=1)
    overlap: float = Field(default=0.4, gt=0, le=1)
    agreement_iou: float = Field(default=0.5, gt=0, lt=1)
    power: float = Field(default=0.4, gt=0, le=100)
    few: Literal["one", "all"] = "one"


class Cbl(Refining, ClassBoxes):
    """OICR's branches, the last of which regresses boxes; and a teacher."""

    method: Literal["cbl"] = "cbl"
    mining: LabelSettings = LabelSettings(ignore_iou=0.1, branch_weights=(1.0, 1.0, 1.0, 1.0))
    teacher: TeacherSettings = TeacherSettings()
    ramp: RampSettings = RampSettings()
    multi_seed: MultiSeedSettings = MultiSeedSettings()

    @model_validator(mode="after")
    def _classifiers_are_alike(self) -> Self:
        if not self.heads.shared:
            raise ValueError(
                "heads.shared: the teacher averages classifiers that read the same features; expected true"
            )
        if self.branches < 2:
            raise ValueError("mining.branch_weights: the teacher averages two branches at least")
        return self

    @property
    def regressed(self) -> int:
        """The last branch."""
        return 1

    @property
    def delta_deviation(self) -> float:
        """Smaller than the other heads'."""
        return self.heads.initial_deviation * _DELTA_SHARE

    def complete(self, detector: RegionDetector) -> None:
        """The teacher is a module of the heads."""
        from weaksam_cli.wsod.teacher import Teacher

        detector.heads.add_module("teacher", Teacher(detector, with_backbone=self.teacher.backbone))

    def outputs_of_rois(self, heads: RegionHeads, rois: Rois, neck: Callable[[Tensor], Tensor]) -> Outputs:
        """Those of the student, and `teacher`, the teacher's logits (all R, C + 1)."""
        teacher: Any = heads.get_submodule("teacher")
        return replace(super().outputs_of_rois(heads, rois, neck), extra={"teacher": teacher.logits(rois)})

    def losses(self, outputs: Outputs, regions: Regions) -> dict[str, Tensor]:
        """`loss_img`, `loss_ranking`, `loss_ref_cls<i>` of each branch, and `loss_ref_reg<i>` of the last."""
        from weaksam_cli.wsod.losses import wsddn_loss_of_classes, wsddn_scores
        from weaksam_cli.wsod.teacher import ranking_loss

        scores = wsddn_scores(outputs.class_logits, outputs.detection_logits)
        fading = self.ramp.fading(regions.progress)
        ranking = ranking_loss(
            scores,
            outputs.extra["teacher"].softmax(dim=1)[:, 1:],
            regions.boxes,
            regions.image_labels,
            self.ramp.threshold(regions.progress),
        )
        losses = {
            "loss_img": fading * wsddn_loss_of_classes(scores, regions.image_labels),
            "loss_ranking": (1 - fading) * ranking,
        }
        sources = iter(range(self.branches))

        def mine(source: Tensor) -> Assignment:
            if next(sources) < self.branches - 1 or regions.progress < self.multi_seed.start:
                return self.mine(source, regions)
            return self.assign(self.voted(outputs, regions), regions)

        return losses | self.refine(outputs, scores.detach(), regions, mine)

    def seeds(self, source: Tensor, regions: Regions) -> PseudoBoxes:
        """The best of each class."""
        return super().seeds(source.clamp(_LEAST, 1 - _LEAST), regions)

    def voted(self, outputs: Outputs, regions: Regions) -> PseudoBoxes:
        """Pseudo boxes of the last branch, from the one before it with the teacher, and those before that."""
        from weaksam_cli.wsod.mining import multi_seed_pseudo_boxes

        *others, last, _ = (item.detach().softmax(dim=1)[:, 1:] for item in outputs.refinement_logits)
        with_teacher = (outputs.extra["teacher"].softmax(dim=1)[:, 1:] + last) / 2
        settings = self.multi_seed
        return multi_seed_pseudo_boxes(
            self.with_prior(with_teacher, regions),
            [self.with_prior(item, regions) for item in others],
            self.compared(regions.boxes),
            regions.image_labels,
            share=settings.share,
            ratio=settings.ratio,
            iou_threshold=settings.overlap,
            agreement_iou=settings.agreement_iou,
            power=settings.power,
            few=settings.few,
        )

    def scores(self, outputs: Outputs) -> Tensor:
        """Half of the mean of the branches, and half of the teacher."""
        from weaksam_cli.wsod.teacher import test_scores

        branches = [item.softmax(dim=1) for item in outputs.refinement_logits]
        return test_scores(branches, outputs.extra["teacher"].softmax(dim=1))[:, 1:]

    def training_step(
        self, detector: RegionDetector, iterations: int
    ) -> tuple[TrainingStep, dict[str, Stateful]]:
        """The usual step, after which the teacher follows; how far follows from the iteration, and it is in the model."""
        from weaksam_cli.training.loop import Training, optimizer_step
        from weaksam_cli.wsod.teacher import Teacher, following_rate

        teacher = detector.heads.get_submodule("teacher")
        assert isinstance(teacher, Teacher)

        def step(training: Training, batch: Any) -> dict[str, float]:
            losses = optimizer_step(training, batch)
            teacher.follow(detector, following_rate(training.iteration, self.teacher.momentum))
            return losses

        return step, {}


class Recipe(Cbl, RefiningRecipe):
    """CBL on either network."""

    @model_validator(mode="after")
    def _backbone_is_trained(self) -> Self:
        if self.teacher.backbone and not self.network.pools_cells:
            raise ValueError(
                f"teacher.backbone: {self.network.name} is frozen and has no average; expected false"
            )
        return self


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The steps of the network's path; the last makes the detections of the split."""
    return detector_steps(recipe, recipe.part(Cbl), context, split)
