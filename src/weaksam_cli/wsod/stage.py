"""`weaksam wsod`: train a weakly supervised detector on image-level labels, then detect with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

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
        without_map: settings of the method, dotted, that take a map of the image to pool from, with what each is to be on a
            network that has none.
        without_prior: the same of those that take a prior of class maps.
    """

    network: Annotated[Lite0 | Vgg16, Field(discriminator="name")]
    without_map: ClassVar[Mapping[str, object]] = {}
    without_prior: ClassVar[Mapping[str, object]] = {}

    @model_validator(mode="after")
    def _network_has_what_they_take(self) -> Self:
        network = self.network
        for has, what, settings in (
            (network.pools_cells, "map of the image to pool cells from", self.without_map),
            (network.knows_prior, "prior of class maps", self.without_prior),
        ):
            for name, off in settings.items():
                if not has and attrgetter(name)(self) != off:
                    raise ValueError(f"{name}: {network.name} has no {what}; expected {json.dumps(off)}")
        return self


def detector_steps(recipe: DetectorRecipe, method: Method, context: Context, split: str) -> Iterator[Step]:
    """The steps of a method on the network that the recipe names: the detector, from the training split; then the detections
    of this split."""
    settings = recipe.part(DetectorSettings)
    yield from evidence_steps(settings, method, context, split)
    yield from recipe.network.steps(settings, method, context, split)
