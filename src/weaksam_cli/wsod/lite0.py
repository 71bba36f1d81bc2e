"""`network: lite0`: detectors on RoI features of frozen EfficientNet-Lite0, which are computed once an image.

Cells and RoIs are sampled from training images; a feature model learns from them; it gives every proposal its features and
prior; heads are trained and tested on these, without looking at an image again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.computed import Rows
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.schema import ANY, Column, ImageRows, Schema
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.core import boxes as box_math
from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import RESULTS
from weaksam_cli.data.image_names import open_artifact_of
from weaksam_cli.data.labels import Split
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.detectors import per_image_detections
from weaksam_cli.engine.predictors import ImageFunction, one_thread
from weaksam_cli.engine.sharded import SHARD_IMAGES, ImageByImage, PerImage
from weaksam_cli.engine.steps import Step, rows_of
from weaksam_cli.training.batches import generator_of
from weaksam_cli.wsod.evidence import evidence_reader, evidence_rows, test_evidence, training_evidence
from weaksam_cli.wsod.lite0_settings import (
    DenseSettings,
    DetectionSettings,
    FeatureSettings,
    PriorSettings,
    RegionSettings,
    RoiSettings,
    SampleSettings,
    TrainingSettings,
)
from weaksam_cli.wsod.method import Method
from weaksam_cli.wsod.settings import DetectorSettings

if TYPE_CHECKING:
    from weaksam_cli.artifacts.class_maps import ClassMaps
    from weaksam_cli.wsod.detector import Sample
    from weaksam_cli.wsod.own_features import Layer, RegionFeatures, TrainedDetector
    from weaksam_cli.wsod.roi_features import ImageMaps

SAMPLES = Schema(
    "weaksam/region-samples",
    1,
    columns=(Column("fold", "int8"),),
    blobs=(Column("cells", "float16"), Column("cell_labels", "int16"), Column("pooled", "float16")),
)
"""One row an image: sampled cells (n x 432), their labels (0 background), and pooled features of sampled RoIs (m x 2560)."""
FEATURE_MODEL = Schema("weaksam/feature-model", 1, ())
MODEL = Schema("weaksam/region-detector", 2, ())
_DETECTIONS_A_SHARD = 64


def regions_schema(feature_size: int, n_classes: int) -> Schema:
    """RoI features of each proposal, and the class maps' prior (0 for classes without maps)."""
    return Schema(
        "weaksam/regions",
        1,
        columns=(
            Column("boxes", "float32", (4,)),
            Column("features", "float16", (feature_size,)),
            Column("prior", "float16", (n_classes,)),
        ),
        image_columns=(Column("image_size", "int32", (2,)), Column("class_scores", "float32", (n_classes,))),
    )


class Lite0(RecipeModel):
    """Frozen EfficientNet-Lite0.

    Attributes:
        image_score_weight: power of the image's class probability in the score at test.
    """

    knows_prior: ClassVar[bool] = True
    pools_cells: ClassVar[bool] = False

    name: Literal["lite0"]
    dense: DenseSettings = DenseSettings()
    features: RoiSettings = RoiSettings()
    prior: PriorSettings = PriorSettings()
    image_score_weight: float = Field(default=1.0, ge=0, le=100)

    def steps(
        self, settings: DetectorSettings, method: Method, context: Context, split: str
    ) -> Iterator[Step]:
        """The feature model and the detector, from the training split; then the detections of this split."""
        train, folder = context.train_split(), context.run.folder("wsod")
        samples, feature_model = folder / f"samples-{train}.h5", folder / "feature_model.safetensors"
        model, sources = folder / "model.safetensors", Sources.of(context, train)
        data = {"data": sources.split.labels}
        parts = {"proposals": settings.proposals, "dense": self.dense, "features": self.features}

        features = SampleSettings(**parts, difficult=settings.difficult)
        run = partial(_sample, features, sources)
        yield Step(samples, SAMPLES, train, features, sources.inputs(), run, "sampled cells and RoIs")

        inputs = data | {"wsod-samples": samples}
        run = partial(_fit_features, features, samples, sources.split)
        yield Step(feature_model, FEATURE_MODEL, train, features, inputs, run, "the feature model")

        regions = RegionSettings(**parts, prior_thresholds=self.prior.thresholds)
        learnt = _region_step(regions, context, train, feature_model)
        yield learnt

        training = TrainingSettings(
            method=method,
            grid=self.features.grid,
            prior_floor=self.prior.floor,
            schedule=settings.schedule,
            difficult=settings.difficult,
        )
        inputs = data | {"wsod-regions": learnt.path}
        evidence = evidence_rows(training_evidence(settings, method, context), context, inputs)
        files = {name: context.weights.require(file) for name, file in method.weight_files.items()}
        inputs |= files
        run = partial(_fit, training, learnt.path, sources.split, evidence, files)
        title = "the weakly supervised detector"
        yield Step(model, MODEL, train, training, inputs, run, title, joint=True)

        tested = _region_step(regions, context, split, feature_model)
        if split != train:
            yield tested
        detection = DetectionSettings(
            method=method,
            prior=self.prior,
            image_score_weight=self.image_score_weight,
            inference=settings.inference,
        )
        images = context.split(split)
        inputs = {"wsod-model": model, "wsod-regions": tested.path, "data": images.labels}
        known = evidence_rows(test_evidence(settings, method, context, split), context, inputs)

        def work(context: Context) -> PerImage:
            return _detections(DetectionPredictor(detection, rows_of(tested, context), model, images, known))

        path, detect = context.run.output("wsod", split), ImageByImage(work)
        yield Step(path, RESULTS, split, detection, inputs, detect, "detections")

    def region_features(self, trained: TrainedDetector, layer: Layer) -> RegionFeatures:
        """See `own_features.lite0_features`."""
        from weaksam_cli.wsod.own_features import lite0_features

        return lite0_features(self, trained, layer)


def _region_step(settings: RegionSettings, context: Context, split: str, feature_model: Path) -> Step:
    path = context.run.folder("wsod") / f"regions-{split}.h5"
    sources, is_training = Sources.of(context, split), split == context.train_split()
    predictor = RegionPredictor(settings, sources, feature_model, is_training)
    run = ImageByImage(lambda _: _regions(predictor))
    inputs, title = sources.inputs() | {"wsod-features": feature_model}, "RoI features and priors"
    return Step(path, regions_schema(ANY, ANY), split, settings, inputs, run, title)


@dataclass(frozen=True)
class Sources:
    """Where the features of a split's proposals come from.

    Attributes:
        split: labels and images.
        cam, proposals: of the split.
    """

    split: Split
    cam: Rows
    proposals: Rows

    @classmethod
    def of(cls, context: Context, split: str) -> Sources:
        """Those of a run."""
        return cls(context.split(split), context.rows("cam", split), context.rows("propose", split))

    def inputs(self) -> dict[str, Path]:
        """As a step names them: the files."""
        named = {"data": self.split.labels, "cam": self.cam, "propose": self.proposals}
        return {name: item for name, item in named.items() if isinstance(item, Path)}

    def open(self, settings: FeatureSettings) -> Callable[[str], tuple[ImageMaps, ClassMaps, FloatArray]]:
        """Load the backbone; what is returned gives maps, class maps and usable proposals of an image."""
        from weaksam_cli.artifacts.class_maps import cam_schema, read_class_maps
        from weaksam_cli.models.lite import frozen_lite
        from weaksam_cli.wsod.roi_features import image_maps
        from weaksam_cli.wsod.used_proposals import image_loader

        labels, backbone = self.split.read(), frozen_lite("lite0")
        cam = open_artifact(self.cam, cam_schema(len(labels.class_names)), verify=False)
        proposals = open_artifact_of(labels, self.proposals, PROPOSALS, verify=False)
        load = image_loader(labels, proposals, settings.proposals)

        def read(image_id: str) -> tuple[ImageMaps, ClassMaps, FloatArray]:
            pixels, used = load(image_id)
            maps = image_maps(backbone, pixels, settings.dense.short_side)
            return maps, read_class_maps(cam, image_id), used.boxes

        return read


@dataclass(frozen=True)
class SamplePredictor:
    """Cells and RoIs of one training image, to learn the feature model from."""

    settings: FeatureSettings
    sources: Sources
    seed: int

    def open(self) -> ImageFunction:
        """Load the backbone once a process."""
        from weaksam_cli.wsod.feature_model import fold_of
        from weaksam_cli.wsod.roi_features import image_samples

        read, settings = self.sources.open(self.settings), self.settings

        def predict(image_id: str) -> ImageRows:
            maps, class_maps, boxes = read(image_id)
            generator = generator_of(self.seed, image_id)
            cells, targets, pooled = image_samples(maps, class_maps, boxes, settings, generator)
            return ImageRows(
                {"fold": np.asarray([fold_of(image_id, settings.dense.folds)], np.int8)},
                blobs={"cells": [cells], "cell_labels": [targets], "pooled": [pooled]},
            )

        return predict


@dataclass(frozen=True)
class RegionPredictor:
    """RoI features and prior of one image."""

    settings: RegionSettings
    sources: Sources
    feature_model: Path
    is_training: bool

    def open(self) -> ImageFunction:
        """Load backbone and feature model once a process."""
        from weaksam_cli.wsod.feature_model import FeatureModel
        from weaksam_cli.wsod.roi_features import class_map_prior, roi_features

        names, settings = self.sources.split.read().class_names, self.settings
        read = self.sources.open(settings)
        model = FeatureModel.read(self.feature_model, names)

        def predict(image_id: str) -> ImageRows:
            maps, class_maps, boxes = read(image_id)
            classifiers = model.of_image(image_id, is_training=self.is_training)
            prior = class_map_prior(
                maps, boxes, model.whole, class_maps.classes(), settings.prior_thresholds, len(names)
            )
            features = roi_features(maps, boxes, model, classifiers, settings.features)
            return ImageRows(
                {"boxes": boxes, "features": features, "prior": prior},
                {
                    "class_scores": class_maps.class_scores,
                    "image_size": np.asarray(maps.image_size, np.int32),
                },
            )

        return predict


@dataclass(frozen=True)
class DetectionPredictor:
    """Detections of one image from its RoI features."""

    settings: DetectionSettings
    regions: Rows
    model: Path
    split: Split
    evidence: Rows | None = None

    def open(self) -> Callable[[str], Detections]:
        """Load the heads once a process."""
        import torch

        from weaksam_cli.wsod.detector import FrozenDetector, load_detector, select_detections
        from weaksam_cli.wsod.roi_features import region_sample

        settings, names = self.settings, self.split.read().class_names
        regions = open_artifact(self.regions, verify=False)
        statistics = torch.zeros(2, regions.datasets_shape("features")[1])
        detector = load_detector(FrozenDetector(settings.method, statistics, len(names)), self.model, names)
        evidence, unlabelled = evidence_reader(self.evidence), torch.zeros(len(names))

        def predict(image_id: str) -> Detections:
            sample = region_sample(regions, image_id, settings.prior.floor, unlabelled, evidence(image_id))
            image_scores = torch.from_numpy(regions.image_value(image_id, "class_scores").astype(np.float32))
            with torch.inference_mode():
                (answer,) = detector([sample])
                assert sample.regions.prior is not None
                prior = sample.regions.prior**settings.prior.weight
                scores = answer.scores * prior * image_scores[None] ** settings.image_score_weight
                scores = scores.clamp(max=1)  # the prior has a floor added to it
            height, width = regions.image_value(image_id, "image_size").tolist()
            # A method that regresses boxes may take them over the edge.
            boxes = box_math.clip(answer.boxes.numpy(), height, width)
            return select_detections(boxes, scores.numpy(), settings.inference)

        return predict


def _sample(settings: SampleSettings, sources: Sources, job: Job) -> Outcome:
    labels = sources.split.read(settings.difficult)
    with open_artifact_of(labels, sources.proposals, PROPOSALS) as proposals:
        known = {image.key for image in labels.file.images if image.labels}
        ids = [key for key in proposals.image_ids if key in known]
    return PerImage(SAMPLES, ids, SamplePredictor(settings, sources, job.context.seed), "samples")(job)


def _fit_features(settings: FeatureSettings, samples: Path, split: Split, job: Job) -> Outcome:
    from weaksam_cli.wsod.feature_model import fit_feature_model

    names = split.read().class_names
    with open_artifact(samples, SAMPLES) as artifact, one_thread():
        images, model = len(artifact), fit_feature_model(artifact, len(names), settings, job.context.seed)
    job.context.ops.write_atomically(job.path, model.to_bytes(names))
    return Outcome(images)


def _regions(predictor: RegionPredictor) -> PerImage:
    sources = predictor.sources
    labels = sources.split.read()
    names, size = labels.class_names, predictor.settings.feature_size(len(labels.class_names))
    with open_artifact_of(labels, sources.proposals, PROPOSALS) as proposals:
        ids = proposals.image_ids
    schema = regions_schema(size, len(names))
    return PerImage(schema, ids, predictor, "regions", tables={"class_names": names})


def _fit(
    settings: TrainingSettings,
    regions_path: Path,
    split: Split,
    evidence: Rows | None,
    files: Mapping[str, Path],
    job: Job,
) -> Outcome:
    import torch

    from weaksam_cli.training.checkpoint import model_bytes
    from weaksam_cli.training.loop import training_run
    from weaksam_cli.wsod.detector import FrozenDetector, fit_detector, label_vectors
    from weaksam_cli.wsod.roi_features import feature_statistics, region_sample

    labels = split.read(settings.difficult)
    names = labels.class_names
    with open_artifact(regions_path) as regions:
        vectors = label_vectors(labels, regions)
        image_ids = list(vectors)
        size, grid = regions.datasets_shape("features")[1], (len(names) + 1) * settings.grid**2
        statistics, known = feature_statistics(regions, image_ids, size - grid), evidence_reader(evidence)

        def load(_iteration: int, _position: int, index: int) -> Sample:
            key = image_ids[index]
            return region_sample(regions, key, settings.prior_floor, vectors[key], known(key))

        schedule = settings.schedule.resolved(len(image_ids))
        with training_run(job, schedule.steps) as run:
            torch.manual_seed(run.seed)
            detector = FrozenDetector(settings.method, statistics, len(names))
            settings.method.start(detector, names, files)
            fit_detector(detector, load, len(image_ids), schedule, run)
    metadata = {"class_names": names, "feature_size": size}
    job.context.ops.write_atomically(job.path, model_bytes(detector, metadata))
    return Outcome(len(image_ids))


def _detections(predictor: DetectionPredictor) -> PerImage:
    with open_artifact(predictor.regions) as artifact:
        ids = artifact.image_ids
    shard_images = _DETECTIONS_A_SHARD if isinstance(predictor.regions, Path) else SHARD_IMAGES
    return per_image_detections(predictor.split, ids, predictor, shard_images=shard_images)
