"""MIST of wetectron: many seeds a class, box regression in each branch, Concrete DropBlock (spec 04 §A)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from weaksam_cli.core.settings import Iteration
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.method import BranchWeights, ClassBoxes, Outputs, Regions, Sizes
from weaksam_cli.wsod.oicr import PriorMethod, PriorUse, RefiningRecipe
from weaksam_cli.wsod.settings import HeadSettings, OptimizerSettings
from weaksam_cli.wsod.stage import detector_steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from weaksam_cli.training.loop import Stateful
    from weaksam_cli.training.loop import Step as TrainingStep
    from weaksam_cli.wsod.detector import RegionDetector, RegionHeads
    from weaksam_cli.wsod.mining import Assignment


def odd(value: int) -> int:
    """The number, or a ValueError for an even one."""
    if value % 2 == 0:
        raise ValueError(f"expected an odd number, got {value}")
    return value


class MiningSettings(PriorUse):
    """Pseudo boxes of each branch.

    Attributes:
        share: the top int(R * share) proposals of a class are candidates.
        overlap: candidates whose IoU with a better one is not below it give way.
        foreground_iou: proposals from this IoU with a pseudo box on are foreground.
        branch_weights: of the branches' losses; there are as many branches.
    """

    share: float = Field(default=0.15, gt=0, le=1)
    overlap: float = Field(default=0.2, gt=0, le=1)
    foreground_iou: float = Field(default=0.5, gt=0, lt=1)
    branch_weights: BranchWeights = (3.0, 1.0, 1.0)


class DropBlockSettings(OptimizerSettings):
    """Concrete DropBlock: a small network learns which cells of a RoI to hide, against the detector.

    Attributes:
        gamma: largest probability that a cell is the centre of a hidden block.
        block: cells a side of a hidden block; odd.
        temperature: of the Gumbel softmax.
        loss_weight: the network goes up the detector's loss with this weight.
        decay: see `OptimizerSettings`, of which it has its own; as published, its learning rate grows.
    """

    gamma: float = Field(default=0.3 / 9, gt=0, lt=1)
    block: Annotated[int, Field(ge=1, le=7), AfterValidator(odd)] = 3
    temperature: float = Field(default=0.01, gt=0, le=100)
    loss_weight: float = Field(default=0.01, gt=0, le=100)
    bias_factor: float | None = Field(default=2.0, gt=0, le=100)
    decay: float = Field(default=3.0, gt=0, le=100)
    warmup_iterations: Iteration = 500


class Mist(PriorMethod, ClassBoxes):
    """Two streams and refinement branches with a background column, and boxes for each class.

    Attributes:
        drop_block: null leaves it out.
    """

    method: Literal["mist"] = "mist"
    heads: HeadSettings = HeadSettings(initial_deviation=0.001)
    mining: MiningSettings = MiningSettings()
    drop_block: DropBlockSettings | None = DropBlockSettings()

    @property
    def branches(self) -> int:
        """One for each weight."""
        return len(self.mining.branch_weights)

    def stream_columns(self, class_count: int) -> int:
        """Background first."""
        return class_count + 1

    def modules(self, sizes: Sizes) -> dict[str, nn.Module]:
        """DropBlock's mask network, where there is one."""
        from weaksam_cli.wsod.drop_block import ConcreteDropBlock

        return (
            {}
            if self.drop_block is None
            else {"drop_block": ConcreteDropBlock(self.drop_block, sizes.channels)}
        )

    def outputs(self, heads: RegionHeads, pooled: Tensor, neck: Callable[[Tensor], Tensor]) -> Outputs:
        """In training, of RoIs of which DropBlock hides cells."""
        kept = pooled if self.drop_block is None else heads.get_submodule("drop_block")(pooled)
        return super().outputs(heads, kept, neck)

    def losses(self, outputs: Outputs, regions: Regions) -> dict[str, Tensor]:
        """`loss_img`, and `loss_ref_cls<i>`, `loss_ref_reg<i>` of each branch."""
        from weaksam_cli.wsod.losses import refinement_losses, wsddn_loss_mean, wsddn_scores

        scores = wsddn_scores(outputs.class_logits, outputs.detection_logits)
        return {"loss_img": wsddn_loss_mean(scores, regions.image_labels)} | refinement_losses(
            outputs,
            self.first_source(scores[:, 1:].detach()),
            regions.boxes,
            lambda source: self.mine(self.with_prior(source, regions), regions),
            self.mining.branch_weights,
        )

    def mine(self, source: Tensor, regions: Regions) -> Assignment:
        """What each proposal learns from scores (R, C)."""
        from weaksam_cli.wsod.mining import assign, mist_pseudo_boxes

        settings = self.mining
        pseudo = mist_pseudo_boxes(
            source, regions.boxes, regions.image_labels, share=settings.share, iou_threshold=settings.overlap
        )
        return assign(regions.boxes, pseudo, foreground_iou=settings.foreground_iou)

    def training_step(
        self, detector: RegionDetector, iterations: int
    ) -> tuple[TrainingStep, dict[str, Stateful]]:
        """The usual step, and with DropBlock one of the adversary after it."""
        if self.drop_block is None:
            return super().training_step(detector, iterations)
        from weaksam_cli.wsod.drop_block import Adversary

        adversary = Adversary(detector, self.drop_block, iterations)
        return adversary.step, {"adversary": adversary.optimizer}


class Recipe(Mist, RefiningRecipe):
    """MIST on either network."""

    without_map: ClassVar[Mapping[str, object]] = {"drop_block": None}


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The steps of the network's path; the last makes the detections of the split."""
    return detector_steps(recipe, recipe.part(Mist), context, split)
