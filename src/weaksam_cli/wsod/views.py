"""What the network sees of an image: resized, mirrored, lit and normalised, with the proposals (spec 04 §A.5, §A.6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weaksam_cli.core import boxes as box_math
from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.wsod.vgg16 import PixelSettings, Vgg16, Vgg16Training, ViewSettings

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
        inclusive: boxes are scaled as inclusive pixel indexes.
    """

    pixels: FloatArray
    boxes: FloatArray
    scale: tuple[float, float]
    mirrored: bool
    inclusive: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]


def training_view(
    image: NDArray[np.uint8], boxes: FloatArray, network: Vgg16Training, rng: np.random.Generator
) -> View:
    """A view drawn at random; a pure function of the arguments and the state of `rng`.

    Args:
        image: uint8 RGB (H, W, 3).
        boxes: float32 (R, 4), xyxy pixel edges of the image.
        network: sizes, mirroring, lighting and normalisation.
        rng: draws the size, the mirror image and, where there is any, the lighting, in this order.
    """
    settings = network.train_images
    short_side = int(rng.choice(np.asarray(settings.short_sides)))
    mirrored = bool(rng.random() < settings.flip)
    noise = lighting_noise(rng, settings.lighting) if settings.lighting > 0 else np.zeros(3)
    plain = _plain_view(image, boxes, short_side, network, noise)
    return _mirror(plain) if mirrored else plain


def paired_views(
    image: NDArray[np.uint8], boxes: FloatArray, network: Vgg16Training, rng: np.random.Generator
) -> list[View]:
    """Views of one image: two sizes drawn at random, each plain and, where `flip` says so, mirrored (CASD, spec 10b §A.2).

    Two different sizes where there are two. Lighting is drawn once for all.

    Args:
        image: uint8 RGB (H, W, 3).
        boxes: float32 (R, 4), xyxy pixel edges of the image.
        network: sizes, lighting and normalisation.
        rng: draws the sizes, the mirror images and, where there is any, the lighting, in this order.
    """
    settings = network.train_images
    sides = np.asarray(settings.short_sides)
    drawn = rng.choice(sides, 2, replace=len(sides) < 2)
    mirrored = bool(rng.random() < settings.flip)
    noise = lighting_noise(rng, settings.lighting) if settings.lighting > 0 else np.zeros(3)
    plain = [_plain_view(image, boxes, int(side), network, noise) for side in drawn]
    return [view for item in plain for view in ((item, _mirror(item)) if mirrored else (item,))]


def test_views(image: NDArray[np.uint8], boxes: FloatArray, network: Vgg16) -> Iterator[View]:
    """The views that are averaged, one after the other: each size plain, then mirrored where the settings say so.

    Args:
        image: uint8 RGB (H, W, 3).
        boxes: float32 (R, 4), xyxy pixel edges of the image.
        network: sizes, mirroring and normalisation.
    """
    for short_side in network.test_images.short_sides:
        view = _plain_view(image, boxes, short_side, network, np.zeros(3))
        yield view
        if network.test_images.flip:
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
    back = _scaled(plain, (1 / factor_x, 1 / factor_y), inclusive=view.inclusive)
    return box_math.clip(back, height, width).reshape(boxes.shape)


def lighting_noise(rng: np.random.Generator, deviation: float) -> NDArray[np.float64]:
    """What AlexNet's lighting noise adds to R, G and B from 0 to 1 in the whole image, shape (3,)."""
    strength = rng.normal(0.0, deviation, 3) * COLOUR_EIGENVALUES
    noise: NDArray[np.float64] = np.asarray(COLOUR_EIGENVECTORS) @ strength
    return noise


def view_size(height: int, width: int, short_side: int, settings: ViewSettings) -> tuple[int, int]:
    """Height and width of the view of an image, with `short_side` unless the longer side is too long then."""
    short, long = min(height, width), max(height, width)
    if settings.sizes == "rounded":
        factor = min(short_side / short, settings.max_size / long)
        return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)
    if long * short_side > settings.max_size * short:
        short_side = max(round(settings.max_size * short / long), 1)
    longer = int(short_side * long / short)
    return (short_side, longer) if height <= width else (longer, short_side)


def _plain_view(
    image: NDArray[np.uint8],
    boxes: FloatArray,
    short_side: int,
    network: Vgg16Training,
    noise: NDArray[np.float64],
) -> View:
    height, width = view_size(image.shape[0], image.shape[1], short_side, network.views)
    scale = width / image.shape[1], height / image.shape[0]
    # Bilinear with antialiasing, as detectron2 resizes.
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    normalised = _normalise(np.asarray(resized), network.pixels, noise)
    inclusive = network.views.boxes == "inclusive"
    return View(
        normalised, _scaled(boxes, scale, inclusive=inclusive), scale, mirrored=False, inclusive=inclusive
    )


def _scaled(boxes: FloatArray, scale: tuple[float, float], *, inclusive: bool) -> FloatArray:
    """Boxes (n, 4) on pixel edges, scaled as such or as inclusive pixel indexes."""
    if not inclusive:
        return box_math.scale(boxes, *scale)
    return box_math.inclusive_to_edges(box_math.scale(box_math.edges_to_inclusive(boxes), *scale))


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
    return replace(
        view,
        pixels=np.ascontiguousarray(view.pixels[:, :, ::-1]),
        boxes=box_math.flip_horizontal(view.boxes, view.size[1]),
        mirrored=not view.mirrored,
    )
