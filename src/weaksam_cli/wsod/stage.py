"""`weaksam wsod`: train a weakly supervised detector on image-level labels, then detect with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome as MergeCount
from weaksam_cli.data.detections import RESULTS_FORMAT, RESULTS_VERSION
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.data.source import image_root
from weaksam_cli.engine.detecting import detections_maker
from weaksam_cli.engine.legacy import Context, Job, Product, ShardedMaker, what_decides
from weaksam_cli.engine.recipes import RecipeModel
from weaksam_cli.engine.stages import Stage
from weaksam_cli.wsod.end_to_end.products import vgg_products
from weaksam_cli.wsod.end_to_end.recipe import MistRecipe, OicrRecipe
from weaksam_cli.wsod.recipe import RegionDetectorRecipe
from weaksam_cli.wsod.schemas import SAMPLES, regions_schema
from weaksam_cli.wsod.works import DetectWork, RegionWork, SampleWork, Sources

BASIS_FORMAT = "weaksam/region-basis"
MODEL_FORMAT = "weaksam/region-detector"
MODEL_VERSION = 1


@dataclass(frozen=True)
class FitBasis:
    """Fits what RoI features are made with."""

    recipe: RegionDetectorRecipe
    samples: Path
    labels: Path

    def __call__(self, job: Job) -> MergeCount:
        """Fit and write."""
        from weaksam_cli.wsod.basis import fit_basis
        from weaksam_cli.wsod.dense import CELL_CHANNELS

        names = read_labels(self.labels, Path()).class_names
        with open_artifact(self.samples, SAMPLES) as artifact:
            labels = artifact.column("cell_labels").astype(np.int16)
            counts = np.diff(artifact.column("cell_labels_offsets"))
            fold = np.repeat(artifact.column("fold"), counts).astype(np.int8)
            cells = artifact.column("cells").astype(np.float16).reshape(-1, CELL_CHANNELS)
            pooled = artifact.column("pooled").astype(np.float16).reshape(-1, 2560)
            images = len(artifact)
        basis = fit_basis(cells, labels, fold, pooled, len(names), self.recipe, job.context.seed)
        job.context.ops.write_atomically(job.path, basis.to_bytes(names))
        return MergeCount(images, ())


def label_vectors(labels: Labels) -> dict[str, Any]:
    """Image -> float tensor (C,), for images with at least one known label."""
    import torch

    vectors = {}
    for image in labels.file.images:
        if image.labels:
            vector = torch.zeros(len(labels.class_names))
            vector[labels.class_indexes(image)] = 1
            vectors[image.key] = vector
    return vectors


@dataclass(frozen=True)
class FitDetector:
    """Trains the heads; interrupted, it goes on from its checkpoint to the same weights."""

    recipe: RegionDetectorRecipe
    regions: Path
    labels: Path

    def __call__(self, job: Job) -> MergeCount:
        """Train and write."""
        from weaksam_cli.training.run import training_run
        from weaksam_cli.wsod.fit import fit_detector, iterations_of

        labels = read_labels(self.labels, Path())
        vectors = label_vectors(labels)
        with open_artifact(self.regions) as regions:
            width = regions.datasets_shape("features")[1]
            grid = (len(labels.class_names) + 1) * self.recipe.features.grid**2
            learnt = [key for key in regions.image_ids if key in vectors]
            total = iterations_of(self.recipe.schedule, len(learnt))
            with training_run(job, total, checkpoint_every=self.recipe.schedule.checkpoint_period) as run:
                data = fit_detector(
                    self.recipe,
                    regions,
                    vectors,
                    labels.class_names,
                    n_projected=width - grid,
                    run=run,
                )
        job.context.ops.write_atomically(job.path, data)
        return MergeCount(len(vectors), ())


@dataclass(frozen=True)
class _Places:
    """Where the parts of a run lie."""

    context: Context
    recipe: RegionDetectorRecipe

    @property
    def folder(self) -> Path:
        return self.context.run.folder("wsod")

    def sources(self, split: str) -> Sources:
        run = self.context.run
        root = image_root(run.root, self.context.source())
        return Sources(run.input("data", split), run.input("cam", split), run.input("propose", split), root)

    def inputs(self, split: str) -> dict[str, Path]:
        sources = self.sources(split)
        return {"data": sources.labels, "cam": sources.cam, "propose": sources.proposals}

    def regions(self, split: str) -> Path:
        return self.folder / f"regions-{split}.h5"


class WsodStage:
    """Weakly supervised detectors over precomputed proposals."""

    name: ClassVar[str] = "wsod"
    version: ClassVar[int] = 1
    train_only: ClassVar[bool] = False
    recipe_types: ClassVar[Mapping[str, type[RecipeModel]]] = {
        "oicr": RegionDetectorRecipe,
        "wsddn": RegionDetectorRecipe,
        "mist-vgg16": MistRecipe,
        "oicr-vgg16": OicrRecipe,
    }

    def products(self, recipe: RecipeModel, context: Context, split: str) -> Iterator[Product]:
        """The parts of the training split that the recipe's method is made of; then the detections of this split."""
        if isinstance(recipe, MistRecipe | OicrRecipe):
            yield from vgg_products(recipe, context, split)
        elif isinstance(recipe, RegionDetectorRecipe):
            yield from self._region_products(recipe, context, split)
        else:
            raise TypeError(f"no detector for {type(recipe).__name__}")

    def _region_products(
        self, recipe: RegionDetectorRecipe, context: Context, split: str
    ) -> Iterator[Product]:
        places, train = _Places(context, recipe), context.train_split()
        resolved = recipe.model_dump(mode="json")
        samples, basis = places.folder / f"samples-{train}.h5", places.folder / "basis.safetensors"
        model = places.folder / "model.safetensors"
        feature_parts = {name: resolved[name] for name in ("proposals", "dense", "features")}
        yield self._samples(places, samples, train, feature_parts)
        yield self._basis(places, samples, basis, train, feature_parts)
        yield self._regions(
            places, basis, train, feature_parts | {"prior": {"thresholds": recipe.prior.thresholds}}
        )
        training = {
            name: resolved[name] for name in ("method", "prior", "mining", "heads", "schedule", "features")
        }
        yield Product(
            path=model,
            format_name=MODEL_FORMAT,
            format_version=MODEL_VERSION,
            split=train,
            recipe=what_decides(training),
            inputs={"wsod-regions": places.regions(train), "data": places.sources(train).labels},
            make=FitDetector(recipe, places.regions(train), places.sources(train).labels),
            what="the weakly supervised detector",
        )
        if split != train:
            thresholds = {"prior": {"thresholds": recipe.prior.thresholds}}
            yield self._regions(places, basis, split, feature_parts | thresholds)
        yield self._detections(places, model, split, resolved)

    def _samples(self, places: _Places, path: Path, train: str, parts: dict[str, Any]) -> Product:
        sources = places.sources(train)

        def make(job: Job) -> MergeCount:
            labels = read_labels(sources.labels, sources.image_root)
            with open_artifact(sources.proposals, PROPOSALS) as proposals:
                known = {image.key for image in labels.file.images if image.labels}
                ids = [key for key in proposals.image_ids if key in known]
            work = SampleWork(sources, places.recipe, places.context.seed)
            return ShardedMaker(SAMPLES, ids, work, "samples")(job)

        return Product(
            path,
            SAMPLES.name,
            SAMPLES.version,
            train,
            parts,
            places.inputs(train),
            make,
            "sampled cells and RoIs",
        )

    def _basis(
        self, places: _Places, samples: Path, path: Path, train: str, parts: dict[str, Any]
    ) -> Product:
        labels = places.sources(train).labels
        inputs = {"wsod-samples": samples, "data": labels}
        make = FitBasis(places.recipe, samples, labels)
        return Product(
            path, BASIS_FORMAT, MODEL_VERSION, train, parts, inputs, make, "the basis of RoI features"
        )

    def _regions(self, places: _Places, basis: Path, split: str, parts: dict[str, Any]) -> Product:
        sources, context = places.sources(split), places.context

        def make(job: Job) -> MergeCount:
            from weaksam_cli.wsod.basis import Basis
            from weaksam_cli.wsod.image_features import feature_size

            labels = read_labels(sources.labels, sources.image_root)
            names = labels.class_names
            components = Basis.read(basis, names).components.components.shape[1]
            schema = regions_schema(feature_size(places.recipe, components, len(names)), len(names))
            with open_artifact(sources.proposals, PROPOSALS) as proposals:
                ids = proposals.image_ids
            labels.expect(ids, sources.proposals)
            work = RegionWork(sources, places.recipe, basis, split == context.train_split())
            return ShardedMaker(schema, ids, work, f"regions of {split}", {"class_names": names})(job)

        schema = regions_schema(1, 1)
        inputs = places.inputs(split) | {"wsod-basis": basis}
        path = places.regions(split)
        return Product(
            path, schema.name, schema.version, split, parts, inputs, make, "RoI features and priors"
        )

    def _detections(self, places: _Places, model: Path, split: str, resolved: dict[str, Any]) -> Product:
        regions, sources = places.regions(split), places.sources(split)

        def make(job: Job) -> MergeCount:
            labels = read_labels(sources.labels, sources.image_root)
            with open_artifact(regions) as artifact:
                ids = artifact.image_ids
            work = DetectWork(regions, model, places.recipe, len(labels.class_names))
            return detections_maker(labels, ids, work, shard_images=64)(job)

        return Product(
            path=places.context.run.output("wsod", split),
            format_name=RESULTS_FORMAT,
            format_version=RESULTS_VERSION,
            split=split,
            recipe={"inference": resolved["inference"], "prior_floor": resolved["prior"]["floor"]},
            inputs={"wsod-model": model, "wsod-regions": regions, "data": sources.labels},
            make=make,
            what="detections",
        )


LEGACY = WsodStage()
STAGE = Stage("wsod", 1, "wsod", "detections/{split}.json", Schema(RESULTS_FORMAT, RESULTS_VERSION, ()))
