"""What is measured once per image: colour spaces, quantised colours and textures, gradient, over-segmentations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from weaksam_cli.propose.region_tree.settings import ColourSpace, Oversegmentation

COLOUR_BINS = 25
ORIENTATIONS = 8
MAGNITUDES = 6
TEXTURE_BINS = ORIENTATIONS * MAGNITUDES

Bins = NDArray[np.int32]


@dataclass(frozen=True)
class PixelFeatures:
    """Per-pixel measurements of an image of h x w pixels.

    Attributes:
        colours: uint8 (h, w, 3) image per colour space.
        lab: int32 (3, h * w), colour bin of every pixel and Lab channel, in [0, COLOUR_BINS).
        hsv: the same of HSV.
        texture: int32 (3, h * w), bin of gradient orientation and magnitude, in [0, TEXTURE_BINS).
        gradient: float32 (h, w), in [0, 1].
    """

    colours: Mapping[ColourSpace, NDArray[np.uint8]]
    lab: Bins
    hsv: Bins
    texture: Bins
    gradient: NDArray[np.float32]


def pixel_features(image: NDArray[np.uint8]) -> PixelFeatures:
    """Measure an RGB image, uint8 (h, w, 3)."""
    lab = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), dtype=np.uint8)
    hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), dtype=np.uint8)
    colours: dict[ColourSpace, NDArray[np.uint8]] = {"rgb": image, "lab": lab, "hsv": hsv}
    texture, gradient = _texture(lab)
    return PixelFeatures(colours, _colour_bins(lab), _colour_bins(hsv), texture, gradient)


def oversegment(features: PixelFeatures, how: Oversegmentation, smoothing: float) -> NDArray[np.int32]:
    """Labels (h, w), 0 to n - 1 without gaps."""
    method = cv2.ximgproc.segmentation.createGraphSegmentation(smoothing, how.scale, how.min_area)
    labels = np.asarray(method.processImage(features.colours[how.colour]), dtype=np.int32)
    return labels


def _colour_bins(values: NDArray[np.uint8]) -> Bins:
    flat = values.reshape(-1, 3).T.astype(np.int32)
    return (flat * COLOUR_BINS) >> 8


def _texture(lab: NDArray[np.uint8]) -> tuple[Bins, NDArray[np.float32]]:
    """Texture bins (3, h * w) and the magnitude of the gradient over the three channels (h, w)."""
    bins = []
    energy = np.zeros(lab.shape[:2], np.float32)
    blurred = np.asarray(cv2.GaussianBlur(lab, (0, 0), 1.0))
    for channel in range(3):
        plane = np.ascontiguousarray(blurred[..., channel])
        across = np.asarray(cv2.Sobel(plane, cv2.CV_32F, 1, 0, ksize=3))
        down = np.asarray(cv2.Sobel(plane, cv2.CV_32F, 0, 1, ksize=3))
        magnitude, angle = (np.asarray(part) for part in cv2.cartToPolar(across, down))
        energy += magnitude * magnitude
        orientation = (angle * np.float32(ORIENTATIONS / (2 * np.pi))).astype(np.int32) % ORIENTATIONS
        strength = np.minimum(np.log2(magnitude * np.float32(0.25) + 1).astype(np.int32), MAGNITUDES - 1)
        bins.append((orientation * MAGNITUDES + strength).ravel())
    # A step of full contrast in one channel gives 4 * 255 after the Sobel kernel.
    gradient = np.minimum(np.sqrt(energy) / np.float32(4 * 255), 1).astype(np.float32)
    return np.stack(bins), gradient
