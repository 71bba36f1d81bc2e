"""What RoI features are made with: dense classifiers (one that saw every training image, one a fold) and components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from weaksam_cli.errors import UserError
from weaksam_cli.training.checkpoint import read_metadata, read_tensors, tensors_bytes
from weaksam_cli.wsod.dense import CELL_CHANNELS, DenseClassifier, fit_dense
from weaksam_cli.wsod.recipe import RegionDetectorRecipe
from weaksam_cli.wsod.region_features import PrincipalComponents, fit_components


@dataclass(frozen=True)
class Basis:
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
        tensors: dict[str, torch.Tensor] = {
            "components.mean": self.components.mean,
            "components.matrix": self.components.components,
        }
        for name, classifier in [
            ("whole", self.whole),
            *((f"fold{i}", item) for i, item in enumerate(self.folds)),
        ]:
            tensors.update({f"{name}/{key}": value for key, value in classifier.state().items()})
        return tensors_bytes(tensors, {"class_names": class_names, "folds": len(self.folds)})

    @classmethod
    def read(cls, path: Path, class_names: list[str]) -> Basis:
        """From a file of `to_bytes`.

        Raises:
            UserError: a damaged file, or one for other classes.
        """
        metadata, tensors = read_metadata(path), read_tensors(path)
        if metadata.get("class_names") != class_names:
            raise UserError(
                f"was made for the classes {metadata.get('class_names')}, the dataset has {class_names}",
                where=str(path),
                remedy="Run `weaksam wsod --overwrite` on this dataset",
            )
        return cls(
            _classifier(tensors, "whole"),
            tuple(_classifier(tensors, f"fold{index}") for index in range(metadata["folds"])),
            PrincipalComponents(tensors["components.mean"], tensors["components.matrix"]),
        )


def _classifier(tensors: Mapping[str, torch.Tensor], name: str) -> DenseClassifier:
    state = {key.partition("/")[2]: value for key, value in tensors.items() if key.startswith(f"{name}/")}
    return DenseClassifier.from_state(state)


def fit_basis(
    cells: NDArray[np.float16],
    labels: NDArray[np.int16],
    fold: NDArray[np.int8],
    pooled: NDArray[np.float16],
    n_classes: int,
    recipe: RegionDetectorRecipe,
    seed: int,
) -> Basis:
    """Fit all parts.

    Args:
        cells: (n, 432), sampled cells.
        labels: (n,), 0 background, class + 1 otherwise.
        fold: (n,), fold of the image of each cell.
        pooled: (m, 2560), pooled features of sampled RoIs.
        n_classes: C.
        recipe: settings.
        seed: of the classifiers.

    Raises:
        UserError: too few cells or RoIs to learn from.
    """
    folds = recipe.dense.folds
    seen = [np.ones(len(cells), bool), *(fold != index for index in range(folds))]
    if len(pooled) < 2 or any(not rows.any() for rows in seen):
        raise UserError(
            f"too few images to learn from: {len(cells)} cells and {len(pooled)} RoIs were sampled",
            where="weaksam wsod",
            remedy="Give more labelled images, or fewer dense.folds",
        )
    flat = cells.reshape(-1, CELL_CHANNELS).astype(np.float32)
    targets = labels.astype(np.int64)
    fitted = [fit_dense(flat[rows], targets[rows], n_classes, recipe.dense, seed) for rows in seen]
    components = fit_components(pooled, min(recipe.features.components, pooled.shape[1]))
    return Basis(fitted[0], tuple(fitted[1:]), components)
