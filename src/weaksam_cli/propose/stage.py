"""`weaksam propose`: images and point prompts become class-agnostic proposals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.points import POINTS, read_points
from weaksam_cli.artifacts.proposals import PROPOSALS, SOURCES, Source, proposals_to_rows
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.artifacts.shards import Outcome as MergeCount
from weaksam_cli.core.types import Points
from weaksam_cli.data.labels import read_labels
from weaksam_cli.data.source import image_root
from weaksam_cli.engine.execution import Overlapped
from weaksam_cli.engine.legacy import Context, Job, Product, ShardedMaker
from weaksam_cli.engine.recipes import RecipeModel
from weaksam_cli.engine.stages import Stage
from weaksam_cli.propose.methods import build
from weaksam_cli.propose.recipe import ProposeRecipe, RegionTreeRecipe, SamRecipe, SelectiveSearchRecipe


@dataclass(frozen=True)
class ProposeWork:
    """Proposals of one image; `prompts` is None for a method that is not prompted."""

    labels: Path
    image_root: Path
    prompts: Path | None
    recipe: ProposeRecipe
    weights: Path | None
    device: str

    def open(self) -> Overlapped[NDArray[np.uint8]]:
        """Load the segmenter and open the prompts once a process."""
        labels = read_labels(self.labels, self.image_root)
        images = labels.by_key()
        prompts = None if self.prompts is None else open_artifact(self.prompts, POINTS, verify=False)
        propose = build(self.recipe, self.weights, self.device)

        def load(image_id: str) -> NDArray[np.uint8]:
            return labels.read_image(images[image_id])

        def compute(image_id: str, image: NDArray[np.uint8]) -> ImageRows:
            found = {} if prompts is None else read_points(prompts, image_id)
            points = cast(dict[Source, Points], found)
            return proposals_to_rows(propose(image, points), image.shape[:2])

        return Overlapped(load, compute)


def _image_ids(inputs: Mapping[str, Path], root: Path) -> Sequence[str]:
    """The prompted images, or all of the split for a method that is not prompted."""
    if "prompt" not in inputs:
        return read_labels(inputs["data"], root).keys
    with open_artifact(inputs["prompt"], POINTS) as prompts:
        return prompts.image_ids


class ProposeStage:
    """Class-agnostic boxes."""

    name: ClassVar[str] = "propose"
    version: ClassVar[int] = 2
    train_only: ClassVar[bool] = False
    recipe_types: ClassVar[Mapping[str, type[RecipeModel]]] = {
        "sam": SamRecipe,
        "region-tree": RegionTreeRecipe,
        "selective-search": SelectiveSearchRecipe,
    }

    def products(self, recipe: ProposeRecipe, context: Context, split: str) -> Iterator[Product]:
        """One artifact a split."""
        inputs = {"data": context.run.input("data", split)}
        if not isinstance(recipe, SelectiveSearchRecipe):
            inputs["prompt"] = context.run.input("prompt", split)
        if isinstance(recipe, SamRecipe):
            inputs["weights"] = context.weights.require(recipe.weights)

        def make(job: Job) -> MergeCount:
            root = image_root(context.run.root, context.source())
            ids = _image_ids(inputs, root)
            device = context.torch_device() if isinstance(recipe, SamRecipe) else "cpu"
            work = ProposeWork(
                inputs["data"], root, inputs.get("prompt"), recipe, inputs.get("weights"), device
            )
            tables = {"source_names": SOURCES}
            return ShardedMaker(PROPOSALS, ids, work, "proposals", tables, device=device)(job)

        yield Product(
            path=context.run.output("propose", split),
            format_name=PROPOSALS.name,
            format_version=PROPOSALS.version,
            split=split,
            recipe=recipe.model_dump(mode="json"),
            inputs=inputs,
            make=make,
            what="proposals",
        )


LEGACY = ProposeStage()
STAGE = Stage("propose", 2, "proposals", "{split}.h5", PROPOSALS)
