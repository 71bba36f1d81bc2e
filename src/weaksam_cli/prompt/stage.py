"""`weaksam prompt`: class activation maps become peak points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps, cam_schema, fuse_scales, read_class_maps
from weaksam_cli.artifacts.points import POINTS, points_to_rows
from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.artifacts.shards import Outcome as MergeCount
from weaksam_cli.core.types import Points
from weaksam_cli.engine.execution import ImageFunction
from weaksam_cli.engine.legacy import Context, Job, Product, ShardedMaker
from weaksam_cli.engine.recipes import RecipeModel
from weaksam_cli.engine.stages import Stage
from weaksam_cli.prompt.cluster import cluster_points
from weaksam_cli.prompt.peaks import points_from_maps
from weaksam_cli.prompt.recipe import KindSettings, PeaksRecipe


def open_cam(path: Path, *, verify: bool = True) -> Artifact:
    """Open a `cam` artifact, whatever its number of classes."""
    return open_artifact(path, cam_schema(0), verify=verify)


def points_of_kind(maps: ClassMaps, kind: int, settings: KindSettings) -> Points:
    """Peaks of the fused maps of one kind."""
    fused = fuse_scales(maps, kind, *maps.image_size)
    if fused is None:
        return Points.empty()
    return points_from_maps(
        fused,
        maps.classes(),
        window=settings.window,
        threshold=settings.threshold,
        max_points=settings.max_points,
        emit_fillers=settings.emit_fillers,
    )


def prompts_of_image(maps: ClassMaps, recipe: PeaksRecipe, seed: int) -> list[tuple[int, Points]]:
    """(kind, points) of one image in the order of the published concatenation: coarse, fine, cross."""
    settings = {"coarse": recipe.coarse, "fine": recipe.fine, "cross": recipe.cross}
    parts = []
    for kind, name in enumerate(KINDS):
        chosen = settings[name]
        if chosen is None:
            continue
        points = points_of_kind(maps, kind, chosen)
        if name == "cross" and recipe.cluster.enabled and (maps.kind == kind).any():
            points = cluster_points(
                points,
                within_class=recipe.cluster.within_class,
                fallback_point=recipe.cluster.fallback_point,
                points_per_cluster=recipe.cluster.points_per_cluster,
                seed=seed,
            )
        parts.append((kind, points))
    return parts


@dataclass(frozen=True)
class PromptWork:
    """Points of one image from its maps."""

    cam: Path
    recipe: PeaksRecipe
    seed: int

    def open(self) -> ImageFunction:
        """Open the maps once a process."""
        artifact = open_cam(self.cam, verify=False)

        def function(image_id: str) -> ImageRows:
            maps = read_class_maps(artifact, image_id)
            return points_to_rows(prompts_of_image(maps, self.recipe, self.seed), maps.image_size)

        return function


class PromptStage:
    """Peak points of the maps."""

    name: ClassVar[str] = "prompt"
    version: ClassVar[int] = 1
    train_only: ClassVar[bool] = False
    recipe_types: ClassVar[Mapping[str, type[RecipeModel]]] = {"peaks": PeaksRecipe}

    def products(self, recipe: PeaksRecipe, context: Context, split: str) -> Iterator[Product]:
        """One artifact a split."""
        cam = context.run.input("cam", split)

        def make(job: Job) -> MergeCount:
            with open_cam(cam) as artifact:
                ids = artifact.image_ids
                tables = {"class_names": artifact.table("class_names"), "kind_names": list(KINDS)}
            work = PromptWork(cam, recipe, context.seed)
            return ShardedMaker(POINTS, ids, work, "points", tables, shard_images=16)(job)

        yield Product(
            path=context.run.output("prompt", split),
            format_name=POINTS.name,
            format_version=POINTS.version,
            split=split,
            recipe=recipe.model_dump(mode="json"),
            inputs={"cam": cam},
            make=make,
            what="peak points",
        )


LEGACY = PromptStage()
STAGE = Stage("prompt", 1, "prompts", "{split}.h5", POINTS)
