"""The stages by name: what each is to the others. Methods of a stage are found by `engine.methods`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache

from weaksam_cli.artifacts.schema import Schema

STAGE_NAMES = ("data", "cam", "prompt", "propose", "wsod", "pgt", "retrain", "eval")
"""All stages, in the order of the pipeline; each is the package `weaksam_cli.<name>`."""


@dataclass(frozen=True)
class Stage:
    """What all methods of a stage share.

    Attributes:
        name: the sub-command, and the package.
        version: rises when the same settings and inputs give other bytes than before.
        folder: where the stage writes, under the run directory.
        artifact: pattern below that folder of what it makes for each split, and that later stages read.
        schema: of that artifact.
        train_only: it works on the training split alone.
    """

    name: str
    version: int
    folder: str
    artifact: str
    schema: Schema
    train_only: bool = False


@cache
def load_stage(name: str) -> Stage:
    """The stage of a name out of `STAGE_NAMES`; its module is imported when it is asked for."""
    stage: Stage = importlib.import_module(f"weaksam_cli.{name}.stage").STAGE
    return stage
