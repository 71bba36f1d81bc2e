"""From pixels to the leaves of the trees: the working size, what is measured of pixels, regions and common borders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from weaksam_cli.core.boxes import FloatArray, IntArray, scale
from weaksam_cli.propose.region_tree import ColourSpace, Oversegmentation

COLOUR_BINS = 25
ORIENTATIONS = 8
MAGNITUDES = 6
TEXTURE_BINS = ORIENTATIONS * MAGNITUDES

Bins = NDArray[np.int32]


@dataclass(frozen=True)
class Canvas:
    """The image's own pixels and the working pixels: large images are worked on at reduced size.

    Sizes in pixels; every working pixel stands for one or more whole pixels of the image.
    """

    height: int
    width: int
    working_height: int
    working_width: int

    @classmethod
    def fit(cls, height: int, width: int, max_pixels: int) -> Canvas:
        """The canvas of an image that is reduced, if need be, to at most about `max_pixels`."""
        factor = min(1.0, float(np.sqrt(max_pixels / (height * width))))
        return cls(height, width, max(1, int(height * factor)), max(1, int(width * factor)))

    def shrink(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image (height, width, 3) at working size."""
        if (self.working_height, self.working_width) == (self.height, self.width):
            return np.ascontiguousarray(image)
        size = (self.working_width, self.working_height)
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)

    def rows(self) -> IntArray:
        """The working row of every row of the image, shape (height,)."""
        return np.arange(self.height) * self.working_height // self.height

    def columns(self) -> IntArray:
        """The working column of every column of the image, shape (width,)."""
        return np.arange(self.width) * self.working_width // self.width

    def boxes_to_image(self, boxes: FloatArray) -> FloatArray:
        """Boxes (n, 4) of whole working pixels as boxes of the image."""
        column_edges = np.searchsorted(self.columns(), np.arange(self.working_width + 1))
        row_edges = np.searchsorted(self.rows(), np.arange(self.working_height + 1))
        x0, y0, x1, y1 = boxes.astype(np.int64).T
        edges = np.stack([column_edges[x0], row_edges[y0], column_edges[x1], row_edges[y1]], axis=1)
        return edges.astype(np.float32)

    def boxes_to_working(self, boxes: FloatArray) -> FloatArray:
        """Boxes (n, 4) of the image in working coordinates."""
        return scale(boxes, self.working_width / self.width, self.working_height / self.height)

    def pixel_counts(self) -> NDArray[np.float64]:
        """Pixels of the image behind every working pixel, (working_height, working_width)."""
        rows = np.bincount(self.rows(), minlength=self.working_height)
        columns = np.bincount(self.columns(), minlength=self.working_width)
        return np.outer(rows, columns).astype(np.float64)


@dataclass(frozen=True)
class PixelFeatures:
    """Per-pixel measurements of an image of h x w pixels.

    Attributes:
        colours: uint8 (h, w, 3) image per colour space.
        bins: of Lab, HSV and texture (gradient orientation and magnitude): the bin of every pixel and channel, int32
            (3, h * w), and how many bins there are.
        gradient: float32 (h, w), in [0, 1].
    """

    colours: Mapping[ColourSpace, NDArray[np.uint8]]
    bins: tuple[tuple[Bins, int], ...]
    gradient: NDArray[np.float32]


def pixel_features(image: NDArray[np.uint8]) -> PixelFeatures:
    """Measure an RGB image, uint8 (h, w, 3)."""
    lab = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), dtype=np.uint8)
    hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), dtype=np.uint8)
    texture, gradient = _texture(lab)
    bins = ((_colour_bins(lab), COLOUR_BINS), (_colour_bins(hsv), COLOUR_BINS), (texture, TEXTURE_BINS))
    return PixelFeatures({"rgb": image, "lab": lab, "hsv": hsv}, bins, gradient)


def oversegment(features: PixelFeatures, how: Oversegmentation, smoothing: float) -> NDArray[np.int32]:
    """Labels (h, w), 0 to n - 1 without gaps."""
    method = cv2.ximgproc.segmentation.createGraphSegmentation(smoothing, how.scale, how.min_area)
    return np.asarray(method.processImage(features.colours[how.colour]), dtype=np.int32)


def _colour_bins(values: NDArray[np.uint8]) -> Bins:
    return (values.reshape(-1, 3).T.astype(np.int32) * COLOUR_BINS) >> 8


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


@dataclass(frozen=True)
class Borders:
    """Pairs of regions that touch.

    Attributes:
        pairs: int64 (e, 2), the two regions, the lower index first, pairs in ascending order.
        length: float32 (e,), pixels along the border.
        strength: float32 (e,), gradient summed along the border.
    """

    pairs: IntArray
    length: FloatArray
    strength: FloatArray


@dataclass(frozen=True)
class Leaves:
    """Regions of one over-segmentation of an image of h x w pixels.

    Attributes:
        labels: int32 (h, w), the region of every pixel.
        size: float32 (n,), areas in pixels.
        boxes: float32 (n, 4), xyxy pixel edges.
        histograms: of Lab, HSV and texture, float32 (n, bins), each row sums to 1.
        borders: the regions that touch.
    """

    labels: NDArray[np.int32]
    size: FloatArray
    boxes: FloatArray
    histograms: tuple[FloatArray, ...]
    borders: Borders

    def __len__(self) -> int:
        return len(self.size)


def describe(labels: NDArray[np.int32], features: PixelFeatures) -> Leaves:
    """Measure every region of `labels`."""
    count = int(labels.max()) + 1
    flat = labels.ravel()
    slices = find_objects(labels + 1)
    edges = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in slices]
    return Leaves(
        labels=labels,
        size=np.bincount(flat, minlength=count).astype(np.float32),
        boxes=np.asarray(edges, np.float32),
        histograms=tuple(_histogram(flat, bins, count, n_bins) for bins, n_bins in features.bins),
        borders=_borders(labels, features.gradient, count),
    )


def join(pairs: IntArray, length: FloatArray, strength: FloatArray, count: int) -> Borders:
    """Sum what is known of every pair: duplicates become one, either order of the two is the same pair."""
    key = pairs.min(axis=1) * count + pairs.max(axis=1)
    unique, inverse = np.unique(key, return_inverse=True)
    n = len(unique)
    return Borders(
        np.stack([unique // count, unique % count], axis=1),
        np.bincount(inverse, length, minlength=n).astype(np.float32),
        np.bincount(inverse, strength, minlength=n).astype(np.float32),
    )


def _histogram(flat: NDArray[np.int32], bins: Bins, count: int, n_bins: int) -> FloatArray:
    counts = [np.bincount(flat * n_bins + channel, minlength=count * n_bins) for channel in bins]
    stacked = np.concatenate([item.reshape(count, n_bins) for item in counts], axis=1).astype(np.float32)
    normalised: FloatArray = stacked / stacked.sum(axis=1, keepdims=True)
    return normalised


def _borders(labels: NDArray[np.int32], gradient: FloatArray, count: int) -> Borders:
    pairs, strengths = [], []
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        differs = labels[first] != labels[second]
        pairs.append(np.stack([labels[first][differs], labels[second][differs]], axis=1).astype(np.int64))
        strengths.append(np.maximum(gradient[first][differs], gradient[second][differs]))
    strength = np.concatenate(strengths)
    return join(np.concatenate(pairs), np.ones(len(strength), np.float32), strength, count)
