"""What can be said about Mask2Former above its backbone, and about its training images."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from weaksam_cli.core.settings import RecipeModel, Side, Weight
from weaksam_cli.retrain.schedule import Fraction
from weaksam_cli.retrain.settings import Width

_Layers = Annotated[int, Field(ge=1, le=32)]


class Segmenter(RecipeModel):
    """The layers above the backbone and their losses (Cheng et al. 2022; published values: spec 06, table C).

    Attributes:
        queries: most objects of an image.
        channels: of the pixel decoder, the queries and the masks' embedding; the group normalisation has 32 groups.
        heads: of all attention; they divide `channels`.
        pixel_layers: of deformable attention over strides 32, 16 and 8.
        pixel_feedforward: width of their feed-forward part.
        decoder_layers: of masked attention, which take the three strides in turn.
        feedforward: width of their feed-forward part.
        points: of each mask that are looked at by the losses and by the matching.
        oversample: so many times more are drawn, of which the least certain are taken,
        importance: as this share of the points; the rest is drawn anywhere.
        class_weight, mask_weight, dice_weight: of the losses, and of the matching's costs.
        no_object_weight: of a query without object in the classification loss.
    """

    queries: Annotated[int, Field(ge=1, le=1000)] = 100
    channels: Annotated[Width, Field(multiple_of=32)] = 256
    heads: Annotated[int, Field(ge=1, le=64)] = 8
    pixel_layers: _Layers = 6
    pixel_feedforward: Width = 1024
    decoder_layers: _Layers = 9
    feedforward: Width = 2048
    points: Annotated[int, Field(ge=16, le=100_000)] = 12544
    oversample: Annotated[float, Field(ge=1, le=10)] = 3.0
    importance: Fraction = 0.75
    class_weight: Weight = 2.0
    mask_weight: Weight = 5.0
    dice_weight: Weight = 5.0
    no_object_weight: Weight = 0.1

    @model_validator(mode="after")
    def _heads_divide_the_channels(self) -> Self:
        if self.channels % self.heads:
            raise ValueError(f"heads: expected a divisor of channels ({self.channels}), got {self.heads}")
        return self


Scale = Annotated[float, Field(ge=0.01, le=10)]


class Jitter(RecipeModel):
    """Large-scale jitter (Ghiasi et al. 2021): an image is made to fit a square of side * scale, then cut or padded to side.

    Attributes:
        side: of the square, in pixels.
        least, most: bounds of the scale, drawn for each image and step.
    """

    side: Side = 1024
    least: Scale = 0.1
    most: Scale = 2.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least: expected at most {self.most} (most), got {self.least}")
        return self

    def augmentations(self) -> list[Any]:
        """In detectron2's words."""
        from detectron2.data.transforms import FixedSizeCrop, ResizeScale, Transform

        class KeepAPixel(ResizeScale):
            """Very long images keep a pixel of their short side, which detectron2 rounds to 0."""

            def _get_resize(self, image: Any, scale: float) -> Transform:
                resize = super()._get_resize(image, scale)
                resize.new_h, resize.new_w = max(resize.new_h, 1), max(resize.new_w, 1)
                return resize

        return [
            KeepAPixel(self.least, self.most, self.side, self.side),
            FixedSizeCrop((self.side, self.side)),
        ]
