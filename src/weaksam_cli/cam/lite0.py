"""EfficientNet-Lite0 with a linear head: the embedded method, whose weights come with pip.

A 1x1 convolution over a feature map followed by a global average is the average followed by a linear layer, so the head
learns from one pooled vector a view and is applied at every cell to give class activation maps (Zhou et al., "Learning Deep
Features for Discriminative Localization", CVPR 2016). `coarse` is the plain map of each scale; `fine` is the sum of all
scales, multiplied by the affinity of the image's own stride-16 features: what WeakTr and MCTformer do with patch-to-patch
attention (spec 01 §a.5, §b.3), a convolutional network does with the likeness of its cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps
from weaksam_cli.artifacts.schema import Column, ImageRows, Schema
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.cam.stage import LabelSettings, chosen_classes, known_images, label_rows, maps_step
from weaksam_cli.core.maps import SMALLEST_DEVIATION, cell_affinity, resize_bilinear
from weaksam_cli.core.settings import RecipeModel, Side
from weaksam_cli.data.labels import LabelChoice, Split
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.predictors import ImageFunction
from weaksam_cli.engine.sharded import PerImage
from weaksam_cli.engine.steps import Step
from weaksam_cli.errors import UserError

if TYPE_CHECKING:
    from weaksam_cli.models.lite import Lite

FloatArray = NDArray[np.float32]
POOLED: Final = Schema("weaksam/pooled-features", 1, columns=(Column("features", "float32", (1280,)),))
"""Globally averaged features, a row a view: what the head is fitted to."""
HEAD: Final = Schema("weaksam/lite0-classifier", 1, columns=())


class PooledSettings(RecipeModel):
    """What the head learns from.

    Attributes:
        short_side: the training images' shorter side.
        flip: learn from the mirrored images, too.
    """

    short_side: Side = 320
    flip: bool = True


class HeadSettings(LabelChoice, PooledSettings):
    """The multi-label head.

    Attributes:
        penalty: weight of the squared norm of the weights.
        iterations: most L-BFGS iterations.
    """

    penalty: float = Field(default=5e-3, ge=0, le=1e6)
    iterations: int = Field(default=60, ge=1, le=10_000)


class FineSettings(RecipeModel):
    """Fine maps: the coarse ones spread over cells with similar features.

    Attributes:
        threshold: cosines of cells up to it count for nothing.
        power: above 1 it favours the most similar cells.
        rounds: how often the maps are multiplied by the affinity.
    """

    threshold: float = Field(default=0.2, ge=-1, lt=1)
    power: float = Field(default=2.0, gt=0, le=100)
    rounds: int = Field(default=2, ge=0, le=100)


class Recipe(LabelSettings):
    """EfficientNet-Lite0 with a linear head; maps at several sizes with their mirror images.

    Attributes:
        head: the classifier.
        short_sides: sizes of the images whose maps are made, the largest last.
        fine: how fine maps are made.
        predicted_threshold: probability from which a class is predicted; the best class always is.
    """

    method: Literal["lite0"] = "lite0"
    head: HeadSettings = HeadSettings()
    short_sides: Annotated[tuple[Side, ...], Field(min_length=1, max_length=20)] = (320, 480)
    fine: FineSettings = FineSettings()
    predicted_threshold: float = Field(default=0.3776, gt=0, lt=1)


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """Pooled features and head of the training split; then the maps of this split."""
    folder, train = context.run.folder("cam"), context.train_split()
    labels = context.run.input("data", train)
    pooled, head = folder / f"pooled-{train}.h5", folder / "head.safetensors"
    views = recipe.head.part(PooledSettings)
    pool = partial(_pool, views, train)
    yield Step(pooled, POOLED, train, views, {"data": labels}, pool, "pooled features of the training images")
    fit, inputs = partial(_fit, recipe.head, train, pooled), {"data": labels, "cam-pooled": pooled}
    yield Step(head, HEAD, train, recipe.head, inputs, fit, "the classifier's head")
    yield maps_step(
        context,
        split,
        recipe,
        {"cam-head": head},
        lambda images, _: MapsPredictor(recipe, images, head),
        on_gpu=False,
    )


def _pool(settings: PooledSettings, split: str, job: Job) -> Outcome:
    images = job.context.split(split)
    keys = known_images(images.read(), job.context.console)
    return PerImage(POOLED, keys, PoolPredictor(settings, images), "features")(job)


def _fit(settings: HeadSettings, split: str, pooled: Path, job: Job) -> Outcome:
    labels = job.context.split(split).read(settings.difficult)
    with open_artifact(pooled, POOLED) as artifact:
        keys = artifact.image_ids
        features = artifact.column("features").astype(np.float32)
        views = np.diff(artifact.offsets)
    if not len(features):
        raise UserError("no image could be read, so there is nothing to learn from", where=str(pooled))
    rows = np.repeat(label_rows(labels, keys), views, axis=0)
    head = fit_linear_head(features, rows, penalty=settings.penalty, iterations=settings.iterations)
    job.context.ops.write_atomically(job.path, head.to_bytes(labels.class_names))
    return Outcome(len(keys), ())


@dataclass(frozen=True)
class PoolPredictor:
    """Pooled features of one image, plain and mirrored."""

    settings: PooledSettings
    split: Split

    def open(self) -> ImageFunction:
        """Load the backbone once a process."""
        from weaksam_cli.models.lite import frozen_lite, view_features

        labels = self.split.read()
        images, backbone = labels.by_key(), frozen_lite("lite0")
        side, flip = self.settings.short_side, self.settings.flip

        def function(image_id: str) -> ImageRows:
            features = view_features(backbone, labels.read_image(images[image_id]), side, mirror=flip)
            return ImageRows({"features": features.last.mean(axis=(2, 3))})

        return function


@dataclass(frozen=True)
class MapsPredictor:
    """Class activation maps of one image."""

    recipe: Recipe
    split: Split
    head: Path

    def open(self) -> ImageFunction:
        """Load the network once a process."""
        from weaksam_cli.models.lite import frozen_lite

        labels = self.split.read(self.recipe.difficult)
        images, backbone = labels.by_key(), frozen_lite("lite0")
        head = LinearHead.load(self.head, labels.class_names)

        def function(image_id: str) -> ImageRows:
            image = images[image_id]
            given = self.recipe.given(labels, image)
            return class_maps(backbone, head, labels.read_image(image), given, self.recipe).to_rows()

        return function


@dataclass(frozen=True)
class LinearHead:
    """A linear layer on features.

    Attributes:
        weight: float32 (classes, channels).
        bias: float32 (classes,).
    """

    weight: FloatArray
    bias: FloatArray

    def logits(self, features: FloatArray) -> FloatArray:
        """Logits (..., classes) of features (..., channels)."""
        answer: FloatArray = features @ self.weight.T + self.bias
        return answer

    def probabilities(self, features: FloatArray) -> FloatArray:
        """Independent probabilities of the classes, (..., classes), of features (..., channels)."""
        answer: FloatArray = np.float32(1) / (np.float32(1) + np.exp(-self.logits(features)))
        return answer

    def to_bytes(self, class_names: list[str]) -> bytes:
        """The head as a safetensors file that names its classes."""
        import torch

        from weaksam_cli.training.checkpoint import tensors_bytes

        tensors = {"weight": torch.from_numpy(self.weight), "bias": torch.from_numpy(self.bias)}
        return tensors_bytes(tensors, {"class_names": class_names})

    @classmethod
    def load(cls, path: Path, class_names: list[str]) -> LinearHead:
        """The head of a file of `to_bytes`.

        Raises:
            UserError: a damaged file, or one that was trained for other classes.
        """
        from weaksam_cli.training.checkpoint import expect_classes, read_metadata, read_tensors

        expect_classes(read_metadata(path).get("class_names"), class_names, path)
        tensors = read_tensors(path)
        return cls(tensors["weight"].numpy(), tensors["bias"].numpy())


def fit_linear_head(
    features: FloatArray, labels: NDArray[np.bool_], *, penalty: float, iterations: int
) -> LinearHead:
    """Logistic regression, one class against the rest, all classes at once; full-batch L-BFGS, without randomness.

    Features are standardised for the fit and the scaling is folded into the head. The loss is the binary
    cross-entropy, summed over classes and averaged over rows, plus `penalty` times the sum of squared weights.

    Args:
        features: float32 (n, channels), n > 0, globally averaged features; several views of an image are several rows.
        labels: bool (n, classes), image-level labels of each row's image.
        penalty: weight of the squared norm.
        iterations: at most so many L-BFGS iterations.
    """
    import torch
    import torch.nn.functional as F

    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = features.std(axis=0, dtype=np.float64).astype(np.float32) + SMALLEST_DEVIATION
    inputs = torch.from_numpy((features - mean) / deviation)
    targets = torch.from_numpy(labels.astype(np.float32))
    weight = torch.zeros(labels.shape[1], features.shape[1], requires_grad=True)
    bias = torch.zeros(labels.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        entropy = F.binary_cross_entropy_with_logits(inputs @ weight.T + bias, targets, reduction="none")
        loss = entropy.sum(dim=1).mean() + penalty * weight.square().sum()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    scaled = weight.detach().numpy() / deviation
    return LinearHead(scaled, bias.detach().numpy() - scaled @ mean)


def class_maps(
    backbone: Lite, head: LinearHead, image: NDArray[np.uint8], given: list[int] | None, recipe: Recipe
) -> ClassMaps:
    """Coarse maps at every size, and fine maps on the stride-16 grid of the largest one.

    Args:
        backbone, head: the classifier.
        image: uint8 RGB (H, W, 3).
        given: classes that get maps; None predicts them.
        recipe: sizes and settings.
    """
    from weaksam_cli.models.lite import view_features

    sides = dict.fromkeys([recipe.head.short_side, *recipe.short_sides])
    views = {side: view_features(backbone, image, side) for side in sides}
    pooled = views[recipe.head.short_side].last.mean(axis=(2, 3))
    scores = head.probabilities(pooled).mean(axis=0)
    classes = chosen_classes(scores, given, recipe.predicted_threshold)
    seen = [views[side].last for side in recipe.short_sides]
    coarse = [coarse_maps(both[0], both[1], head, classes) for both in seen]
    scales = [side / min(image.shape[:2]) for side in recipe.short_sides]
    fine = fine_maps(coarse, views[recipe.short_sides[-1]].middle[0], recipe.fine)
    maps = [item for stack in (*coarse, fine) for item in stack]
    n = len(classes)
    kinds = np.asarray([KINDS.index("coarse"), KINDS.index("fine")], np.int8)
    return ClassMaps(
        class_index=np.tile(np.asarray(classes, np.int32), len(coarse) + 1),
        kind=np.repeat(kinds, [n * len(coarse), n]),
        map_index=np.zeros(len(maps), np.int16),
        scale=np.repeat(np.asarray([*scales, scales[-1]], np.float32), n),
        maps=tuple(maps),
        image_size=(image.shape[0], image.shape[1]),
        class_scores=scores.astype(np.float32),
    )


def coarse_maps(
    plain: FloatArray, mirrored: FloatArray, head: LinearHead, classes: Sequence[int]
) -> FloatArray:
    """Maps of one scale: the head's weights, without the bias, at every cell of the mean of both views.

    Args:
        plain: float32 (channels, h, w), the backbone's last map of the image.
        mirrored: float32 (channels, h, w), that of the mirrored image (still mirrored).
        head: the classifier.
        classes: k class indexes.

    Returns:
        float32 (k, h, w), negative evidence cut to 0.
    """
    features = (plain + mirrored[:, :, ::-1]) / np.float32(2)
    weight = head.weight[np.asarray(classes, dtype=np.int64)]
    evidence = weight @ features.reshape(len(features), -1)
    return np.maximum(evidence, np.float32(0)).reshape(len(weight), *features.shape[1:])


def fine_maps(coarse: Sequence[FloatArray], features: FloatArray, settings: FineSettings) -> FloatArray:
    """The coarse maps of all scales, added on the grid of `features` and spread over similar cells.

    Args:
        coarse: per scale float32 (k, h_s, w_s), see `coarse_maps`.
        features: float32 (channels, h, w), a finer map of the backbone (stride 16 of the largest scale).
        settings: see `cell_affinity`; 0 rounds leave the sum as it is.

    Returns:
        float32 (k, h, w).
    """
    height, width = features.shape[1:]
    resized = [resize_bilinear(maps, height, width) for maps in coarse]
    total = np.stack(resized).sum(axis=0, dtype=np.float32)
    spread = total.reshape(len(total), height * width)
    if settings.rounds:
        affinity = cell_affinity(features, threshold=settings.threshold, power=settings.power)
        for _ in range(settings.rounds):
            spread = spread @ affinity.T
    return spread.reshape(len(total), height, width)
