"""`weaksam wsod`: train a weakly supervised detector on image-level labels, then detect with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from weaksam_cli.data.detections import RESULTS
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.stages import Stage
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.evidence import evidence_steps
from weaksam_cli.wsod.lite0 import Lite0
from weaksam_cli.wsod.method import Method
from weaksam_cli.wsod.settings import DetectorSettings
from weaksam_cli.wsod.vgg16 import Vgg16

STAGE = Stage(name="wsod", version=2, folder="wsod", artifact="detections/{split}.json", schema=RESULTS)


class DetectorRecipe(DetectorSettings):
    """What recipes of all methods have besides the method's own.

    Attributes:
        network: what gives RoI features, in training and at test; its `name` chooses.
    """

    network: Annotated[Lite0 | Vgg16, Field(discriminator="name")]


def detector_steps(recipe: DetectorRecipe, method: Method, context: Context, split: str) -> Iterator[Step]:
    """The steps of a method on the network that the recipe names: the detector, from the training split; then the detections
    of this split."""
    settings = recipe.part(DetectorSettings)
    yield from evidence_steps(settings, method, context, split)
    yield from recipe.network.steps(settings, method, context, split)
