"""How long and how fast a detector learns: said in iterations, or in epochs and shares, which fit any number of images."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from weaksam_cli.core.settings import Iteration, RecipeModel, Weight

Fraction = Annotated[float, Field(ge=0, le=1)]
_Iterations = Annotated[Iteration, Field(ge=1)]


class Schedule(RecipeModel):
    """How long and how fast the detector learns.

    Attributes:
        iterations: optimiser steps; null when `epochs` is given.
        epochs: passes over the images with pseudo boxes, as an alternative to `iterations`.
        min_iterations: with `epochs`: at least so many steps, however few images there are.
        batch_size: images of a step.
        images_at_once: the gradients of a batch add up over parts of so many images, for a small GPU; 0 takes all at once.
        optimizer: `sgd` with momentum (published), or `adamw`, which learns faster in a short training.
        learning_rate: after the warm-up.
        backbone_factor: factor on the learning rate of the backbone's own layers (not of the pyramid).
        decay: `steps` multiplies by `gamma` at each milestone; `cosine` falls to zero at the end.
        milestones: iterations of the steps.
        milestone_shares: the same as shares of all iterations, in place of `milestones`.
        gamma: factor of a step.
        warmup_iterations: linear rise from `warmup_factor` of the learning rate.
        warmup_share: the same as a share of all iterations, in place of `warmup_iterations`.
        warmup_factor: where the rise begins.
        momentum, weight_decay: of the optimiser; adamw has its usual moments (0.9, 0.999) instead of the momentum.
        undecayed: what the weight decay leaves out: `norm` (normalisation layers), `bias`, `embedding`; null: normalisation
            layers, with adamw also biases.
        gradient_clip: largest norm of the gradient; 0 does not clip.
        mixed_precision: float16, on CUDA only; refused on a CPU.
    """

    iterations: _Iterations | None = None
    epochs: Annotated[float, Field(gt=0, le=10_000)] | None = None
    min_iterations: _Iterations | None = None
    batch_size: Annotated[int, Field(ge=1, le=256)]
    images_at_once: Annotated[int, Field(ge=0, le=256)] = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, le=100)]
    backbone_factor: Annotated[float, Field(ge=0, le=100)] = 1.0
    decay: Literal["steps", "cosine"] = "steps"
    milestones: tuple[_Iterations, ...] = Field(default=(), max_length=100)
    milestone_shares: Annotated[tuple[Fraction, ...], Field(max_length=100)] | None = None
    gamma: Annotated[float, Field(gt=0, le=100)] = 0.1
    warmup_iterations: Iteration = 0
    warmup_share: Fraction | None = None
    warmup_factor: Fraction = 0.001
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 1e-4
    undecayed: Annotated[tuple[Literal["norm", "bias", "embedding"], ...], Field(max_length=3)] | None = None
    gradient_clip: Weight = 0.0
    mixed_precision: bool = False

    @property
    def steps(self) -> int:
        """Optimiser steps of a resolved schedule."""
        if self.iterations is None:
            raise ValueError("the schedule is given in epochs: resolve the recipe first")
        return self.iterations

    @property
    def without_decay(self) -> tuple[str, ...]:
        """`undecayed`, or what stands for null."""
        if self.undecayed is not None:
            return self.undecayed
        return ("norm", "bias") if self.optimizer == "adamw" else ("norm",)

    def resolved(self, images: int) -> Self:
        """The schedule for so many training images: all lengths in iterations."""
        by_epochs = math.ceil((self.epochs or 0) * images / self.batch_size)
        steps = self.iterations or max(by_epochs, self.min_iterations or 1)
        update: dict[str, Any] = {"iterations": steps, "epochs": None, "min_iterations": None}
        if self.warmup_share is not None:
            update |= {"warmup_iterations": round(self.warmup_share * steps), "warmup_share": None}
        if self.milestone_shares is not None:
            milestones = tuple(round(share * steps) for share in self.milestone_shares)
            update |= {"milestones": milestones, "milestone_shares": None}
        return self.model_copy(update=update)

    def in_words(self, images: int) -> str:
        """A line about a resolved schedule over so many images."""
        epochs = self.steps * self.batch_size / images
        rate = "falls along a cosine"
        if self.decay == "steps":
            at = ", ".join(map(str, self.milestones))
            rate = f"is multiplied by {self.gamma:g} at {at}" if at else "stays"
        return (
            f"{self.steps} iterations of {self.batch_size} images ({epochs:.1f} epochs of {images}), "
            f"warm-up of {self.warmup_iterations}, then the learning rate {rate}"
        )

    @model_validator(mode="after")
    def _one_length_and_its_milestones(self) -> Self:
        if (self.iterations is None) == (self.epochs is None):
            raise ValueError("expected iterations or epochs, and not both")
        if self.min_iterations is not None and self.epochs is None:
            raise ValueError("min_iterations: it belongs to epochs, got iterations")
        if self.epochs is not None and self.milestones:
            raise ValueError("milestones: they are iterations, got epochs, which take milestone_shares")
        if self.warmup_iterations and self.warmup_share is not None:
            raise ValueError("expected warmup_iterations or warmup_share, and not both")
        if self.milestones and self.milestone_shares is not None:
            raise ValueError("expected milestones or milestone_shares, and not both")
        for name in ("milestones", "milestone_shares"):
            places = list(getattr(self, name) or ())
            if places != sorted(set(places)):
                raise ValueError(f"{name}: expected increasing values, got {places}")
            if self.decay == "cosine" and places:
                raise ValueError(f"{name}: they belong to decay: steps, got decay: cosine")
        return self
