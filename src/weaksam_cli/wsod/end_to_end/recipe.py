"""What can be said about MIST and OICR on VGG16; the defaults are MIST's on VOC07 (spec 04 §A)."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from weaksam_cli.engine.recipes import RecipeModel


def _each_once(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) != len(values):
        raise ValueError("expected each size once")
    return values


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"expected an odd number, got {value}")
    return value


Side = Annotated[int, Field(ge=32)]
Sides = Annotated[tuple[Side, ...], Field(min_length=1), AfterValidator(_each_once)]
Share = Annotated[float, Field(ge=0, le=1)]
_OICR_SIDES = (488, 576, 688, 864, 1200)
Width = Annotated[int, Field(ge=1)]
Colour = tuple[float, float, float]
Deviation = Annotated[float, Field(gt=0)]


class ProposalSettings(RecipeModel):
    """Which proposals are used; one of the whole image stands in where none is left.

    Attributes:
        min_side: boxes with a shorter side, in pixels of the image, are left out.
        above: sides must be strictly above `min_side`.
        cell: boxes whose corners, divided by this many pixels, round to the same numbers are duplicates.
        most: at most so many of what is left, in the order of the artifact; null takes all.
    """

    min_side: float = Field(default=20, ge=0)
    above: bool = False
    cell: float = Field(default=1.0, gt=0)
    most: int | None = Field(default=None, ge=1)


class PixelSettings(RecipeModel):
    """What the network is shown of a pixel; it has to fit the initial weights.

    Attributes:
        order: of the channels.
        mean: taken from the channels in that order, 0 to 255.
        deviation: they are divided by it afterwards.
    """

    order: Literal["BGR", "RGB"] = "BGR"
    mean: Colour = (102.9801, 115.9465, 122.7717)
    deviation: tuple[Deviation, Deviation, Deviation] = (1.0, 1.0, 1.0)


class TrainImageSettings(RecipeModel):
    """How training images are changed.

    Attributes:
        short_sides: one is drawn for every view; length of the shorter side in pixels.
        max_size: of the longer side, which has the last word.
        flip: probability of the mirror image.
        lighting: deviation of the noise along the principal components of ImageNet's colours (AlexNet), pixels 0 to 1; 0 for
            none.
    """

    short_sides: Sides = (480, 576, 688, 864, 1000, 1200)
    max_size: int = Field(default=2000, ge=32)
    flip: Share = 0.5
    lighting: float = Field(default=0.1, ge=0)


class NetworkSettings(RecipeModel):
    """VGG16 with a stride of 8, and RoI pooling.

    Attributes:
        widths: channels of the five blocks of convolutions; others than VGG16's start from random weights alone.
        hidden: width of the two layers after RoI pooling; likewise.
        ceil_mode: pooling keeps incomplete windows at the right and bottom.
        last_relu: after conv5_3; the published MIST leaves it out.
        frozen_blocks: blocks of convolutions, from the image on, that keep their weights; 0 to 5.
        dropout: after each of the two layers of the neck.
        initial_deviation: of the heads' weights.
    """

    widths: tuple[Width, Width, Width, Width, Width] = (64, 128, 256, 512, 512)
    hidden: int = Field(default=4096, ge=1)
    ceil_mode: bool = False
    last_relu: bool = False
    frozen_blocks: int = Field(default=2, ge=0, le=5)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    initial_deviation: float = Field(default=0.001, gt=0)


class DropBlockSettings(RecipeModel):
    """Concrete DropBlock: a small network learns which cells of a RoI to hide, against the detector.

    Attributes:
        gamma: largest probability that a cell is the centre of a hidden block.
        block: cells a side of a hidden block; odd.
        temperature: of the Gumbel softmax.
        loss_weight: the network goes up the detector's loss with this weight.
        learning_rate, weight_decay: of its own Adam.
        milestones, decay: its learning rate is multiplied by `decay` at these iterations (published: 3, it grows).
        warmup_iterations: linear rise.
    """

    gamma: float = Field(default=0.3 / 9, gt=0, lt=1)
    block: Annotated[int, Field(ge=1), AfterValidator(_odd)] = 3
    temperature: float = Field(default=0.01, gt=0)
    loss_weight: float = Field(default=0.01, gt=0)
    learning_rate: float = Field(default=1e-5, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    decay: float = Field(default=3.0, gt=0)
    warmup_iterations: int = Field(default=500, ge=0)


class ScheduleSettings(RecipeModel):
    """How long and how fast.

    Attributes:
        iterations: optimiser steps; null where the length is given in epochs.
        epochs: passes over the training images, as an alternative to `iterations`.
        batch_size: images a step.
        pictures_at_once: of them in memory together; gradients add up over the step. The published runs had 2 on a GPU.
        learning_rate: of Adam.
        bias_factor: learning rate of biases relative to it; they do not decay.
        refinement_factor: learning rate of the refinement branches, biases too, relative to it; null leaves them alone.
        weight_decay: of the other weights.
        warmup_iterations, warmup_factor: linear rise from this share of the learning rate.
        milestones, decay: the learning rate is multiplied by `decay` at these iterations, or after these epochs where the
            length is given in epochs.
        mixed_precision: float16, on CUDA only; refused on a CPU.
        checkpoint_period: iterations between checkpoints.
    """

    iterations: int | None = Field(default=None, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=8, ge=1)
    images_at_once: int = Field(default=2, ge=1)
    learning_rate: float = Field(default=1e-5, gt=0)
    bias_factor: float = Field(default=2.0, gt=0)
    refinement_factor: float | None = Field(default=None, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    warmup_iterations: int = Field(default=200, ge=0)
    warmup_factor: float = Field(default=1 / 3, ge=0, le=1)
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    decay: float = Field(default=0.1, gt=0)
    mixed_precision: bool = False
    checkpoint_period: int = Field(default=1000, ge=1)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.iterations is None) == (self.epochs is None):
            raise ValueError("expected iterations or epochs, and not both")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones: expected increasing numbers, got {list(self.milestones)}")
        return self

    def resolved(self, images: int) -> Self:
        """The schedule for so many training images, all of it in iterations."""
        if self.epochs is None:
            return self
        steps = images / self.batch_size
        changes = {
            "iterations": max(1, math.ceil(self.epochs * steps)),
            "epochs": None,
            "milestones": tuple(max(1, round(epoch * steps)) for epoch in self.milestones),
        }
        return self.model_copy(update=changes)

    @property
    def steps(self) -> int:
        """Optimiser steps of a resolved schedule."""
        if self.iterations is None:
            raise ValueError("the schedule is given in epochs: resolve it first")
        return self.iterations


class InferenceSettings(RecipeModel):
    """From views of an image to detections.

    Attributes:
        short_sides: a view each; boxes and scores are averaged over the views.
        max_size: of the longer side.
        flip: every view mirrored, too.
        nms: IoU above which the lower of two boxes of a class goes.
        detections: at most so many of an image.
        score_threshold: detections must score strictly above.
    """

    short_sides: Sides = (800, 480, 576, 688, 864, 1000, 1200)
    max_size: int = Field(default=2000, ge=32)
    flip: bool = True
    nms: float = Field(default=0.3, gt=0, le=1)
    detections: int = Field(default=100, ge=1)
    score_threshold: float = Field(default=0.0, ge=0)


class MistMiningSettings(RecipeModel):
    """Pseudo boxes of MIST.

    Attributes:
        share: the top int(R * share) proposals of a class are candidates.
        overlap: candidates whose IoU with a better one is not below it give way.
        foreground_iou: proposals from this IoU with a pseudo box on are foreground.
        branch_weights: of the losses of the three branches.
    """

    share: float = Field(default=0.15, gt=0, le=1)
    overlap: float = Field(default=0.2, gt=0, le=1)
    foreground_iou: float = Field(default=0.5, gt=0, lt=1)
    branch_weights: tuple[float, float, float] = (3.0, 1.0, 1.0)


class OicrMiningSettings(RecipeModel):
    """Pseudo boxes of OICR as in the published fork.

    Attributes:
        ratio: seeds score at least this share of the class's best.
        nms: IoU above which seeds give way.
        class_wise: suppress within a class only; the published code may lose a class's only seed to another class.
        foreground_iou: proposals from this IoU with a seed on are foreground.
        branch_weights: of the losses of the three branches.
    """

    ratio: float = Field(default=0.9, gt=0, le=1)
    nms: float = Field(default=0.5, gt=0, le=1)
    class_wise: bool = False
    foreground_iou: float = Field(default=0.5, gt=0, lt=1)
    branch_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)


class VggRecipe(RecipeModel):
    """What both methods share.

    Attributes:
        weights: file name of VGG16 trained on ImageNet, or its path; `random` for none.
        weights_order: order of the channels that the file was trained with, which has to be that of `pixels`; `auto` is
            told by the layout of the file: torchvision's is RGB, Caffe's BGR.
    """

    method: str
    weights: str = "vgg16-00b39a1b.pth"
    weights_order: Literal["auto", "BGR", "RGB"] = "auto"
    proposals: ProposalSettings = ProposalSettings()
    pixels: PixelSettings = PixelSettings()
    train_images: TrainImageSettings = TrainImageSettings()
    network: NetworkSettings = NetworkSettings()
    schedule: ScheduleSettings
    inference: InferenceSettings = InferenceSettings()


class MistRecipe(VggRecipe):
    """MIST: top-share seeds, class-specific box regression in three branches, Concrete DropBlock.

    Attributes:
        drop_block: null leaves it out.
    """

    method: Literal["mist-vgg16"] = "mist-vgg16"
    mining: MistMiningSettings = MistMiningSettings()
    drop_block: DropBlockSettings | None = DropBlockSettings()


class OicrRecipe(VggRecipe):
    """OICR of the WSOD2 fork, whose values on VOC07 are the defaults: seeds near the best score, no regression."""

    method: Literal["oicr-vgg16"] = "oicr-vgg16"
    proposals: ProposalSettings = ProposalSettings(above=True, cell=8)
    pixels: PixelSettings = PixelSettings(mean=(104, 117, 124))
    train_images: TrainImageSettings = TrainImageSettings(short_sides=_OICR_SIDES, lighting=0)
    network: NetworkSettings = NetworkSettings(
        ceil_mode=True, last_relu=True, frozen_blocks=0, initial_deviation=0.01
    )
    inference: InferenceSettings = InferenceSettings(short_sides=_OICR_SIDES, flip=False)
    mining: OicrMiningSettings = OicrMiningSettings()
