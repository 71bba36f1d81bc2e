"""`weaksam cam`: class activation maps from image-level labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import KINDS, cam_schema
from weaksam_cli.artifacts.schema import Column, ImageRows, Schema
from weaksam_cli.artifacts.shards import Outcome as MergeCount
from weaksam_cli.cam.clip_es.products import clip_es_products
from weaksam_cli.cam.lite0_images import class_maps
from weaksam_cli.cam.recipe import ClipEsRecipe, Lite0Recipe
from weaksam_cli.cam.vit_products import vit_products
from weaksam_cli.cam.vit_recipe import MCTformerRecipe, VitRecipe, WeakTrRecipe
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.data.source import image_root
from weaksam_cli.engine.execution import ImageFunction
from weaksam_cli.engine.legacy import Context, Job, Product, ShardedMaker
from weaksam_cli.engine.recipes import RecipeModel
from weaksam_cli.engine.stages import Stage
from weaksam_cli.errors import UserError

POOLED = Schema("weaksam/pooled-features", 1, columns=(Column("features", "float32", (1280,)),))
"""Globally averaged features, a row a view: what the head is fitted to."""
MODEL_FORMAT, MODEL_VERSION = "weaksam/lite0-classifier", 1


def labelled_keys(labels: Labels) -> list[str]:
    """Images that the head can learn from: those whose labels are known."""
    return [image.key for image in labels.file.images if image.labels is not None]


@dataclass(frozen=True)
class PoolWork:
    """Pooled features of one image, plain and mirrored."""

    labels: Path
    image_root: Path
    backbone: Path | None
    short_side: int
    flip: bool

    def open(self) -> ImageFunction:
        """Load the backbone once a process."""
        from weaksam_cli.cam.lite0_network import load_backbone
        from weaksam_cli.models.lite0 import load_lite0
        from weaksam_cli.models.views import pooled_views

        labels = read_labels(self.labels, self.image_root)
        images = labels.by_key()
        backbone = load_lite0() if self.backbone is None else load_backbone(self.backbone)

        def function(image_id: str) -> ImageRows:
            pooled = pooled_views(backbone, labels.read_image(images[image_id]), self.short_side)
            return ImageRows({"features": pooled if self.flip else pooled[:1]})

        return function


@dataclass(frozen=True)
class TuneBackbone:
    """Fine-tunes the backbone; writes its weights."""

    recipe: Lite0Recipe
    labels: Path
    image_root: Path

    def __call__(self, job: Job) -> MergeCount:
        """Train and write."""
        from weaksam_cli.cam.lite0_network import backbone_bytes
        from weaksam_cli.cam.lite0_tuning import fine_tune
        from weaksam_cli.models.lite0 import load_lite0

        labels = read_labels(self.labels, self.image_root)
        images = labels.by_key()
        keys = labelled_keys(labels)
        backbone = load_lite0()
        settings = self.recipe.fine_tune
        with job.context.console.progress("fine-tuning", settings.epochs, "epochs") as progress:
            fine_tune(
                backbone,
                label_rows(labels, keys),
                lambda row: labels.read_image(images[keys[row]]),
                settings,
                short_side=self.recipe.head.short_side,
                seed=job.context.seed,
                on_epoch=lambda _, loss: progress.advance(1, f"loss {loss:.4f}"),
            )
        job.context.ops.write_atomically(job.path, backbone_bytes(backbone))
        return MergeCount(len(keys), ())


@dataclass(frozen=True)
class FitHead:
    """Fits the head to the pooled features."""

    recipe: Lite0Recipe
    labels: Path
    pooled: Path

    def __call__(self, job: Job) -> MergeCount:
        """Fit and write."""
        from weaksam_cli.cam.lite0_head import fit_linear_head
        from weaksam_cli.cam.lite0_network import head_bytes

        labels = read_labels(self.labels, Path())
        with open_artifact(self.pooled, POOLED) as artifact:
            keys = artifact.image_ids
            features = artifact.column("features").astype(np.float32)
            views = np.diff(artifact.offsets)
        if not len(features):
            raise UserError(
                "no image could be read, so there is nothing to learn from", where=str(self.pooled)
            )
        rows = np.repeat(label_rows(labels, keys), views, axis=0)
        settings = self.recipe.head
        head = fit_linear_head(features, rows, penalty=settings.penalty, iterations=settings.iterations)
        job.context.ops.write_atomically(job.path, head_bytes(head, labels.class_names))
        return MergeCount(len(keys), ())


def label_rows(labels: Labels, keys: list[str]) -> NDArray[np.bool_]:
    """bool (len(keys), classes): the image-level labels of some images."""
    images = labels.by_key()
    rows = np.zeros((len(keys), len(labels.class_names)), dtype=bool)
    for row, key in enumerate(keys):
        rows[row, labels.class_indexes(images[key])] = True
    return rows


@dataclass(frozen=True)
class MapsWork:
    """Class activation maps of one image."""

    recipe: Lite0Recipe
    labels: Path
    image_root: Path
    backbone: Path | None
    head: Path

    def open(self) -> ImageFunction:
        """Load the network once a process."""
        from weaksam_cli.cam.lite0_network import load_backbone, load_head
        from weaksam_cli.models.lite0 import load_lite0

        labels = read_labels(self.labels, self.image_root)
        images = labels.by_key()
        backbone = load_lite0() if self.backbone is None else load_backbone(self.backbone)
        head = load_head(self.head, labels.class_names)
        use_labels = self.recipe.label_source == "given" or (
            self.recipe.label_source == "auto" and labels.is_train
        )

        def function(image_id: str) -> ImageRows:
            image = images[image_id]
            given = labels.class_indexes(image) if use_labels and image.labels is not None else None
            return class_maps(backbone, head, labels.read_image(image), given, self.recipe).to_rows()

        return function


class CamStage:
    """Class activation maps."""

    name: ClassVar[str] = "cam"
    version: ClassVar[int] = 1
    train_only: ClassVar[bool] = False
    recipe_types: ClassVar[Mapping[str, type[RecipeModel]]] = {
        "lite0": Lite0Recipe,
        "clip-es": ClipEsRecipe,
        "weaktr": WeakTrRecipe,
        "mctformer": MCTformerRecipe,
    }

    def products(
        self, recipe: Lite0Recipe | ClipEsRecipe | VitRecipe, context: Context, split: str
    ) -> Iterator[Product]:
        """What the method makes for a split, its maps last."""
        if isinstance(recipe, ClipEsRecipe):
            yield from clip_es_products(recipe, context, split)
        elif isinstance(recipe, VitRecipe):
            yield from vit_products(recipe, context, split)
        else:
            yield from self._lite0_products(recipe, context, split)

    def _lite0_products(self, recipe: Lite0Recipe, context: Context, split: str) -> Iterator[Product]:
        """Backbone (when it is fine-tuned), pooled features and head of the training split; then maps of this split."""
        folder, train = context.run.folder("cam"), context.train_split()
        root = image_root(context.run.root, context.source())
        train_labels = context.run.input("data", train)
        backbone = None
        if recipe.fine_tune.epochs:
            backbone = folder / "backbone.safetensors"
            yield self._backbone(recipe, root, backbone, train, train_labels)
        pooled = folder / f"pooled-{train}.h5"
        yield self._pooled(recipe, root, backbone, pooled, train, train_labels)
        head = folder / "head.safetensors"
        yield Product(
            path=head,
            format_name=MODEL_FORMAT,
            format_version=MODEL_VERSION,
            split=train,
            recipe={"method": "lite0", "head": recipe.head.model_dump(mode="json")},
            inputs={"data": train_labels, "cam-pooled": pooled},
            make=FitHead(recipe, train_labels, pooled),
            what="the classifier's head",
        )
        yield self._maps(recipe, root, backbone, head, split, context)

    def _backbone(self, recipe: Lite0Recipe, root: Path, path: Path, train: str, labels: Path) -> Product:
        return Product(
            path=path,
            format_name=MODEL_FORMAT,
            format_version=MODEL_VERSION,
            split=train,
            recipe={
                "method": "lite0",
                "fine_tune": recipe.fine_tune.model_dump(mode="json"),
                "short_side": recipe.head.short_side,
            },
            inputs={"data": labels},
            make=TuneBackbone(recipe, labels, root),
            what="the fine-tuned backbone",
        )

    def _pooled(
        self, recipe: Lite0Recipe, root: Path, backbone: Path | None, path: Path, train: str, labels: Path
    ) -> Product:
        head = recipe.head

        def make(job: Job) -> MergeCount:
            keys = labelled_keys(read_labels(labels, root))
            work = PoolWork(labels, root, backbone, head.short_side, head.flip)
            return ShardedMaker(POOLED, keys, work, "features")(job)

        return Product(
            path=path,
            format_name=POOLED.name,
            format_version=POOLED.version,
            split=train,
            recipe={"method": "lite0", "short_side": head.short_side, "flip": head.flip},
            inputs={"data": labels} | ({"cam-backbone": backbone} if backbone else {}),
            make=make,
            what="pooled features of the training images",
        )

    def _maps(
        self,
        recipe: Lite0Recipe,
        root: Path,
        backbone: Path | None,
        head: Path,
        split: str,
        context: Context,
    ) -> Product:
        path = context.run.input("data", split)

        def make(job: Job) -> MergeCount:
            labels = read_labels(path, root)
            work = MapsWork(recipe, path, root, backbone, head)
            tables = {"class_names": labels.class_names, "kind_names": list(KINDS)}
            return ShardedMaker(cam_schema(len(labels.class_names)), labels.keys, work, "maps", tables)(job)

        schema = cam_schema(0)
        resolved = recipe.model_dump(mode="json", exclude={"fine_tune"})
        return Product(
            path=context.run.output("cam", split),
            format_name=schema.name,
            format_version=schema.version,
            split=split,
            recipe=resolved,
            inputs={"data": path, "cam-head": head} | ({"cam-backbone": backbone} if backbone else {}),
            make=make,
            what="class activation maps",
        )


LEGACY = CamStage()
STAGE = Stage("cam", 1, "cam", "{split}.h5", cam_schema(0))
