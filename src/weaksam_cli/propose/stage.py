"""`weaksam propose`: images and point prompts become class-agnostic proposals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import numpy as np

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.artifacts.shards import MergeCount
from weaksam_cli.execution import ImageFunction
from weaksam_cli.formats import POINTS, PROPOSALS, read_points
from weaksam_cli.labels import read_labels
from weaksam_cli.pipeline import Context, Job, Product, ShardedMaker
from weaksam_cli.propose.methods import build
from weaksam_cli.propose.proposals import SOURCES, Proposals, Source
from weaksam_cli.propose.recipe import ProposeRecipe, RegionTreeRecipe, SamRecipe
from weaksam_cli.recipes import RecipeModel
from weaksam_cli.source import image_root
from weaksam_cli.structures.types import Points


def proposals_to_rows(proposals: Proposals, image_size: tuple[int, int]) -> ImageRows:
    """Proposals of one picture as rows of an artifact."""
    counts = proposals.counts or [b""] * len(proposals)
    return ImageRows(
        columns={
            "boxes": proposals.boxes,
            "source": proposals.source,
            "prompt": proposals.prompt,
            "mask_token": proposals.mask_token,
            "predicted_iou": proposals.predicted_iou,
            "stability": proposals.stability,
        },
        image={"image_size": np.asarray(image_size, np.int32)},
        blobs={"masks": [np.frombuffer(item, np.uint8) for item in counts]},
    )


@dataclass(frozen=True)
class ProposeWork:
    """Proposals of one image."""

    labels: Path
    image_root: Path
    prompts: Path
    recipe: ProposeRecipe
    weights: Path | None
    device: str

    def open(self) -> ImageFunction:
        """Load the segmenter and open the prompts once a process."""
        labels = read_labels(self.labels, self.image_root)
        images = labels.by_key()
        prompts = open_artifact(self.prompts, POINTS, verify=False)
        propose = build(self.recipe, self.weights, self.device)

        def function(image_id: str) -> ImageRows:
            image = labels.read_image(images[image_id])
            points = cast(dict[Source, Points], read_points(prompts, image_id))
            return proposals_to_rows(propose(image, points), image.shape[:2])

        return function


class ProposeStage:
    """Class-agnostic boxes."""

    name: ClassVar[str] = "propose"
    version: ClassVar[int] = 1
    train_only: ClassVar[bool] = False
    recipe_types: ClassVar[Mapping[str, type[RecipeModel]]] = {
        "sam": SamRecipe,
        "region-tree": RegionTreeRecipe,
    }

    def products(self, recipe: ProposeRecipe, context: Context, split: str) -> Iterator[Product]:
        """One artifact a split."""
        inputs = {"data": context.run.input("data", split), "prompt": context.run.input("prompt", split)}
        if isinstance(recipe, SamRecipe):
            inputs["weights"] = context.weights.require(recipe.weights)

        def make(job: Job) -> MergeCount:
            with open_artifact(inputs["prompt"], POINTS) as prompts:
                ids = prompts.image_ids
            root = image_root(context.run.root, context.source())
            device = context.torch_device() if isinstance(recipe, SamRecipe) else "cpu"
            work = ProposeWork(inputs["data"], root, inputs["prompt"], recipe, inputs.get("weights"), device)
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


STAGE = ProposeStage()
