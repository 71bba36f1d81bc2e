"""From the views of one image to its class activation maps by a class-token transformer: one forward for all kinds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps
from weaksam_cli.cam.vit_classes import class_slots
from weaksam_cli.cam.vit_recipe import MCTformerRecipe, VitRecipe, WeakTrRecipe
from weaksam_cli.cam.vit_views import Views
from weaksam_cli.core.maps import classes_of_views
from weaksam_cli.data.labels import Category
from weaksam_cli.errors import UserError
from weaksam_cli.models.vit.attention import Workspace
from weaksam_cli.models.vit.checkpoint import (
    VitCheckpoint,
    build_mctformer,
    build_weaktr,
    read_checkpoint,
)
from weaksam_cli.models.vit.clues import ClueMaps
from weaksam_cli.models.vit.mctformer import MCTformer
from weaksam_cli.models.vit.weaktr import WeakTr

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class ClueNetwork:
    """A network, and how it is asked.

    Attributes:
        network: frozen, in evaluation mode.
        slots: the class token of every class of the dataset.
        recipe: what maps are wanted.
        device: where it lives.
        workspace: memory that every forward uses again.
    """

    network: WeakTr | MCTformer
    slots: tuple[int, ...]
    recipe: VitRecipe
    device: str
    workspace: Workspace = field(default_factory=Workspace)

    def batches(self, pixels: FloatArray) -> Iterator[tuple[Tensor, list[bool]]]:
        """The views of one size, with whether each is mirrored.

        A view and its mirror image are one batch on a GPU. On a CPU they come one after the other: a batch is no faster
        there (benchmarks/cam.py) and takes twice the memory.
        """
        plain = torch.from_numpy(pixels)[None].to(self.device)
        views = [(plain, False), (plain.flip(-1), True)] if self.recipe.flip else [(plain, False)]
        if self.device == "cpu":
            yield from ((view, [mirrored]) for view, mirrored in views)
        else:
            yield torch.cat([view for view, _ in views]), [mirrored for _, mirrored in views]

    def autocast(self) -> AbstractContextManager[object]:
        """Half precision where the recipe allows it and there is a GPU."""
        if self.recipe.precision == "auto" and self.device != "cpu":
            return torch.autocast("cuda", torch.float16)
        return nullcontext()


def open_network(
    recipe: VitRecipe, weights: Path, categories: Sequence[Category], device: str
) -> ClueNetwork:
    """Load the network of a recipe and find the dataset's classes in it.

    Raises:
        UserError: the checkpoint does not fit the recipe or the dataset.
    """
    checkpoint = read_checkpoint(weights)
    shape = checkpoint.shape(recipe.heads)
    missing = [layer for layer in recipe.cross_layers if layer >= shape.depth]
    if missing:
        raise UserError(
            f"cross_layers: there is no layer {missing[0]}, the network has {shape.depth}, counted from 0",
            where=str(weights),
            remedy=f"Give --set 'cross_layers=[{max(0, shape.depth - 2)}, {shape.depth - 1}]'",
        )
    slots = class_slots(categories, shape.n_classes, checkpoint.class_names, where=str(weights))
    network = _build(recipe, checkpoint).to(device)
    return ClueNetwork(network, tuple(slots), recipe, device)


def _build(recipe: VitRecipe, checkpoint: VitCheckpoint) -> WeakTr | MCTformer:
    if isinstance(recipe, WeakTrRecipe):
        return build_weaktr(
            checkpoint,
            fusion=recipe.fusion,
            pool=recipe.pool,
            attention_type=recipe.attention_type,
            heads=recipe.heads,
        )
    if isinstance(recipe, MCTformerRecipe):
        return build_mctformer(
            checkpoint,
            recipe.version,
            class_layers=recipe.class_layers,
            attention_type=recipe.attention_type,
            heads=recipe.heads,
        )
    raise TypeError(f"no network for {type(recipe).__name__}")


@torch.inference_mode()
def class_maps(clues: ClueNetwork, views: Views, given: list[int] | None) -> ClassMaps:
    """The maps of one image, one forward a view for all kinds.

    The maps of a scale are the sum over its views, mirror images mirrored back, as the published code sums them at image
    size: resizing is linear and symmetric, so the sum may come first.

    Args:
        clues: the network.
        views: the image.
        given: indexes of the classes that get maps; None predicts them from the class-token logits: the first view in which
            a class exceeds the threshold decides, and views before it count for nothing.
    """
    rows = MapRows()
    seen: list[FloatArray] = []
    for scale, pixels in zip(clues.recipe.scales, views.pixels, strict=True):
        for batch, mirrored in clues.batches(pixels):
            entering, found = _ask(clues, batch, given, seen)
            if found is not None:
                rows.add(scale, entering, found, mirrored)
    scores = 1 / (1 + np.exp(-np.stack(seen).astype(np.float64)))
    return rows.finish(views.image_size, scores.mean(axis=0).astype(np.float32))


def _ask(
    clues: ClueNetwork, batch: Tensor, given: list[int] | None, seen: list[FloatArray]
) -> tuple[NDArray[np.bool_], ClueMaps | None]:
    """The forward of some views: bool (B, classes), which classes enter, and their maps, None where none does.

    `seen` gets the logits of the views. What the forward keeps of its attentions is free again afterwards.
    """
    with clues.autocast():
        encoded = clues.network.encode_for_maps(batch, clues.workspace)
    seen.extend(encoded.class_logits()[:, clues.slots].float().cpu().numpy())
    entering = classes_of_views(given, np.stack(seen), clues.recipe.logit_threshold)[-len(batch) :]
    tokens = [clues.slots[index] for index in np.flatnonzero(entering.any(axis=0))]
    if not tokens:
        return entering, None
    return entering, clues.network.maps(encoded, tokens, clues.recipe.cross_layers)


class MapRows:
    """Maps of one image as they come: the views of a scale are summed."""

    def __init__(self) -> None:
        self._sums: dict[tuple[float, int], FloatArray] = {}
        self._classes: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(
        self, scale: float, entering: NDArray[np.bool_], found: ClueMaps, mirrored: Sequence[bool]
    ) -> None:
        """Add the views of one batch.

        Args:
            scale: of the views.
            entering: bool (B, classes); views with any class have the same ones.
            found: the maps of these.
            mirrored: per view, whether it shows the mirror image.
        """
        self._classes = np.flatnonzero(entering.any(axis=0))
        kinds = {"coarse": found.coarse[:, :, None], "fine": found.fine[:, :, None], "cross": found.cross}
        for name, maps in kinds.items():
            key = scale, KINDS.index(name)
            for view, classes, mirror in zip(maps, entering, mirrored, strict=True):
                if classes.any():
                    array: FloatArray = (view.flip(-1) if mirror else view).cpu().numpy()
                    before = self._sums.get(key)
                    self._sums[key] = array if before is None else before + array

    def finish(self, image_size: tuple[int, int], class_scores: FloatArray) -> ClassMaps:
        """All maps; a scale without a view that counts has none."""
        keys = [
            (scale, kind, class_row, index)
            for (scale, kind), maps in self._sums.items()
            for class_row in range(maps.shape[0])
            for index in range(maps.shape[1])
        ]
        return ClassMaps(
            class_index=np.asarray([self._classes[row] for _, _, row, _ in keys], np.int32),
            kind=np.asarray([kind for _, kind, _, _ in keys], np.int8),
            map_index=np.asarray([index for _, _, _, index in keys], np.int16),
            scale=np.asarray([scale for scale, _, _, _ in keys], np.float32),
            maps=tuple(self._sums[scale, kind][row, index] for scale, kind, row, index in keys),
            image_size=image_size,
            class_scores=class_scores,
        )
