"""Faster R-CNN with RoI drop (paper, supplement section 3; spec 06 A)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.retrain.both import BothSettings
from weaksam_cli.retrain.choice import ChoiceSettings
from weaksam_cli.retrain.rcnn import RcnnSettings
from weaksam_cli.retrain.settings import InferenceSettings
from weaksam_cli.retrain.stage import train_then_detect


class ModelSettings(RcnnSettings):
    """What decides the model."""

    method: Literal["faster_rcnn"] = "faster_rcnn"


class Recipe(ModelSettings, InferenceSettings, BothSettings, ChoiceSettings):
    """Training on pseudo ground truth, detection with the trained model, and what is handed over."""


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The model, from the training split; then the detections of this split, and the choice by its labels."""
    return train_then_detect(
        recipe.part(ModelSettings),
        recipe.part(InferenceSettings),
        recipe.part(BothSettings),
        recipe.part(ChoiceSettings),
        context,
        split,
    )
