"""What detectron2 needs of a training, and gives it: its event storage, its mapper and augmentations."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.training.batches import augmentation_rng
from weaksam_cli.training.loop import Training, optimizer_step

import_detectron2()

from detectron2.data import DatasetMapper  # noqa: E402
from detectron2.data.transforms import AugInput  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402

ImageReader = Callable[[str], NDArray[np.uint8]]
"""From an image's key to uint8 RGB (H, W, 3)."""
FIGURES: Final = "dropped/"
"""Names that begin with this are figures of the log."""
_DRAWING: Final = threading.Lock()


def step_in_event_storage(training: Training, batch: Any) -> dict[str, float]:
    """The usual step with an `EventStorage` around it, which proposal networks and heads ask for the iteration.

    Of what they put into it, the log keeps what they dropped (`FIGURES`; means over the parts of a batch). detectron2's
    hooks are not run: rates and checkpoints are the loop's, and there is nothing to evaluate, because a training never sees
    ground truth.
    """
    with EventStorage(training.iteration) as storage:
        losses = optimizer_step(training, batch)
        training.figures = {
            name: history.global_avg()
            for name, history in storage.histories().items()
            if name.startswith(FIGURES)
        }
    return losses


def image_tensor(image: NDArray[np.uint8], channel_order: str) -> Tensor:
    """uint8 tensor (3, H, W) in the order `RGB` or `BGR` of an RGB image (H, W, 3)."""
    ordered = image if channel_order == "RGB" else image[:, :, ::-1]
    return torch.from_numpy(np.ascontiguousarray(ordered.transpose(2, 0, 1)))


class SeededMapper(DatasetMapper):
    """detectron2's mapper of training images, whose random numbers are functions of (seed, iteration, position).

    Args:
        cfg: detectron2's configuration.
        entries: detectron2's dataset dicts with an image's `key` in place of a file name.
        read_image: an image by its key.
        seed: decides every draw.
        augmentations: detectron2's.
    """

    def __init__(
        self,
        cfg: Any,
        entries: Sequence[Mapping[str, Any]],
        read_image: ImageReader,
        seed: int,
        augmentations: Sequence[Any],
    ) -> None:
        super().__init__(cfg, is_train=True, augmentations=list(augmentations))
        self.entries, self.read_image, self.seed = entries, read_image, seed

    def item(self, iteration: int, position: int, index: int) -> dict[str, Any]:
        """The augmented image number `index` as detectron2's models take it: `image`, `instances`, and the entry's keys."""
        entry = copy.deepcopy(dict(self.entries[index]))
        augmented = AugInput(self.read_image(entry["key"]))
        with _global_draws(augmentation_rng(self.seed, iteration, position)):
            transforms = self.augmentations(augmented)
        entry["image"] = image_tensor(augmented.image, self.image_format)
        self._transform_annotations(entry, transforms, augmented.image.shape[:2])
        return entry


@contextmanager
def _global_draws(generator: np.random.Generator) -> Iterator[None]:
    """Inside, numpy's global random numbers, which detectron2's augmentations draw, are those of `generator`.

    One thread at a time, so of several threads that load images only the reading is done side by side.
    """
    with _DRAWING:
        before = np.random.get_state()
        np.random.seed(generator.integers(2**32, dtype=np.uint32))
        try:
            yield
        finally:
            np.random.set_state(before)
