"""What can be said about class activation maps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from weaksam_cli.recipes import RecipeModel

Side = Annotated[int, Field(ge=32)]


class HeadSettings(RecipeModel):
    """The multi-label head.

    Attributes:
        short_side: the training pictures' shorter side.
        flip: learn from the mirrored pictures, too.
        penalty: weight of the squared norm of the weights.
        iterations: most L-BFGS iterations.
    """

    short_side: Side = 320
    flip: bool = True
    penalty: float = Field(default=5e-3, ge=0)
    iterations: int = Field(default=60, ge=1)


class FineTuneSettings(RecipeModel):
    """Training of the backbone's last stages with the head, before the final head is fitted.

    Attributes:
        epochs: passes over the training pictures; 0 keeps the backbone frozen.
        stages: how many of the backbone's seven stages learn, counted from the end, besides its last convolution.
        batch_size: pictures a step.
        learning_rate: of AdamW, cosine to zero.
        weight_decay: of AdamW.
    """

    epochs: int = Field(default=0, ge=0)
    stages: int = Field(default=1, ge=0, le=7)
    batch_size: int = Field(default=16, ge=2)
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)


class FineSettings(RecipeModel):
    """Fine maps: the coarse ones spread over cells with similar features.

    Attributes:
        threshold: cosines of cells up to it count for nothing.
        power: above 1 it favours the most similar cells.
        rounds: how often the maps are multiplied by the affinity.
    """

    threshold: float = Field(default=0.2, lt=1)
    power: float = Field(default=2.0, gt=0)
    rounds: int = Field(default=2, ge=0)


class Lite0Recipe(RecipeModel):
    """EfficientNet-Lite0 with a linear head; maps at several sizes with their mirror images.

    Attributes:
        head: the classifier.
        fine_tune: training of the backbone; off as it stands.
        short_sides: sizes of the pictures whose maps are made, the largest last.
        fine: how fine maps are made.
        label_source: whose classes get maps: `auto` takes labels in training splits and predictions in others.
        predicted_threshold: probability from which a class is predicted; the best class always is.
    """

    method: Literal["lite0"] = "lite0"
    head: HeadSettings = HeadSettings()
    fine_tune: FineTuneSettings = FineTuneSettings()
    short_sides: Annotated[tuple[Side, ...], Field(min_length=1)] = (320, 480)
    fine: FineSettings = FineSettings()
    label_source: Literal["auto", "given", "predicted"] = "auto"
    predicted_threshold: float = Field(default=0.3776, gt=0, lt=1)
