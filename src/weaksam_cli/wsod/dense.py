"""The dense classifier: cells of an image learn the class that its class activation maps show there, or background.

It distils the maps of all training images into one classifier of cells, which then sees the same thing in every
image: its maps cover objects better than those that it learnt from, and it needs no labels on new images. Cells are
those of lite0's stride-16 map; a cell's descriptor joins that map with the trunk's last map at the same place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from weaksam_cli.wsod.recipe import DenseSettings

FloatArray = NDArray[np.float32]
CELL_CHANNELS = 112 + 320
_DEVIATION_FLOOR = 1e-3


def describe_cells(middle: torch.Tensor, trunk: torch.Tensor) -> torch.Tensor:
    """Descriptors (432, h, w) of the cells of one image: `middle` (112, h, w), `trunk` (320, h', w') resized to it."""
    resized = F.interpolate(trunk[None], size=tuple(middle.shape[1:]), mode="bilinear", align_corners=False)[
        0
    ]
    return torch.cat([middle, resized])


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
    chosen, labels = [], []
    for rows, is_object in (
        (np.flatnonzero(strength > settings.foreground), True),
        (np.flatnonzero(strength < settings.background), False),
    ):
        some = (
            generator.choice(rows, min(settings.cells // 2, len(rows)), replace=False) if len(rows) else rows
        )
        chosen.append(some)
        labels.append(np.asarray(classes)[best[some]] + 1 if is_object else np.zeros(len(some), np.int64))
    return flat[np.concatenate(chosen)], np.concatenate(labels).astype(np.int64)


def fold_of(image_id: str, folds: int) -> int:
    """The fold of an image, the same on every machine."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8]) % folds


@dataclass(frozen=True)
class DenseClassifier:
    """A two-layer perceptron over standardised cells.

    Attributes:
        mean, deviation: float32 (432,).
        network: 432 -> C + 1, background first; in evaluation mode.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    network: nn.Sequential

    @torch.inference_mode()
    def logits(self, cells: torch.Tensor) -> torch.Tensor:
        """(C + 1, h, w) of cells (432, h, w)."""
        flat = cells.reshape(len(cells), -1).T
        found = self.network((flat - self.mean) / self.deviation)
        return found.T.reshape(-1, *cells.shape[1:])

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors by name."""
        return {"mean": self.mean, "deviation": self.deviation, **self.network.state_dict()}

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> DenseClassifier:
        """From `state`."""
        hidden, outputs = state["0.weight"].shape[0], state["3.weight"].shape[0]
        network = _network(hidden, outputs, 0.0)
        network.load_state_dict({name: value for name, value in state.items() if name[0].isdigit()})
        return cls(state["mean"], state["deviation"], network.eval())


def _network(hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(CELL_CHANNELS, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )


def fit_dense(
    cells: FloatArray, labels: NDArray[np.int64], n_classes: int, settings: DenseSettings, seed: int
) -> DenseClassifier:
    """Fit the classifier by Adam with a linearly falling rate; deterministic from the seed.

    Args:
        cells: float32 (n, 432).
        labels: int64 (n,), 0 background.
        n_classes: C.
        settings: network and schedule.
        seed: initial weights, order and dropout.

    Raises:
        ValueError: when there are no cells.
    """
    if not len(cells):
        raise ValueError("cells: expected at least one, got none")
    mean = torch.from_numpy(cells.mean(axis=0))
    deviation = torch.from_numpy(cells.std(axis=0) + np.float32(_DEVIATION_FLOOR))
    inputs, targets = (torch.from_numpy(cells) - mean) / deviation, torch.from_numpy(labels)
    torch.manual_seed(seed)
    network = _network(settings.hidden, n_classes + 1, settings.dropout).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
    batch = 1024
    total = settings.epochs * -(-len(cells) // batch)
    generator = np.random.default_rng(seed)
    step = 0
    for _ in range(settings.epochs):
        order = torch.from_numpy(generator.permutation(len(cells)))
        for rows in order.split(batch):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * (1 - step / total)
            loss = F.cross_entropy(network(inputs[rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return DenseClassifier(mean, deviation, network.eval())
