"""DINO with query drop (Zhang et al. 2022; supplement section 3; spec 06 B)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.retrain.both import BothSettings
from weaksam_cli.retrain.choice import ChoiceSettings
from weaksam_cli.retrain.dino.settings import DinoSettings, QueryDrop
from weaksam_cli.retrain.settings import InferenceSettings
from weaksam_cli.retrain.stage import train_then_detect
from weaksam_cli.retrain.transformers_parts import require_transformers


class ModelSettings(DinoSettings):
    """What decides the model."""

    method: Literal["dino"] = "dino"


class Recipe(ModelSettings, InferenceSettings, BothSettings, ChoiceSettings):
    """Training on pseudo ground truth, detection with the trained model, and what is handed over."""


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The model, from the training split; then the detections of this split, and the choice by its labels.

    Raises:
        UserError: transformers, or the initial weights, are not there.
    """
    check_installed()
    return train_then_detect(
        recipe.part(ModelSettings),
        recipe.part(InferenceSettings),
        recipe.part(BothSettings),
        recipe.part(ChoiceSettings),
        context,
        split,
    )


def check_installed() -> None:
    """Look for what this method needs beyond the installation, before the first stage of a run and not after a day.

    Raises:
        UserError: `transformers` is not installed.
    """
    require_transformers("dino")


def percentile_of(cfg: Any) -> int:
    """The percentile of query drop of a trained model, for the analysis of its losses."""
    return QueryDrop(**cfg.MODEL.METHOD.SETTINGS.query_drop).tau


def register_network() -> None:
    """Make detectron2 know `WeakSamDino`.

    Raises:
        UserError: `transformers` is not installed.
    """
    check_installed()
    from weaksam_cli.retrain.dino import model  # noqa: F401
