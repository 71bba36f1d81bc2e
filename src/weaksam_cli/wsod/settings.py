"""Settings that all recipes of weakly supervised detection have, whatever their method and network."""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from weaksam_cli.core.settings import Epoch, Iteration, RecipeModel
from weaksam_cli.data.labels import LabelChoice


class ProposalSettings(RecipeModel):
    """Which proposals are used; one of the whole image stands in where none is left.

    Attributes:
        min_side: boxes with a shorter side, in pixels of the image, are left out.
        above: sides must be strictly above `min_side`.
        cell: boxes whose corners, divided by this many pixels, round to the same numbers are duplicates.
        most: at most so many of what is left: those of classification clues first, then by score; null takes all.
    """

    min_side: float = Field(default=20, ge=0, le=100_000)
    above: bool = False
    cell: float = Field(default=1.0, ge=0.001, le=100_000)
    most: int | None = Field(default=None, ge=1, le=1_000_000)


class HeadSettings(RecipeModel):
    """The layers that answer for a RoI.

    Attributes:
        hidden: width of a layer before the heads; 0 puts them on the features themselves.
        dropout: before the heads.
        initial_deviation: of the heads' weights.
        shared: one such layer for the two streams and all branches, as published; otherwise each has its own, so that
            multiple-instance learning, which goes for parts, does not shape what the branches see.
    """

    hidden: int = Field(default=0, ge=0, le=8192)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    initial_deviation: float = Field(default=0.01, gt=0, le=100)
    shared: bool = True


class OptimizerSettings(RecipeModel):
    """How fast some weights learn.

    Attributes:
        learning_rate: after the warm-up.
        bias_factor: learning rate of biases relative to it, and they do not decay; null leaves them alone.
        weight_decay: of the other weights.
        warmup_iterations: linear rise to the learning rate.
        milestones, decay: the learning rate is multiplied by `decay` at these iterations.
    """

    learning_rate: float = Field(default=1e-5, gt=0, le=100)
    bias_factor: float | None = Field(default=None, gt=0, le=100)
    weight_decay: float = Field(default=5e-4, ge=0, le=100)
    warmup_iterations: Iteration = 200
    milestones: tuple[Annotated[Iteration, Field(ge=1)], ...] = Field(default=(), max_length=100)
    decay: float = Field(default=0.1, gt=0, le=100)


class ScheduleSettings(OptimizerSettings):
    """How long and how fast; milestones are epochs where the length is given in epochs.

    Attributes:
        iterations: optimiser steps; null where the length is given in epochs.
        epochs: passes over the training images, as an alternative to `iterations`.
        batch_size: images a step.
        images_at_once: of them in memory together; gradients add up over the step. 0 takes them all.
        refinement_factor: learning rate of the refinement branches, biases too, relative to it; null leaves them alone.
        momentum: of stochastic gradient descent; null trains by Adam.
        warmup_factor: share of the learning rate that the warm-up rises from.
        cosine: the learning rate falls to zero along half a cosine; there are no milestones then.
        mixed_precision: float16, on CUDA only; refused on a CPU.
    """

    iterations: Annotated[Iteration, Field(ge=1)] | None = None
    epochs: Annotated[Epoch, Field(ge=1)] | None = None
    batch_size: int = Field(default=8, ge=1, le=256)
    images_at_once: int = Field(default=0, ge=0, le=256)
    refinement_factor: float | None = Field(default=None, gt=0, le=100)
    momentum: float | None = Field(default=None, ge=0, lt=1)
    warmup_factor: float = Field(default=0.001, ge=0, le=1)
    cosine: bool = False
    mixed_precision: bool = False

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.iterations is None) == (self.epochs is None):
            raise ValueError("expected iterations or epochs, and not both")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones: expected increasing numbers, got {list(self.milestones)}")
        if self.cosine and self.milestones:
            raise ValueError("expected a cosine or milestones, and not both")
        return self

    def resolved(self, images: int) -> Self:
        """The schedule for so many training images, all of it in iterations; an epoch ends with a whole step."""
        if self.epochs is None:
            return self
        steps = math.ceil(images / self.batch_size)
        milestones = tuple(epoch * steps for epoch in self.milestones)
        return self.model_copy(
            update={"iterations": self.epochs * steps, "epochs": None, "milestones": milestones}
        )

    @property
    def steps(self) -> int:
        """Optimiser steps of a resolved schedule."""
        if self.iterations is None:
            raise ValueError("the schedule is given in epochs: resolve it first")
        return self.iterations


class InferenceSettings(RecipeModel):
    """From scores of proposals to detections.

    Attributes:
        nms: IoU above which the lower of two boxes of a class goes.
        inclusive: that IoU takes corners as inclusive pixel indexes and does not count the last pixel, as torchvision's does
            with the published codes' boxes; otherwise corners are pixel edges.
        detections: at most so many of an image.
        score_threshold: detections must score strictly above.
    """

    nms: float = Field(default=0.3, gt=0, le=1)
    inclusive: bool = False
    detections: int = Field(default=100, ge=1, le=10_000)
    score_threshold: float = Field(default=0.0, ge=0, le=1e6)


class DetectorSettings(LabelChoice):
    """What every detector is told, whatever its method and network are."""

    proposals: ProposalSettings = ProposalSettings()
    schedule: ScheduleSettings
    inference: InferenceSettings = InferenceSettings()
