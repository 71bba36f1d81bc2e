"""`weaksam propose`: images and point prompts become class-agnostic proposals. Here is what its methods share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from weaksam_cli.artifacts import Artifact, open_artifact
from weaksam_cli.artifacts.computed import Rows
from weaksam_cli.artifacts.points import POINTS, read_points
from weaksam_cli.artifacts.proposals import PROPOSALS, SOURCES, Proposals, Source, proposals_to_rows
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.console import Console
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Points
from weaksam_cli.data.image_names import stem
from weaksam_cli.data.labels import Split
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.predictors import Overlapped
from weaksam_cli.engine.sharded import SHARD_IMAGES, ImageByImage, PerImage
from weaksam_cli.engine.stages import Stage
from weaksam_cli.engine.steps import Step
from weaksam_cli.errors import ImageError, UserError

STAGE = Stage("propose", 3, "proposals", "{split}.h5", PROPOSALS)

ClueSource = Literal["coarse", "fine", "cross"]
ClueSources = Annotated[tuple[ClueSource, ...], Field(max_length=3)]
Propose = Callable[[NDArray[np.uint8], Mapping[Source, Points]], Proposals]
"""The proposals of one image, uint8 RGB (H, W, 3), from its points by source; a source without points may be missing."""
Build = Callable[[Any, Any, str], Propose]
"""A function of a method's module: from its recipe, the file of its weights (or None) and a torch device to what computes an
image. Worker processes import it, and call it once each, so it is where networks and heavy libraries are loaded."""

MOST_BOXES: Final = 10_000
"""That a recipe can ask for, of an image."""
MOST_PIXELS: Final = 4_000_000
"""Of an image as a method without a network looks at it."""
_LEAST_SHARDS = 32
"""A small folder is cut finer than a dataset, so that many processes have something to do; a shard costs 60 ms of disk."""


class ClueSettings(RecipeModel):
    """Prompts from classification clues.

    Attributes:
        sources: which kinds of peak points prompt; with none of them the `prompt` stage is not needed.
        first_mask: keep the first of the three masks, too; the published code keeps the other two.
        class_groups: kinds whose points of one class also make one prompt together.
    """

    sources: ClueSources = ("coarse", "fine", "cross")
    first_mask: bool = False
    class_groups: ClueSources = ("coarse", "fine")


def proposal_steps(
    recipe: RecipeModel,
    context: Context,
    split: str,
    build: Build,
    *,
    prompted_by: Sequence[ClueSource] = (),
    weights: Path | None = None,
    uses_torch: bool = False,
) -> Iterator[Step]:
    """The one step of every method: proposals of all images of a split.

    Args:
        recipe: the method's recipe, all of which decides the result.
        context: what the command was told.
        split: of the dataset.
        build: see `Build`.
        prompted_by: kinds of points that prompt; without any, the artifact of `prompt` is not read.
        weights: the file of the network, where it has one.
        uses_torch: the method runs on the device of `--device`; the others run on the CPU.
    """
    inputs = {"data": context.run.input("data", split)}
    if prompted_by:
        inputs["prompt"] = context.run.input("prompt", split)
    if weights:
        inputs["weights"] = weights

    def work(context: Context) -> PerImage:
        images = context.split(split)
        prompts = context.rows("prompt", split) if prompted_by else None
        keys = images.read().keys
        ids = match_prompts(prompts, keys, context.console) if prompts else {}
        device = context.worker_device() if uses_torch else "cpu"
        predictor = ProposalPredictor(
            images, prompts, ids, tuple(prompted_by), build, recipe, weights, device
        )
        part = SHARD_IMAGES if context.unlabelled is None else max(len(keys) // _LEAST_SHARDS, 1)
        part, tables = min(part, SHARD_IMAGES), {"source_names": SOURCES}
        return PerImage(PROPOSALS, keys, predictor, "proposals", tables, shard_images=part, device=device)

    path, run = context.run.output("propose", split), ImageByImage(work)
    yield Step(path, PROPOSALS, split, recipe, inputs, run, "proposals")


@dataclass(frozen=True)
class ProposalPredictor:
    """Proposals of one image.

    Attributes:
        images: labels and folder of the images.
        prompts: the points; None for none.
        ids: key of an image -> its id in `prompts`; an image without points there has no entry.
        sources: kinds of points that prompt.
        build, recipe, weights, device: see `proposal_steps`.
    """

    images: Split
    prompts: Rows | None
    ids: Mapping[str, str]
    sources: tuple[ClueSource, ...]
    build: Build
    recipe: RecipeModel
    weights: Path | None
    device: str

    def open(self) -> Overlapped[NDArray[np.uint8]]:
        """Load the segmenter and open the prompts once a process."""
        labels = self.images.read()
        images = labels.by_key()
        prompts = open_artifact(self.prompts, POINTS, verify=False) if self.prompts else None
        propose = self.build(self.recipe, self.weights, self.device)

        def load(key: str) -> NDArray[np.uint8]:
            return labels.read_image(images[key])

        def compute(key: str, image: NDArray[np.uint8]) -> ImageRows:
            height, width = image.shape[:2]
            points: Mapping[Source, Points] = {}
            if prompts is not None and key in self.ids:
                points = self._points(prompts, self.ids[key], (height, width))
            return proposals_to_rows(propose(image, points), (height, width))

        return Overlapped(load, compute)

    def _points(self, prompts: Artifact, image_id: str, size: tuple[int, int]) -> Mapping[Source, Points]:
        height, width = prompts.image_value(image_id, "image_size").tolist()
        if (height, width) != size:
            raise ImageError(
                f"its points are those of an image of {width} x {height} pixels, it has {size[1]} x {size[0]}",
                where=f"{self.prompts}, image {image_id}",
            )
        found = read_points(prompts, image_id)
        return {source: found[source] for source in self.sources if source in found}


def match_prompts(path: Rows, keys: Sequence[str], console: Console) -> dict[str, str]:
    """Key of an image -> its id in the points of `path`; says so where some images have none, or other names.

    Raises:
        UserError: the file has points of none of the images.
    """
    with open_artifact(path, POINTS) as points:
        ids = points.image_ids
    matched = match_keys(keys, ids)
    if not matched and keys:
        example = repr(ids[0]) if ids else "none at all"
        raise UserError(
            f"holds points of none of these images: its images are called like {example}, the images like {keys[0]!r}",
            where=str(path),
            remedy="A key or a file name that occurs once on both sides makes a match; give the points of these images",
        )
    count, by_key = len(matched), sum(key == image_id for key, image_id in matched.items())
    if by_key < len(keys):
        by_name, others = count - by_key, "" if count == len(keys) else "; the others get no clue prompts"
        console.info(
            f"points of {path}: {count} of {len(keys)} images have some ({by_key} by key, {by_name} by file name){others}",
            prompted=count,
            by_key=by_key,
            by_name=by_name,
        )
    return matched


def match_keys(keys: Sequence[str], ids: Sequence[str]) -> dict[str, str]:
    """Key of an image -> id of an artifact.

    An image with the very key goes first. Of what is left, an image and an id belong together when they have the same
    `stem` and no other image and no other id of either side has it: where names are not unique nothing is guessed.
    """
    known = set(ids)
    matched = {key: key for key in keys if key in known}
    stems = Counter(map(stem, keys))
    owners = Counter(map(stem, ids))
    by_stem = {stem(image_id): image_id for image_id in ids}
    for key in keys:
        name = stem(key)
        if key not in matched and stems[name] == owners[name] == 1:
            matched[key] = by_stem[name]
    return matched
