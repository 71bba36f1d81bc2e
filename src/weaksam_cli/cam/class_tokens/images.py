"""Training images in a seeded order, the same for any number of loading processes.

What is shown in an iteration is a function of (seed, epoch, image) alone, so a resumed training sees the same views.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from weaksam_cli.cam.class_tokens.method import AugmentSettings, FitSettings
from weaksam_cli.cam.stage import label_rows, normalised
from weaksam_cli.data.labels import Labels
from weaksam_cli.engine.processes import ALONE, Processes
from weaksam_cli.errors import ImageError
from weaksam_cli.models.lite import IMAGENET_MEAN, IMAGENET_STD
from weaksam_cli.training.batches import Batches

WHOLE: Final = -1
"""In place of an epoch: the image as it is, for the criterion."""
_ORDER, _VIEW = 0, 1
_MOST_KEPT_BYTES: Final = 1 << 28
"""A dataset whose pixels take no more is read once a process and kept."""

Ticket = tuple[int, int]
"""Epoch, or `WHOLE`, and index of an image."""


@dataclass(frozen=True)
class Shown:
    """Images that the network sees together.

    Attributes:
        indexes: of the images that could be read.
        views: float32 (B, 3, crop, crop); None when none could.
        failed: index of an image that could not -> why.
    """

    indexes: list[int]
    views: Tensor | None
    failed: dict[int, str]


class TrainingImages(Dataset[tuple[int, Tensor | str]]):
    """The labelled images of a training split.

    Args:
        labels: the split's labels.
        keys: images that are learnt from.
        settings: crop, augmentation, and which epochs are examined.
        seed: decides every order and every view.

    Attributes:
        targets: bool (n, C), the image-level labels.
    """

    def __init__(self, labels: Labels, keys: Sequence[str], settings: FitSettings, seed: int) -> None:
        by_key = labels.by_key()
        self.keys = tuple(keys)
        self.targets = label_rows(labels, keys)
        self._labels, self._images = labels, [by_key[key] for key in keys]
        self.settings, self.seed = settings, seed
        self._transform: Any = None
        pixels = sum(image.height * image.width for image in self._images)
        self._kept: dict[int, NDArray[np.uint8]] | None = {} if 3 * pixels <= _MOST_KEPT_BYTES else None

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, ticket: Ticket) -> tuple[int, Tensor | str]:
        """The index with the view, float32 (3, crop, crop), or with why the image cannot be read."""
        epoch, index = ticket
        crop = self.settings.crop
        try:
            pixels = self._read(index)
        except ImageError as error:
            return index, error.what
        if epoch == WHOLE:  # squeezed into the square: its labels hold for all of it
            return index, torch.from_numpy(normalised(pixels, (crop, crop), IMAGENET_MEAN, IMAGENET_STD))
        if self._transform is None:
            self._transform = training_transform(self.settings.augment, crop)
        with seeded(self.seed, _VIEW, epoch, index):
            return index, self._transform(Image.fromarray(pixels))

    def batches(self, workers: int, processes: Processes = ALONE) -> Batches:
        """For each iteration its images, and an iterator over all images as they are, to be used up where it is examined.

        Args:
            workers: processes that load ahead; 0 loads in this one. They are no threads, as in `training.batches`: timm's
                augmentation draws from the global random numbers.
            processes: that train together; this one has its share of each batch.

        Raises:
            UserError: the batches cannot be shared evenly.
        """
        plan = Plan.of(self)
        share = processes.share(plan.batch_size)

        def batches(start: int, stop: int) -> Generator[tuple[Shown, Iterator[Shown]], None, None]:
            loader: DataLoader[Any] = DataLoader(
                self,
                batch_sampler=plan.tickets(self.settings, start, stop, share),
                num_workers=workers,
                collate_fn=_collate,
                multiprocessing_context="spawn" if workers else None,
            )
            stream = iter(loader)
            for _ in range(start, stop):
                yield next(stream), islice(stream, plan.whole_batches)

        return batches

    def _read(self, index: int) -> NDArray[np.uint8]:
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        pixels = self._labels.read_image(self._images[index])
        if self._kept is not None:
            self._kept[index] = pixels
        return pixels


def _collate(items: list[tuple[int, Tensor | str]]) -> Shown:
    views = [view for _, view in items if isinstance(view, Tensor)]
    return Shown(
        indexes=[index for index, view in items if isinstance(view, Tensor)],
        views=torch.stack(views) if views else None,
        failed={index: why for index, why in items if isinstance(why, str)},
    )


@dataclass(frozen=True)
class Plan:
    """Which images are shown when.

    Attributes:
        n_images: at least 1.
        batch_size: images an iteration, at most all of them.
        seed: decides every order.
    """

    n_images: int
    batch_size: int
    seed: int

    @classmethod
    def of(cls, images: TrainingImages) -> Plan:
        """The plan of a training."""
        return cls(len(images), min(images.settings.batch_size, len(images)), images.seed)

    @property
    def steps(self) -> int:
        """Iterations of an epoch; the rest of its images, too few for a batch, is left out."""
        return self.n_images // self.batch_size

    @property
    def whole_batches(self) -> int:
        """Batches that show every image once."""
        return -(-self.n_images // self.batch_size)

    def training_batch(self, iteration: int) -> list[Ticket]:
        """The images of an iteration; every epoch has an order of its own."""
        epoch, step = divmod(iteration, self.steps)
        order = np.random.default_rng((self.seed, _ORDER, epoch)).permutation(self.n_images)
        start = step * self.batch_size
        return [(epoch, index) for index in order[start : start + self.batch_size].tolist()]

    def all_images(self) -> list[list[Ticket]]:
        """Every image once, in order."""
        everything = [(WHOLE, index) for index in range(self.n_images)]
        return [
            everything[start : start + self.batch_size] for start in range(0, self.n_images, self.batch_size)
        ]

    def is_examined(self, settings: FitSettings, iteration: int) -> bool:
        """Whether the network is looked at after an iteration: the last of some epochs, and of all."""
        epochs, left = divmod(iteration + 1, self.steps)
        return left == 0 and (epochs % settings.criterion_period == 0 or epochs == settings.total_epochs)

    def tickets(self, settings: FitSettings, start: int, stop: int, share: range) -> Iterator[list[Ticket]]:
        """The images at the places `share` of some batches; those that are examined are followed by all images."""
        for iteration in range(start, stop):
            batch = self.training_batch(iteration)
            yield [batch[place] for place in share]
            if self.is_examined(settings, iteration):
                yield from self.all_images()


def training_transform(settings: AugmentSettings, crop: int) -> Any:
    """A random square crop, mirrored, its colours changed, perhaps with a hole: RGB image to float32 (3, crop, crop).

    It draws from the global random numbers of Python, numpy and torch; see `seeded`.
    """
    from timm.data.transforms_factory import create_transform

    return create_transform(
        crop,
        is_training=True,
        scale=(settings.smallest_area, 1.0),
        hflip=settings.flip,
        color_jitter=settings.colour_jitter,
        auto_augment=settings.rand_augment,
        interpolation="bicubic",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        re_prob=settings.erasing,
        re_mode="pixel",
        re_count=1,
    )


@contextmanager
def seeded(*words: int) -> Iterator[None]:
    """Inside, the global random numbers are a function of `words`; afterwards they go on as if nothing had happened."""
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    states = np.random.SeedSequence(words).generate_state(3, np.uint32)
    random.seed(int(states[0]))
    np.random.seed(states[1])
    torch.default_generator.manual_seed(int(states[2]))
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(cpu)
