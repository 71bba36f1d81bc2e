"""Training images in a seeded order, the same for any number of loading processes.

What is shown at a step is a function of (seed, epoch, image) alone, so a resumed training sees the same views.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from weaksam_cli.cam.vit_training.augment import Transform, seeded, training_transform, whole_view
from weaksam_cli.cam.vit_training.settings import FitSettings
from weaksam_cli.data.labels import Labels
from weaksam_cli.errors import ImageError

WHOLE: Final = -1
"""In place of an epoch: the image as it is, for the criterion."""
_ORDER, _VIEW = 0, 1
_MOST_KEPT_BYTES: Final = 1 << 28
"""A dataset whose pixels take no more is read once a process and kept."""

Ticket = tuple[int, int]
"""Epoch, or `WHOLE`, and index of an image."""


@dataclass(frozen=True)
class Batch:
    """What a step is made from.

    Attributes:
        indexes: of the images that could be read.
        views: float32 (B, 3, crop, crop); None when none could.
        failed: index of an image that could not -> why.
    """

    indexes: list[int]
    views: Tensor | None
    failed: dict[int, str]


@dataclass(frozen=True)
class Plan:
    """Which images are shown when.

    Attributes:
        n_pictures: at least 1.
        batch_size: images a step, at most all of them.
        seed: decides every order.
    """

    n_images: int
    batch_size: int
    seed: int

    @property
    def steps(self) -> int:
        """Steps of an epoch; the rest of its images, too few for a batch, is left out."""
        return self.n_images // self.batch_size

    @property
    def whole_batches(self) -> int:
        """Batches that show every image once."""
        return -(-self.n_images // self.batch_size)

    def training_batches(self, epoch: int) -> list[list[Ticket]]:
        """Images of an epoch's steps, in an order of its own."""
        order = np.random.default_rng((self.seed, _ORDER, epoch)).permutation(self.n_images).tolist()
        starts = range(0, self.steps * self.batch_size, self.batch_size)
        return [[(epoch, index) for index in order[start : start + self.batch_size]] for start in starts]

    def all_images(self) -> list[list[Ticket]]:
        """Every image once, in order."""
        starts = range(0, self.n_images, self.batch_size)
        return [
            [(WHOLE, index) for index in range(start, min(start + self.batch_size, self.n_images))]
            for start in starts
        ]


class _Stream(Sampler[list[Ticket]]):
    """The batches of some epochs; those that are examined are followed by all images as they are."""

    def __init__(self, plan: Plan, epochs: range, settings: FitSettings) -> None:
        self._plan, self._epochs, self._settings = plan, epochs, settings

    def __iter__(self) -> Iterator[list[Ticket]]:
        for epoch in self._epochs:
            yield from self._plan.training_batches(epoch)
            if self._settings.is_examined(epoch):
                yield from self._plan.all_images()


class TrainingImages(Dataset[tuple[int, Tensor | str]]):
    """The labelled images of a training split.

    Args:
        labels: the split's labels.
        keys: images that are learnt from.
        settings: crop, augmentation, and which epochs are examined.
        seed: decides every view.
    """

    def __init__(self, labels: Labels, keys: Sequence[str], settings: FitSettings, seed: int) -> None:
        by_key = labels.by_key()
        self.keys = tuple(keys)
        self._labels, self._images = labels, [by_key[key] for key in keys]
        self.settings, self._seed = settings, seed
        self._transform: Transform | None = None
        pixels = sum(image.height * image.width for image in self._images)
        self._kept: dict[int, NDArray[np.uint8]] | None = {} if 3 * pixels <= _MOST_KEPT_BYTES else None

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, ticket: Ticket) -> tuple[int, Tensor | str]:
        """The index with the view, float32 (3, crop, crop), or with why the image cannot be read."""
        epoch, index = ticket
        try:
            pixels = self._read(index)
        except ImageError as error:
            return index, error.what
        return index, whole_view(pixels, self.settings.crop) if epoch == WHOLE else self._random_view(
            pixels, epoch, index
        )

    def targets(self) -> NDArray[np.bool_]:
        """bool (n, C): the image-level labels."""
        rows = np.zeros((len(self), len(self._labels.class_names)), dtype=bool)
        for row, image in enumerate(self._images):
            rows[row, self._labels.class_indexes(image)] = True
        return rows

    def _read(self, index: int) -> NDArray[np.uint8]:
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        pixels = self._labels.read_image(self._images[index])
        if self._kept is not None:
            self._kept[index] = pixels
        return pixels

    def _random_view(self, pixels: NDArray[np.uint8], epoch: int, index: int) -> Tensor:
        if self._transform is None:
            self._transform = training_transform(self.settings.augment, self.settings.crop)
        with seeded(self._seed, _VIEW, epoch, index):
            return self._transform(Image.fromarray(pixels))


def _collate(items: list[tuple[int, Tensor | str]]) -> Batch:
    views = [view for _, view in items if isinstance(view, Tensor)]
    return Batch(
        indexes=[index for index, view in items if isinstance(view, Tensor)],
        views=torch.stack(views) if views else None,
        failed={index: why for index, why in items if isinstance(why, str)},
    )


def batches(images: TrainingImages, plan: Plan, epochs: range, workers: int) -> Iterator[Batch]:
    """For each epoch its steps' batches; where it is examined, then batches of all images as they are.

    Args:
        images: what is shown.
        plan: in which order.
        epochs: which epochs.
        workers: processes that load ahead; 0 loads in this one.
    """
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_sampler=_Stream(plan, epochs, images.settings),
        num_workers=workers,
        collate_fn=_collate,
        multiprocessing_context="spawn" if workers else None,
    )
    return iter(loader)
