"""The feature model: what turns maps of frozen lite0 into RoI features, learned once from the training split.

It has dense classifiers and principal components. A dense classifier of cells learns what the class activation maps of all
training images show, and then sees the same thing in every image: its maps cover objects better than those that it learnt
from, and it needs no labels on new images. Cells are those of lite0's stride-16 map; a cell's descriptor joins that map
with the trunk's last map at the same place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.errors import UserError
from weaksam_cli.training.checkpoint import expect_classes, read_metadata, read_tensors, tensors_bytes
from weaksam_cli.wsod.lite0_settings import POOLED_CHANNELS, DenseSettings, FeatureSettings

MIDDLE_CHANNELS = 112
CELL_CHANNELS = MIDDLE_CHANNELS + 320
_DEVIATION_FLOOR = 1e-3
_BATCH = 1024
_WEIGHT_DECAY = 1e-4


def describe_cells(middle: Tensor, trunk: Tensor) -> Tensor:
    """Descriptors (432, h, w) of the cells of one image: `middle` (112, h, w), `trunk` (320, h', w') resized to it."""
    size = tuple(middle.shape[1:])
    resized = F.interpolate(trunk[None], size=size, mode="bilinear", align_corners=False)
    return torch.cat([middle, resized[0]])


def sample_cells(
    cells: FloatArray,
    maps: FloatArray,
    classes: list[int],
    settings: DenseSettings,
    generator: np.random.Generator,
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Training cells of one image.

    Args:
        cells: float32 (432, h, w).
        maps: float32 (k, h, w), normalised maps of the image's classes at the cells' resolution.
        classes: the k classes.
        settings: thresholds and number.
        generator: draws the cells.

    Returns:
        Descriptors (n, 432) and labels (n,): 0 for background, class + 1 otherwise.
    """
    flat = cells.reshape(len(cells), -1).T
    if not classes:
        return flat[:0], np.zeros(0, np.int64)
    values = maps.reshape(len(maps), -1)
    best, strength = values.argmax(axis=0), values.max(axis=0)
    kinds = np.flatnonzero(strength > settings.foreground), np.flatnonzero(strength < settings.background)
    objects, rest = (
        generator.choice(rows, min(settings.cells // 2, len(rows)), replace=False) for rows in kinds
    )
    labels = np.concatenate([np.asarray(classes)[best[objects]] + 1, np.zeros(len(rest), np.int64)])
    return flat[np.concatenate([objects, rest])], labels.astype(np.int64)


def fold_of(image_id: str, folds: int) -> int:
    """The fold of an image, the same on every machine."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8]) % folds


class DenseClassifier(nn.Sequential):
    """A two-layer perceptron from standardised cells (n, 432) to C + 1 logits, background first (seed torch before).

    Attributes:
        mean, deviation: float32 (432,), of the cells that it learnt from.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(CELL_CHANNELS, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
        )
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def standardised(self, cells: Tensor) -> Tensor:
        """Of cells (n, 432)."""
        return (cells - self.mean) / self.deviation

    @torch.inference_mode()
    def logits(self, cells: Tensor) -> Tensor:
        """(C + 1, h, w) of cells (432, h, w)."""
        found: Tensor = self(self.standardised(cells.reshape(len(cells), -1).T))
        return found.T.reshape(-1, *cells.shape[1:])

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> DenseClassifier:
        """From its `state_dict`, in evaluation mode."""
        hidden, outputs = len(state["0.weight"]), len(state["3.weight"])
        classifier = cls(state["mean"], state["deviation"], hidden, outputs, dropout=0.0)
        classifier.load_state_dict(state)
        return classifier.eval()


def fit_dense(
    cells: FloatArray, labels: NDArray[np.int64], n_classes: int, settings: DenseSettings, seed: int
) -> DenseClassifier:
    """Fit the classifier by Adam with a linearly falling rate; deterministic from the seed.

    Args:
        cells: float32 (n, 432), n at least 1.
        labels: int64 (n,), 0 background.
        n_classes: C.
        settings: network and schedule.
        seed: initial weights, order and dropout.
    """
    mean = torch.from_numpy(cells.mean(axis=0))
    deviation = torch.from_numpy(cells.std(axis=0) + np.float32(_DEVIATION_FLOOR))
    torch.manual_seed(seed)
    classifier = DenseClassifier(mean, deviation, settings.hidden, n_classes + 1, settings.dropout)
    inputs, targets = classifier.standardised(torch.from_numpy(cells)), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(
        classifier.parameters(), lr=settings.learning_rate, weight_decay=_WEIGHT_DECAY
    )
    total = settings.epochs * -(-len(cells) // _BATCH)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / total)
    generator = np.random.default_rng(seed)
    for _ in range(settings.epochs):
        order = torch.from_numpy(generator.permutation(len(cells)))
        for rows in order.split(_BATCH):
            loss = F.cross_entropy(classifier(inputs[rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return classifier.eval()


@dataclass(frozen=True)
class PrincipalComponents:
    """The leading principal components of pooled features, softly whitened.

    Attributes:
        mean: float32 (D,).
        components: float32 (D, k), columns divided by half their deviation plus a share of the largest.
    """

    mean: Tensor
    components: Tensor

    def project(self, features: Tensor) -> Tensor:
        """(R, k) of features (R, D)."""
        return (features - self.mean) @ self.components


def fit_components(features: NDArray[np.floating], count: int) -> PrincipalComponents:
    """Principal components of a sample (n, D), n > 1; signs are fixed so that equal samples give equal components."""
    sample = np.asarray(features, np.float64)
    mean = sample.mean(axis=0)
    covariance = (sample - mean).T @ (sample - mean) / max(len(sample) - 1, 1)
    values, vectors = np.linalg.eigh(covariance)
    vectors = vectors[:, ::-1][:, :count]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    deviation = np.sqrt(np.maximum(values[::-1][:count], 1e-6))
    scaled = vectors * signs / (deviation * 0.5 + deviation[0] * 0.05)
    return PrincipalComponents(
        torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(scaled.astype(np.float32))
    )


@dataclass(frozen=True)
class FeatureModel:
    """Everything that turns an image and its proposals into RoI features.

    Attributes:
        whole: dense classifier fitted to all training images.
        folds: dense classifiers; the i-th has not seen the images of fold i.
        components: principal components of pooled features.
    """

    whole: DenseClassifier
    folds: tuple[DenseClassifier, ...]
    components: PrincipalComponents

    def to_bytes(self, class_names: list[str]) -> bytes:
        """As a safetensors file."""
        tensors = {"components.mean": self.components.mean, "components.matrix": self.components.components}
        named = {"whole": self.whole} | {f"fold{index}": item for index, item in enumerate(self.folds)}
        for name, classifier in named.items():
            tensors |= {f"{name}/{key}": value for key, value in classifier.state_dict().items()}
        return tensors_bytes(tensors, {"class_names": class_names, "folds": len(self.folds)})

    @classmethod
    def read(cls, path: Path, class_names: list[str]) -> FeatureModel:
        """From a file of `to_bytes`.

        Raises:
            UserError: a damaged file, or one for other classes.
        """
        metadata, tensors = read_metadata(path), read_tensors(path)
        expect_classes(metadata.get("class_names"), class_names, path)

        def classifier(name: str) -> DenseClassifier:
            own = [key for key in tensors if key.startswith(f"{name}/")]
            return DenseClassifier.from_state({key.partition("/")[2]: tensors[key] for key in own})

        return cls(
            classifier("whole"),
            tuple(classifier(f"fold{index}") for index in range(metadata["folds"])),
            PrincipalComponents(tensors["components.mean"], tensors["components.matrix"]),
        )

    def of_image(self, image_id: str, *, is_training: bool) -> tuple[DenseClassifier, ...]:
        """The dense classifiers that answer for an image: for one of the training split, that which has not seen it."""
        return (self.folds[fold_of(image_id, len(self.folds))],) if is_training else self.folds


def fit_feature_model(
    samples: Artifact, class_count: int, settings: FeatureSettings, seed: int
) -> FeatureModel:
    """Fit all parts to the samples of the training images.

    Args:
        samples: of the schema `lite0.SAMPLES`.
        class_count: C.
        settings: of both parts.
        seed: of the classifiers.

    Raises:
        UserError: too few cells or RoIs to learn from.
    """
    labels = samples.column("cell_labels").astype(np.int64)
    fold = np.repeat(samples.column("fold"), np.diff(samples.column("cell_labels_offsets")))
    cells = samples.column("cells").astype(np.float32).reshape(-1, CELL_CHANNELS)
    pooled = samples.column("pooled").astype(np.float16).reshape(-1, POOLED_CHANNELS)
    seen = [np.ones(len(cells), bool), *(fold != index for index in range(settings.dense.folds))]
    if len(pooled) < 2 or any(not rows.any() for rows in seen):
        raise UserError(
            f"too few images to learn from: {len(cells)} cells and {len(pooled)} RoIs were sampled",
            where="weaksam wsod",
            remedy="Give more labelled images, or fewer network.dense.folds",
        )
    fitted = [fit_dense(cells[rows], labels[rows], class_count, settings.dense, seed) for rows in seen]
    components = fit_components(pooled, min(settings.features.components, POOLED_CHANNELS))
    return FeatureModel(fitted[0], tuple(fitted[1:]), components)
