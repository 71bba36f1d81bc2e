"""Mask2Former on pseudo instance labels (paper, supplement section 6; spec 06 C).

The decoders, the matching and the losses are those of `transformers`, an optional extra (`weaksam-cli[hf]`); the backbones,
the augmentation and the training are those of the other detectors. No RoIs, so no RoI drop, as published.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.retrain.both import BothSettings
from weaksam_cli.retrain.choice import ChoiceSettings
from weaksam_cli.retrain.mask2former.settings import Jitter, Segmenter
from weaksam_cli.retrain.settings import DetectorSettings, InferenceSettings, TrainImages
from weaksam_cli.retrain.stage import train_then_detect
from weaksam_cli.retrain.transformers_parts import require_transformers


class JitteredImages(TrainImages):
    """Augmentation of the training images: large-scale jitter, and `flip`."""

    jitter: Jitter = Jitter()


class ModelSettings(DetectorSettings):
    """What decides the model.

    Attributes:
        initial_weights: a checkpoint of a whole Mask2Former in the layout of `transformers` or of its authors, of which is
            taken what fits; null: the decoders start from random weights.
        segmenter: the layers above the backbone.
    """

    learns_masks: ClassVar[bool] = True
    method: Literal["mask2former"] = "mask2former"
    initial_weights: Annotated[str, Field(min_length=1)] | None = None
    segmenter: Segmenter = Segmenter()
    train_images: JitteredImages

    def detectron_keys(self) -> dict[str, Any]:
        """All of this in detectron2's configuration, the schedule apart: key -> value."""
        side = self.train_images.jitter.side
        keys = {
            "MODEL.MASK_ON": True,
            "MODEL.METHOD.NAME": self.method,
            "MODEL.METHOD.SETTINGS": self.segmenter.model_dump(),
            "INPUT.MASK_FORMAT": "bitmask",
            # An image fits into the square at a scale of 1.
            "INPUT.MIN_SIZE_TRAIN": (side,),
            "INPUT.MAX_SIZE_TRAIN": side,
        }
        return super().detectron_keys() | keys

    def augmentations(self, cfg: Any) -> list[Any]:
        """detectron2's augmentations of the training images."""
        from detectron2.data.transforms import RandomFlip

        jitter = self.train_images.jitter.augmentations()
        return [*jitter, RandomFlip()] if self.train_images.flip else jitter

    def initial_file(self) -> str | None:
        """See `DetectorSettings.initial_file`."""
        return self.initial_weights

    def load_initial(self, network: Any, path: Path) -> str:
        """See `DetectorSettings.load_initial`."""
        from weaksam_cli.retrain.mask2former.weights import load_initial

        return load_initial(network, path)


class Recipe(ModelSettings, InferenceSettings, ChoiceSettings):
    """Training on pseudo instance labels, detection with the trained model, and whether it is handed over."""

    @model_validator(mode="after")
    def _looks_once(self) -> Self:
        if self.inference.augment:
            raise ValueError(
                "inference.augment: Mask2Former looks at an image once, expected false, got true"
            )
        return self


def check_installed() -> None:
    """Look for what this method needs beyond the installation, before the first stage of a run and not after a day.

    Raises:
        UserError: `transformers` is not installed.
    """
    require_transformers("mask2former")


def register_network() -> None:
    """Make detectron2 know `WeakSamMask2Former`.

    Raises:
        UserError: `transformers` is not installed.
    """
    check_installed()
    from weaksam_cli.retrain.mask2former import network  # noqa: F401


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The model, from the training split; then boxes and masks of this split, and the choice by its labels.

    Raises:
        UserError: transformers, or the initial weights, are not there.
    """
    check_installed()
    return train_then_detect(
        recipe.part(ModelSettings),
        recipe.part(InferenceSettings),
        BothSettings(),  # WSOD has no masks
        recipe.part(ChoiceSettings),
        context,
        split,
    )
