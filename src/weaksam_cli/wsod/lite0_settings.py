"""Settings of `network: lite0`: what its recipes say, and what decides each of its artifacts.

They are read without torch, by the recipes and by the modules that compute.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SerializeAsAny

from weaksam_cli.core.settings import Epoch, RecipeModel, Side
from weaksam_cli.data.labels import LabelChoice
from weaksam_cli.wsod.method import Method
from weaksam_cli.wsod.settings import InferenceSettings, ProposalSettings, ScheduleSettings

POOLED_CHANNELS = 2 * 1280
"""Of lite0's last map, inside a RoI and against its surroundings."""
Thresholds = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1, max_length=20)]


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

    short_side: Side = 480
    cells: int = Field(default=120, ge=2, le=10_000)
    foreground: float = Field(default=0.5, gt=0, lt=1)
    background: float = Field(default=0.2, gt=0, lt=1)
    hidden: int = Field(default=128, ge=1, le=4096)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    epochs: Annotated[Epoch, Field(ge=1)] = 6
    learning_rate: float = Field(default=2e-3, gt=0, le=100)
    folds: int = Field(default=3, ge=2, le=10)


class RoiSettings(RecipeModel):
    """RoI features.

    Attributes:
        samples: RoIs of a training image that the principal components are fitted to.
        components: principal components of the pooled features that are kept.
        context_scale: the box around a RoI whose features are subtracted, relative to the RoI.
        grid: cells a side of the grid of dense probabilities over the RoI.
        grid_scale: extent of that grid, relative to the RoI.
    """

    samples: int = Field(default=32, ge=1, le=2_000)
    components: int = Field(default=256, ge=1, le=POOLED_CHANNELS)
    context_scale: float = Field(default=1.6, gt=1, le=100)
    grid: int = Field(default=5, ge=1, le=14)
    grid_scale: float = Field(default=5 / 3, ge=1, le=100)


class PriorSettings(RecipeModel):
    """Class maps as a prior: IoU of a proposal with the box of the map's largest component.

    Attributes:
        thresholds: of the normalised map; the IoUs are averaged.
        floor: added to the prior before its power is taken.
        weight: power of the prior in the score at test; 0 leaves it out.
    """

    thresholds: Thresholds = (0.2, 0.3, 0.4, 0.5, 0.6)
    floor: float = Field(default=0.02, gt=0, lt=1)
    weight: float = Field(default=1.0, ge=0, le=100)


class FeatureSettings(RecipeModel):
    """What decides the features of images and proposals."""

    proposals: ProposalSettings
    dense: DenseSettings
    features: RoiSettings

    def feature_size(self, class_count: int) -> int:
        """D: projected pooled features, and the grid of probabilities with background."""
        return min(self.features.components, POOLED_CHANNELS) + (class_count + 1) * self.features.grid**2


class SampleSettings(LabelChoice, FeatureSettings):
    """What decides the feature model."""


class RegionSettings(FeatureSettings):
    """What decides features and prior of every proposal."""

    prior_thresholds: Thresholds


class TrainingSettings(LabelChoice):
    """What decides the detector, besides its regions."""

    method: SerializeAsAny[Method]
    grid: int
    prior_floor: float
    schedule: ScheduleSettings


class DetectionSettings(RecipeModel):
    """What decides the detections, besides detector and regions."""

    method: SerializeAsAny[Method]
    prior: PriorSettings
    image_score_weight: float
    inference: InferenceSettings
