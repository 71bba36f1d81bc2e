"""What can be said about DINO with query drop (published configurations: spec 06, table B.5)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from weaksam_cli.core.settings import Iteration, RecipeModel, Weight
from weaksam_cli.retrain.schedule import Fraction
from weaksam_cli.retrain.settings import DetectorSettings, LongSide, ResizedImages, Sides

_Layers = Annotated[int, Field(ge=1, le=24)]
CropSide = Annotated[int, Field(ge=32, le=8192)]


class QueryDrop(RecipeModel):
    """Query drop regularisation (supplement section 3, Tables 2 and 3; spec 06 B.4).

    Attributes:
        mode: whose queries are dropped: `things` (foreground; the paper's best), `background`, `both`; `off` drops none.
        tau: percentile above which a query's normalised binary cross-entropy drops it; 100 drops none.
        start_iteration: first iteration with drop, 0-based.
        start_share: the same as a share of the schedule; where it is given, `start_iteration` is not used.
        gather: the batch of the normalisation and of the percentile is that of all processes of torch.distributed.
    """

    mode: Literal["off", "things", "background", "both"] = "things"
    tau: Annotated[int, Field(ge=1, le=100)] = 90
    start_iteration: Iteration = 0
    start_share: Fraction | None = None
    gather: bool = False

    def active(self, iteration: int) -> bool:
        """True when queries are dropped in `iteration`; it depends on nothing else, so it survives a resume."""
        return self.mode != "off" and iteration >= self.start_iteration

    def resolved(self, iterations: int) -> Self:
        """The same for a schedule of so many iterations."""
        if self.start_share is None:
            return self
        start = round(self.start_share * iterations)
        return self.model_copy(update={"start_iteration": start, "start_share": None})


class Network(RecipeModel):
    """The layers above the backbone.

    Attributes:
        first_level: finest map that is looked at, of stride 4 (2) to 32 (5).
        levels: number of maps; those beyond the backbone's are made by convolutions of stride 2.
        channels: of maps and queries.
        heads: of all attention.
        points: that a head looks at on a map.
        encoder_layers, decoder_layers: of the transformer.
        feedforward: width of the two layers behind each attention.
        dropout: of the transformer, in training.
        queries: boxes that the decoder refines.
        temperature: of the sines that tell a place on a map.
    """

    first_level: Literal[2, 3, 4, 5] = 3
    levels: Annotated[int, Field(ge=1, le=6)] = 4
    channels: Annotated[int, Field(ge=16, le=1024, multiple_of=16)] = 256
    heads: Annotated[int, Field(ge=1, le=64)] = 8
    points: Annotated[int, Field(ge=1, le=32)] = 4
    encoder_layers: _Layers = 6
    decoder_layers: _Layers = 6
    feedforward: Annotated[int, Field(ge=1, le=8192)] = 2048
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    queries: Annotated[int, Field(ge=1, le=2000)] = 900
    temperature: Annotated[float, Field(ge=1, le=1e6)] = 20.0

    @model_validator(mode="after")
    def _heads_share_the_channels(self) -> Self:
        if self.channels % self.heads:
            raise ValueError(f"heads: expected a divisor of the {self.channels} channels, got {self.heads}")
        return self


class Denoising(RecipeModel):
    """Contrastive denoising: queries of noisy boxes and classes that are to become their objects again, or nothing.

    Attributes:
        queries: for each image, about so many positive and as many negative ones; 0: none.
        label_noise: share of them whose class is another; half of it is drawn.
        box_noise: how far an edge moves, in halves of the box's side; negative ones move once more.
    """

    queries: Annotated[int, Field(ge=0, le=2000)] = 100
    label_noise: Fraction = 0.5
    box_noise: Annotated[float, Field(ge=0, le=10)] = 1.0


class LossWeights(RecipeModel):
    """Weights of the losses, or of the costs of the matching.

    Attributes:
        classes: focal loss, gamma 2 and alpha 0.25.
        l1: distance of centre, width and height, as shares of the image.
        giou: 1 less the generalised IoU.
    """

    classes: Weight
    l1: Weight = 5.0
    giou: Weight = 2.0


class ModelPart(RecipeModel):
    """What the network keeps in its file.

    Attributes:
        transformer: the layers above the backbone.
        denoising: in training.
        losses: their weights.
        matching: weights of the costs by which queries are matched with objects.
        query_drop: which queries do not teach.
    """

    transformer: Network = Network()
    denoising: Denoising = Denoising()
    losses: LossWeights = LossWeights(classes=1.0)
    matching: LossWeights = LossWeights(classes=2.0)
    query_drop: QueryDrop = QueryDrop()


class DinoImages(ResizedImages):
    """Augmentation of the training images, as mmdetection has it.

    Attributes:
        crop: half of the images are resized to one of `crop_short_sides`, cut, and resized again.
        crop_short_sides: before the cut.
        crop_sides: least and largest side of the cut.
        crop_max_size: largest longer side before the cut.
    """

    crop: bool = False
    crop_short_sides: Sides = (400, 500, 600)
    crop_sides: tuple[CropSide, CropSide] = (384, 600)
    crop_max_size: LongSide = 4200

    @model_validator(mode="after")
    def _least_then_largest(self) -> Self:
        if self.crop_sides[0] > self.crop_sides[1]:
            raise ValueError(f"crop_sides: expected the least and the largest, got {list(self.crop_sides)}")
        return self


class DinoSettings(DetectorSettings, ModelPart):
    """All that decides how DINO is trained on pseudo ground truth.

    Attributes:
        initial_weights: a published DINO (the authors' layout or mmdetection's) that the whole detector starts from; what
            does not fit, such as the layers of other classes, keeps its random weights. Null: the backbone's weights alone.
    """

    train_images: DinoImages
    initial_weights: Annotated[str, Field(min_length=1)] | None = None

    def resolved(self, images: int) -> Self:
        """The settings for so many training images: epochs and shares as iterations."""
        settings = super().resolved(images)
        drop = self.query_drop.resolved(settings.schedule.steps)
        return settings.model_copy(update={"query_drop": drop})

    def in_words(self, images: int) -> str:
        """A line about how the resolved settings train on so many images."""
        drop = self.query_drop
        words = f"; query drop ({drop.mode}, tau {drop.tau}) from iteration {drop.start_iteration}"
        return super().in_words(images) + (words if drop.mode != "off" else "")

    def initial_file(self) -> str | None:
        """See `DetectorSettings.initial_file`."""
        return self.initial_weights

    def load_initial(self, network: Any, path: Path) -> str:
        """See `DetectorSettings.load_initial`."""
        from weaksam_cli.retrain.dino.weights import load_initial

        return load_initial(network, path)

    def augmentations(self, cfg: Any) -> list[Any]:
        """detectron2's augmentations of the training images."""
        from detectron2.data.transforms import AugmentationList, RandomApply, RandomCrop, ResizeShortestEdge

        images, usual = self.train_images, super().augmentations(cfg)
        if not images.crop:
            return usual
        resized = ResizeShortestEdge(images.crop_short_sides, images.crop_max_size, "choice")
        cut = AugmentationList([resized, RandomCrop("absolute_range", images.crop_sides)])
        return [RandomApply(cut, prob=0.5), *usual]

    def configure(self, cfg: Any) -> None:
        """Take the maps of the backbone that the transformer looks at, and keep what the network reads."""
        from detectron2.config import CfgNode

        network = self.transformer
        first = network.first_level - 2
        cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.RESNETS.OUT_FEATURES[first : first + network.levels]
        cfg.MODEL.METHOD.NAME = "dino"
        cfg.MODEL.METHOD.SETTINGS = CfgNode(self.part(ModelPart).model_dump(mode="json"))
