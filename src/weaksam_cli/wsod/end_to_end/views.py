"""What the network sees of an image: resized, mirrored, lit and normalised, with the proposals (spec 04 §A.5, §A.6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core import boxes as box_math
from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.detectron.resize import resize, resized_shape
from weaksam_cli.wsod.end_to_end.recipe import (
    InferenceSettings,
    PixelSettings,
    ProposalSettings,
    TrainImageSettings,
)
from weaksam_cli.wsod.proposal_filter import ProposalFilter, filter_proposals

COLOUR_EIGENVALUES: Final = (0.2175, 0.0188, 0.0045)
"""Of ImageNet's colours, RGB from 0 to 1 (published with AlexNet and fb.resnet)."""
COLOUR_EIGENVECTORS: Final = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
"""A row for each of R, G and B, a column for each component."""


@dataclass(frozen=True)
class View:
    """An image as the network takes it.

    Attributes:
        pixels: float32 (3, h, w), normalised, channels in the order of the settings.
        boxes: float32 (R, 4), the proposals in pixels of the view, xyxy edges.
        scale: width and height of the view relative to the image's.
        mirrored: left and right are swapped.
    """

    pixels: FloatArray
    boxes: FloatArray
    scale: tuple[float, float]
    mirrored: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]


def usable_proposals(boxes: FloatArray, height: int, width: int, settings: ProposalSettings) -> FloatArray:
    """Proposals that are used, at least one: the box of the whole image where none is left.

    Args:
        boxes: float32 (n, 4), xyxy pixel edges.
        height: of the image in pixels.
        width: of the image in pixels.
        settings: what is left out; `most` counts what the other rules leave.

    Returns:
        float32 (m, 4), cut to the image, in the order of `boxes`.
    """
    rule = ProposalFilter(settings.min_side, settings.above, settings.cell)
    return filter_proposals(boxes, height, width, rule).boxes[: settings.most]


def training_view(
    image: NDArray[np.uint8],
    boxes: FloatArray,
    settings: TrainImageSettings,
    pixels: PixelSettings,
    rng: np.random.Generator,
) -> View:
    """A view drawn at random; a pure function of the arguments and the state of `rng`.

    Args:
        image: uint8 RGB (H, W, 3).
        boxes: float32 (R, 4), xyxy pixel edges of the image.
        settings: sizes, mirroring and lighting.
        pixels: normalisation.
        rng: draws the size, the mirror image and, where there is any, the lighting, in this order.
    """
    short_side = int(rng.choice(np.asarray(settings.short_sides)))
    mirrored = bool(rng.random() < settings.flip)
    noise = lighting_noise(rng, settings.lighting) if settings.lighting > 0 else np.zeros(3)
    plain = _plain_view(image, boxes, short_side, settings.max_size, pixels, noise)
    return _mirror(plain) if mirrored else plain


def test_views(
    image: NDArray[np.uint8], boxes: FloatArray, inference: InferenceSettings, pixels: PixelSettings
) -> Iterator[View]:
    """The views that are averaged, one after the other: each size plain, then mirrored where the settings say so.

    Args:
        image: uint8 RGB (H, W, 3).
        boxes: float32 (R, 4), xyxy pixel edges of the image.
        inference: sizes and mirroring.
        pixels: normalisation.
    """
    for short_side in inference.short_sides:
        view = _plain_view(image, boxes, short_side, inference.max_size, pixels, np.zeros(3))
        yield view
        if inference.flip:
            yield _mirror(view)


def boxes_to_image(boxes: FloatArray, view: View, height: int, width: int) -> FloatArray:
    """Boxes of a view as boxes of the image, cut to it.

    Args:
        boxes: float32 (..., 4), xyxy pixel edges of the view.
        view: where they were found.
        height: of the image in pixels.
        width: of the image in pixels.
    """
    rows = boxes.reshape(-1, 4)
    plain = box_math.flip_horizontal(rows, view.size[1]) if view.mirrored else rows
    factor_x, factor_y = view.scale
    back = box_math.clip(box_math.scale(plain, 1 / factor_x, 1 / factor_y), height, width)
    return back.reshape(boxes.shape)


def lighting_noise(rng: np.random.Generator, deviation: float) -> NDArray[np.float64]:
    """What AlexNet's lighting noise adds to R, G and B from 0 to 1 in the whole image, shape (3,)."""
    strength = rng.normal(0.0, deviation, 3) * COLOUR_EIGENVALUES
    noise: NDArray[np.float64] = np.asarray(COLOUR_EIGENVECTORS) @ strength
    return noise


def _plain_view(
    image: NDArray[np.uint8],
    boxes: FloatArray,
    short_side: int,
    max_size: int,
    pixels: PixelSettings,
    noise: NDArray[np.float64],
) -> View:
    height, width = resized_shape(image.shape[0], image.shape[1], short_side, max_size)
    scale = width / image.shape[1], height / image.shape[0]
    normalised = _normalise(resize(image, height, width), pixels, noise)
    return View(normalised, box_math.scale(boxes, *scale), scale, mirrored=False)


def _normalise(
    image: NDArray[np.uint8], pixels: PixelSettings, noise: NDArray[np.float64]
) -> NDArray[np.float32]:
    """float32 (3, H, W) of uint8 RGB (H, W, 3); `noise` (3,) is added to RGB from 0 to 1 before."""
    order = slice(None) if pixels.order == "RGB" else slice(None, None, -1)
    # Noise and mean are constants of a channel, so one pass over the pixels does for both.
    shift = np.asarray(pixels.mean) - 255 * noise[order]
    planes = np.ascontiguousarray(image[:, :, order].transpose(2, 0, 1), dtype=np.float32)
    planes -= shift.astype(np.float32)[:, None, None]
    planes /= np.asarray(pixels.deviation, np.float32)[:, None, None]
    return planes


def _mirror(view: View) -> View:
    return View(
        np.ascontiguousarray(view.pixels[:, :, ::-1]),
        box_math.flip_horizontal(view.boxes, view.size[1]),
        view.scale,
        mirrored=not view.mirrored,
    )
