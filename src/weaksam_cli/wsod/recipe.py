"""What can be said about the embedded weakly supervised detectors."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from weaksam_cli.engine.recipes import RecipeModel


class ProposalSettings(RecipeModel):
    """Which proposals are used.

    Attributes:
        min_side: boxes with a shorter side, in pixels, are left out.
        most: at most so many of an image, in the order of the artifact; null takes all.
    """

    min_side: float = Field(default=12, ge=0)
    most: int | None = Field(default=300, ge=1)


class DenseSettings(RecipeModel):
    """The dense classifier: cells of an image learn the class that the fine maps show there, or background.

    Attributes:
        short_side: the images' shorter side when features are taken.
        cells: training cells of an image, half foreground, half background.
        foreground: normalised maps above it make a cell foreground.
        background: below it, background.
        hidden, dropout, epochs, learning_rate: of the two-layer perceptron.
        folds: classifiers that leave out a part of the training images, so that RoI features of a training image come
            from one that has not seen it.
    """

    short_side: int = Field(default=480, ge=32)
    cells: int = Field(default=120, ge=2)
    foreground: float = Field(default=0.5, gt=0, lt=1)
    background: float = Field(default=0.2, gt=0, lt=1)
    hidden: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    epochs: int = Field(default=6, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    folds: int = Field(default=3, ge=2, le=10)


class FeatureSettings(RecipeModel):
    """RoI features.

    Attributes:
        samples: RoIs of a training image that the principal components are fitted to.
        components: principal components of the pooled features that are kept.
        context_scale: the box around a RoI whose features are subtracted, relative to the RoI.
        grid: cells a side of the grid of dense probabilities over the RoI.
        grid_scale: extent of that grid, relative to the RoI.
    """

    samples: int = Field(default=32, ge=1)
    components: int = Field(default=256, ge=1)
    context_scale: float = Field(default=1.6, gt=1)
    grid: int = Field(default=5, ge=1)
    grid_scale: float = Field(default=5 / 3, ge=1)


class PriorSettings(RecipeModel):
    """Class maps as a prior: IoU of a proposal with the box of the map's largest component.

    Attributes:
        thresholds: of the normalised map; the IoUs are averaged.
        floor: added to the prior before its power is taken.
        mining_weight: power of the prior in mining; 0 leaves class maps out.
        first: what the first branch is mined from: `multiply` WSDDN's scores by the prior, or the `prior` alone.
    """

    thresholds: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5, 0.6)
    floor: float = Field(default=0.02, gt=0, lt=1)
    mining_weight: float = Field(default=1.0, ge=0)
    first: Literal["multiply", "prior"] = "prior"


class MiningSettings(RecipeModel):
    """Pseudo boxes of each branch.

    Attributes:
        ratio: seeds score at least this share of the class's best; 1 takes the best alone.
        nms: IoU above which seeds give way.
        class_wise: suppress within a class only; the published code may lose a class's only seed to another class.
        foreground_iou: proposals from this IoU with a seed on are foreground.
        weights: `score` weighs a proposal by its seed's score, as published; `balanced` gives foreground and background
            fixed shares of an image's loss.
        foreground_share: foreground's share with `balanced`.
    """

    ratio: float = Field(default=1.0, gt=0, le=1)
    nms: float = Field(default=0.5, gt=0, le=1)
    class_wise: bool = True
    foreground_iou: float = Field(default=0.5, gt=0, lt=1)
    weights: Literal["score", "balanced"] = "balanced"
    foreground_share: float = Field(default=0.25, gt=0, lt=1)


class HeadSettings(RecipeModel):
    """The heads.

    Attributes:
        refinements: branches of OICR; 0 is WSDDN.
        hidden: width of a layer before the heads; 0 puts them on the features themselves.
        shared: one such layer for the two streams of WSDDN and all branches, as published; otherwise each has its own, so
            that multiple-instance learning, which goes for parts, does not shape what the branches see.
        dropout: before the heads.
        initial_deviation: of the heads' weights.
    """

    refinements: int = Field(default=3, ge=0, le=8)
    hidden: int = Field(default=128, ge=0)
    shared: bool = False
    dropout: float = Field(default=0.3, ge=0, lt=1)
    initial_deviation: float = Field(default=0.01, gt=0)


class ScheduleSettings(RecipeModel):
    """How long and how fast.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: of Adam, falling to zero by a cosine.
        weight_decay: of Adam.
        warmup_iterations: linear rise.
        checkpoint_period: iterations between checkpoints.
    """

    epochs: int = Field(default=12, ge=1)
    batch_size: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_iterations: int = Field(default=50, ge=0)
    checkpoint_period: int = Field(default=500, ge=1)


class InferenceSettings(RecipeModel):
    """From scores to detections.

    Attributes:
        prior_weight: power of the class-map prior in the score; 0 leaves it out.
        image_score_weight: power of the image's class probability in the score.
        nms: IoU above which the lower of two boxes of a class goes.
        detections: at most so many of an image.
        score_threshold: detections must score strictly above.
    """

    prior_weight: float = Field(default=1.0, ge=0)
    image_score_weight: float = Field(default=1.0, ge=0)
    nms: float = Field(default=0.3, gt=0, le=1)
    detections: int = Field(default=100, ge=1)
    score_threshold: float = Field(default=0.0, ge=0)


class RegionDetectorRecipe(RecipeModel):
    """OICR or WSDDN over RoI features of frozen lite0."""

    method: Literal["oicr", "wsddn"]
    proposals: ProposalSettings = ProposalSettings()
    dense: DenseSettings = DenseSettings()
    features: FeatureSettings = FeatureSettings()
    prior: PriorSettings = PriorSettings()
    mining: MiningSettings = MiningSettings()
    heads: HeadSettings = HeadSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    inference: InferenceSettings = InferenceSettings()

    @model_validator(mode="after")
    def _branches_fit_the_method(self) -> Self:
        branches = self.heads.refinements
        if (self.method == "wsddn") != (branches == 0):
            wanted = "0" if self.method == "wsddn" else "1 or more"
            raise ValueError(f"heads.refinements: method {self.method} needs {wanted}, got {branches}")
        return self
