"""`weaksam cam`: class activation maps from image-level labels. What all its methods share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weaksam_cli.artifacts.class_maps import cam_schema, cam_tables
from weaksam_cli.console import Console
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.labels import LabelChoice, LabelledImage, Labels, Split
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.predictors import Predictor
from weaksam_cli.engine.sharded import ImageByImage, PerImage
from weaksam_cli.engine.stages import Stage
from weaksam_cli.engine.steps import Step
from weaksam_cli.errors import UserError

STAGE: Final = Stage("cam", 1, "cam", "{split}.h5", cam_schema())


class LabelSettings(LabelChoice):
    """Whose classes get maps.

    Attributes:
        label_source: `auto` takes labels in training splits and predictions in others.
    """

    label_source: Literal["auto", "given", "predicted"] = "auto"

    def given(self, labels: Labels, image: LabelledImage) -> list[int] | None:
        """Indexes of the classes of an image's labels; None where its classes are to be predicted."""
        used = self.label_source == "given" or (self.label_source == "auto" and labels.is_train)
        return labels.class_indexes(image) if used and image.labels is not None else None


def chosen_classes(scores: NDArray[np.float32], given: Sequence[int] | None, threshold: float) -> list[int]:
    """The classes that get maps, ascending: those given, else all of at least `threshold`, and always the best."""
    if given is not None:
        return sorted(given)
    return sorted({*np.flatnonzero(scores >= threshold).tolist(), int(scores.argmax())})


def known_images(labels: Labels, console: Console) -> list[str]:
    """Images whose labels are known, those without any class among them; tells how many are left out.

    Raises:
        UserError: when there is none, or no image of any class.
    """
    keys = [image.key for image in labels.file.images if image.labels is not None]
    left_out = len(labels.file.images) - len(keys)
    if not labels.are_known:
        raise UserError(
            "no image of the training split has a label, so there is nothing to learn from",
            where=str(labels.path),
            remedy="Give a dataset with image-level labels to `weaksam data`",
        )
    if left_out:
        console.warn(
            f"{left_out} of {len(labels.file.images)} training images have no known labels and are left out",
            left_out=left_out,
        )
    return keys


def normalised(
    image: NDArray[np.uint8], size: tuple[int, int], mean: Sequence[float], deviation: Sequence[float]
) -> NDArray[np.float32]:
    """An image uint8 RGB (H, W, 3) as a network's input: float32 (3, h, w).

    Args:
        image: the image.
        size: width and height wanted; resized bicubically by Pillow.
        mean, deviation: of RGB in [0, 1], what is subtracted and what is divided by.
    """
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), np.float32)
    values = (resized / np.float32(255) - np.asarray(mean, np.float32)) / np.asarray(deviation, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def label_rows(labels: Labels, keys: Sequence[str]) -> NDArray[np.bool_]:
    """bool (len(keys), classes): the image-level labels of some images."""
    images = labels.by_key()
    rows = np.zeros((len(keys), len(labels.class_names)), dtype=bool)
    for row, key in enumerate(keys):
        rows[row, labels.class_indexes(images[key])] = True
    return rows


def maps_step(
    context: Context,
    split: str,
    settings: RecipeModel,
    inputs: Mapping[str, Path],
    predictor: Callable[[Split, str], Predictor],
    *,
    tables: Callable[[list[str]], Mapping[str, Sequence[str]]] = lambda _: {},
    on_gpu: bool = True,
) -> Step:
    """The last step of every method: the maps of a split, image by image.

    Args:
        context: what the command was told.
        split: the images.
        settings: what decides the maps besides the inputs.
        inputs: what the maps are made from besides the labels.
        predictor: from the split and a device to what computes an image; its rows are those of `ClassMaps.to_rows`.
        tables: from the dataset's classes to what the method stores besides.
        on_gpu: whether the method uses a GPU.
    """

    def work(context: Context) -> PerImage:
        images = context.split(split)
        labels = images.read()
        device = context.worker_device() if on_gpu else "cpu"
        stored = cam_tables(labels.class_names) | dict(tables(labels.class_names))
        schema, computes = cam_schema(len(labels.class_names)), predictor(images, device)
        return PerImage(schema, labels.keys, computes, "maps", stored, device=device)

    path, read = context.run.output("cam", split), {"data": context.run.input("data", split), **inputs}
    return Step(path, STAGE.schema, split, settings, read, ImageByImage(work), "class activation maps")
