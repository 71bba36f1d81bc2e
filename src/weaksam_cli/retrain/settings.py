"""What can be said about a detector of detectron2 that is trained on pseudo ground truth, shared by all such methods."""

from __future__ import annotations

from functools import cache, reduce
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from weaksam_cli.core.settings import RecipeModel, Side, read_yaml_mapping, stages_folder
from weaksam_cli.retrain.schedule import Fraction, Schedule

Count = Annotated[int, Field(ge=1, le=100_000)]
Width = Annotated[int, Field(ge=1, le=4096)]
Sides = Annotated[tuple[Side, ...], Field(min_length=1, max_length=50)]
LongSide = Annotated[int, Field(ge=32, le=8192)]
Ratio = Annotated[float, Field(ge=0.01, le=100)]
_PIXELS: Final = {
    "imagenet_rgb": ("RGB", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    "msra_bgr": ("BGR", [103.53, 116.28, 123.675], [1.0, 1.0, 1.0]),
}


@cache
def read_network(name: str) -> dict[str, Any]:
    """`stages/retrain/networks/NAME.yaml`: `base` and `detectron2`, and what a recipe may choose (`allows`)."""
    return read_yaml_mapping(stages_folder() / "retrain" / "networks" / f"{name}.yaml")


def keys_of(settings: RecipeModel) -> dict[str, Any]:
    """The fields that have a key in detectron2's configuration, which stands in their types: key -> value."""
    return {
        key: getattr(settings, name)
        for name, field in type(settings).model_fields.items()
        for key in field.metadata
        if isinstance(key, str)
    }


class Backbone(RecipeModel):
    """What extracts features.

    Attributes:
        weights: `imagenet` (lite: the installed package), `random`, or a file: detectron2's R-50.pkl, a torchvision
            ResNet-50 as .pth or .safetensors.
        freeze_at: lite: 1 freezes the stem, k + 1 also the first k of seven stages; ResNet-50: detectron2's FREEZE_AT.
        norm: `frozen` for pretrained weights; `batch` is needed when a ResNet-50 starts from random weights.
        pixels: `imagenet_rgb` (RGB, mean and deviation) or `msra_bgr` (BGR, mean only), as the weights were trained.
    """

    weights: Annotated[str, "MODEL.BACKBONE.WEIGHTS"] = "imagenet"
    freeze_at: Annotated[int, Field(ge=0, le=8), "MODEL.BACKBONE.FREEZE_AT"] = 4
    norm: Literal["frozen", "batch"] = "frozen"
    pixels: Annotated[Literal["imagenet_rgb", "msra_bgr"], "MODEL.BACKBONE.PIXELS"] = "imagenet_rgb"


class TrainImages(RecipeModel):
    """The training images, whatever their size becomes.

    Attributes:
        flip: mirror half of the images.
        keep_empty: train also on images without pseudo boxes, as background.
        min_size: images with a smaller side are left out, pixels.
        min_box: pseudo boxes with a smaller side are left out, pixels.
    """

    flip: bool = True
    keep_empty: bool = False
    min_size: Annotated[int, Field(ge=0, le=8192)] = 0
    min_box: Annotated[int, Field(ge=0, le=8192)] = 0


class ResizedImages(TrainImages):
    """Training images of several sizes.

    Attributes:
        short_sides: an image's shorter side becomes one of these, drawn for each image and step.
        max_size: largest longer side.
    """

    short_sides: Annotated[Sides, "INPUT.MIN_SIZE_TRAIN"]
    max_size: Annotated[LongSide, "INPUT.MAX_SIZE_TRAIN"]


class Inference(RecipeModel):
    """Prediction with the trained detector.

    Attributes:
        short_side, max_size: size of the images.
        score_threshold: detections below are left out.
        nms: IoU above which the lower of two detections of a class is suppressed.
        detections: at most so many for each image.
        augment: run at all `augment_short_sides`, flipped too with `augment_flip`, and unite the detections.
        augment_short_sides, augment_max_size, augment_flip: the test-time augmentation.
    """

    short_side: Side
    max_size: LongSide
    score_threshold: Annotated[Fraction, "MODEL.ROI_HEADS.SCORE_THRESH_TEST"] = 0.05
    nms: Annotated[Fraction, "MODEL.ROI_HEADS.NMS_THRESH_TEST"] = 0.5
    detections: Annotated[Count, "TEST.DETECTIONS_PER_IMAGE"] = 100
    augment: Annotated[bool, "TEST.AUG.ENABLED"] = False
    augment_short_sides: Annotated[Sides, "TEST.AUG.MIN_SIZES"] = (480, 576, 688, 864, 1000, 1800)
    augment_max_size: Annotated[LongSide, "TEST.AUG.MAX_SIZE"] = 2000
    augment_flip: Annotated[bool, "TEST.AUG.FLIP"] = True


class InferenceSettings(RecipeModel):
    """All that decides the detections of a trained model, which knows its own network."""

    inference: Inference


class DetectorSettings(RecipeModel):
    """What decides how a detector is trained on pseudo ground truth, whatever its network.

    Attributes:
        network: a file of `stages/retrain/networks`.
        learns_masks: whether the pseudo ground truth has to have masks; of the method, not of a recipe.
    """

    learns_masks: ClassVar[bool] = False
    network: str
    backbone: Backbone = Backbone()
    schedule: Schedule
    train_images: TrainImages

    def resolved(self, images: int) -> Self:
        """The settings for so many training images: epochs and shares as iterations."""
        return self.model_copy(update={"schedule": self.schedule.resolved(images)})

    def in_words(self, images: int) -> str:
        """A line about how the resolved settings train on so many images."""
        return self.schedule.in_words(images)

    def detectron_keys(self) -> dict[str, Any]:
        """All of this in detectron2's configuration, the schedule apart: key -> value."""
        order, mean, deviation = _PIXELS[self.backbone.pixels]
        keys = {
            "INPUT.FORMAT": order,
            "INPUT.RANDOM_FLIP": "horizontal" if self.train_images.flip else "none",
            "MODEL.PIXEL_MEAN": mean,
            "MODEL.PIXEL_STD": deviation,
            "MODEL.RESNETS.NORM": "FrozenBN" if self.backbone.norm == "frozen" else "BN",
            # MSRA's ResNet strides in the 1x1 convolution of a block, torchvision's in the 3x3.
            "MODEL.RESNETS.STRIDE_IN_1X1": self.backbone.pixels == "msra_bgr",
        }
        return keys_of(self.backbone) | keys_of(self.train_images) | keys

    def initial_file(self) -> str | None:
        """The checkpoint of a whole network that the training starts from, by name; None: of the backbone alone."""
        return None

    def load_initial(self, network: Any, path: Path) -> str:
        """Load what fits of that checkpoint into a new network; returns what did and what did not, for people.

        Raises:
            UserError: the file is damaged or of another network.
        """
        raise NotImplementedError

    def configure(self, cfg: Any) -> None:
        """Change what depends on several keys of detectron2's configuration, after all of `detectron_keys` are set."""

    def augmentations(self, cfg: Any) -> list[Any]:
        """detectron2's augmentations of the training images."""
        from detectron2.data.detection_utils import build_augmentation

        augmentations: list[Any] = build_augmentation(cfg, is_train=True)
        return augmentations

    @field_validator("network")
    @classmethod
    def _is_there(cls, name: str) -> str:
        name = name.removeprefix("faster-rcnn-")  # as it was called before Mask R-CNN had the same networks
        names = sorted(path.stem for path in (stages_folder() / "retrain" / "networks").glob("*.yaml"))
        if name not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return name

    @model_validator(mode="after")
    def _fits_the_network(self) -> Self:
        for key, allowed in read_network(self.network).get("allows", {}).items():
            value = reduce(getattr, key.split("."), self)
            if value not in allowed:
                choice = ", ".join(str(item).lower() for item in allowed)
                raise ValueError(f"{key}: {self.network} takes {choice} only, got {str(value).lower()}")
        return self
