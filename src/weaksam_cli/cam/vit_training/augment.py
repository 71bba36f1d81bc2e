"""What the network is shown of an image: a random view by timm's augmentation, or the whole image."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from weaksam_cli.cam.vit_training.settings import AugmentSettings
from weaksam_cli.cam.vit_views import DEVIATION, MEAN

Transform = Callable[[Image.Image], Tensor]


def training_transform(settings: AugmentSettings, crop: int) -> Transform:
    """A random square crop, mirrored, its colours changed, perhaps with a hole: RGB image to float32 (3, crop, crop).

    It draws from the global random numbers of Python, numpy and torch; see `seeded`.
    """
    from timm.data.transforms_factory import create_transform

    made: Any = create_transform(
        crop,
        is_training=True,
        scale=(settings.smallest_area, 1.0),
        hflip=settings.flip,
        color_jitter=settings.colour_jitter,
        auto_augment=settings.rand_augment,
        interpolation="bicubic",
        mean=tuple(MEAN.tolist()),
        std=tuple(DEVIATION.tolist()),
        re_prob=settings.erasing,
        re_mode="pixel",
        re_count=1,
    )

    def transform(pil_image: Image.Image) -> Tensor:
        view: Tensor = made(pil_image)
        return view

    return transform


def whole_view(image: NDArray[np.uint8], crop: int) -> Tensor:
    """The whole image, uint8 (H, W, 3), squeezed into a square: float32 (3, crop, crop); its labels hold for all."""
    squeezed = Image.fromarray(image).resize((crop, crop), Image.Resampling.BICUBIC)
    values = (np.asarray(squeezed, np.float32) / np.float32(255) - MEAN) / DEVIATION
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


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
