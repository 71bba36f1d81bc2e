"""How alike the proposals of an image are to a network, for several sets of proposals of one run (spec 07 §6, Fig. 1).

python benchmarks/feature_similarity.py runs/voc07-mini --variants ss plain --image 000012 --plot similarity.png

Of every image, min(n, 200) proposals of each set are drawn, n being the smallest set's number. Printed: the mean
off-diagonal cosine of their RoI-pooled features and the mean IoU of their boxes, averaged over the images, and how the
sets compare with the first on the same images.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.core.boxes import FloatArray, area, iou, scale
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.data.source import image_root, read_source
from weaksam_cli.detectron.dense_roi_align import DenseRoiAlign
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.errors import UserError
from weaksam_cli.eval.recall import proposals_of
from weaksam_cli.models.lite0 import Lite0, load_lite0, view_features
from weaksam_cli.training.batches import generator_of

BINS: Final = 7
_SAMPLES = 2

Layer = Literal["head", "stride16"]
STRIDE: Final[dict[Layer, int]] = {"head": 32, "stride16": 16}
"""`head`: 1280 channels after ReLU6, never negative, which the embedded detectors pool. `stride16`: 112 channels of a linear
bottleneck, of either sign, with finer cells."""

MOST = 200
SHORT_SIDE = 480
"""Of the images as the network sees them; the embedded detectors' own."""
PLAIN = "plain"
LAYERS: tuple[Layer, ...] = ("head", "stride16")
LAYER_TEXT = {
    "head": "1280 channels after ReLU6, never negative",
    "stride16": "112 channels of a linear bottleneck, of either sign",
}
Matrix = NDArray[np.float32]
Boxes = Mapping[str, FloatArray]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class ImageMaps:
    """Maps of one image.

    Attributes:
        maps: layer to float32 (c, h, w).
        image: height and width of the image.
        view: height and width of the resized image that the network saw.
    """

    maps: dict[Layer, torch.Tensor]
    image_size: tuple[int, int]
    view: tuple[int, int]

    def pool(self, layer: Layer, boxes: FloatArray) -> NDArray[np.float32]:
        """RoIAlign to 7 x 7 bins, flattened.

        Args:
            layer: which map.
            boxes: float32 (n, 4), xyxy pixel edges of the image.

        Returns:
            float32 (n, c * 49).
        """
        height, width = self.image_size
        in_view = scale(boxes, self.view[1] / width, self.view[0] / height)
        rois = torch.from_numpy(np.concatenate([np.zeros((len(boxes), 1), np.float32), in_view], axis=1))
        align = DenseRoiAlign(BINS, 1 / STRIDE[layer], _SAMPLES)
        pooled: NDArray[np.float32] = align(self.maps[layer][None], rois).flatten(1).numpy()
        return pooled


def image_maps(backbone: Lite0, image: NDArray[np.uint8], short_side: int) -> ImageMaps:
    """One forward pass of an image uint8 RGB (H, W, 3), resized to `short_side` pixels on its shorter side."""
    found = view_features(backbone, image, short_side, mirror=False)
    maps: dict[Layer, torch.Tensor] = {
        "head": torch.from_numpy(found.last[0]),
        "stride16": torch.from_numpy(found.middle[0]),
    }
    return ImageMaps(maps, (image.shape[0], image.shape[1]), found.size)


def cosine_matrix(features: NDArray[np.floating]) -> FloatArray:
    """Cosine similarity of every pair of n vectors.

    Args:
        features: float (n, d). A vector of zeros has no direction: its cosine with every vector, itself too, is 0.

    Returns:
        float32 (n, n), symmetric, in [-1, 1].

    Raises:
        ValueError: for another shape, or values that are not finite.
    """
    if features.ndim != 2:
        raise ValueError(f"features: expected shape (n, d), got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features: expected finite values, got NaN or infinity")
    # Dividing by the largest value first keeps the squares of very large and very small vectors in range.
    largest = np.abs(features).max(axis=1, keepdims=True, initial=0)
    scaled = np.divide(features, largest, out=np.zeros(features.shape, np.float32), where=largest > 0)
    length = np.sqrt(np.einsum("nd,nd->n", scaled, scaled))[:, None]
    unit = np.divide(scaled, length, out=np.zeros_like(scaled), where=length > 0)
    product = unit @ unit.T
    cosines: FloatArray = np.clip((product + product.T) / 2, -1, 1)
    return cosines


def mean_off_diagonal(matrix: NDArray[np.floating]) -> float:
    """Mean of a square matrix (n, n) without its diagonal; NaN for n of 0 or 1.

    Raises:
        ValueError: for a matrix that is not square.
    """
    n = len(matrix)
    if matrix.shape != (n, n):
        raise ValueError(f"matrix: expected shape (n, n), got {matrix.shape}")
    if n < 2:
        return float("nan")
    total = matrix.sum(dtype=np.float64) - np.trace(matrix, dtype=np.float64)
    return float(total / (n * (n - 1)))


def sample_rows(count: int, most: int, seed: int, key: str) -> IntArray:
    """Which of `count` rows of the image `key` are taken: all, or `most` at random without repetition, ascending.

    The same numbers, seed and key give the same rows wherever and in whatever order images are done.

    Raises:
        ValueError: for a negative number.
    """
    if count < 0 or most < 0:
        raise ValueError(f"sample: expected numbers of 0 or more, got {most} of {count}")
    chosen = generator_of(seed, key).choice(count, min(count, most), replace=False)
    rows: IntArray = np.sort(chosen).astype(np.int64)
    return rows


@dataclass(frozen=True)
class Similarity:
    """Of `count` proposals of one image and set: cosine matrices (n, n) by layer, and the mean IoU of their boxes."""

    count: int
    cosines: dict[Layer, Matrix]
    overlap: float


def read_sets(
    run: Path, split: str, labels: Labels, variants: Sequence[str], min_side: float
) -> dict[str, Boxes]:
    """Name of the set to its boxes by image; the name is that of its recipe, with the variant where recipes repeat.

    Boxes with a side below `min_side` pixels are left out, and the largest come first.
    """
    directory = RunDirectory(run)
    sets: dict[str, Boxes] = {}
    for variant in variants or [name or PLAIN for name in directory.variants_of("propose")]:
        name = "" if variant == PLAIN else variant
        path = directory.with_variant("propose", name).output("propose", split)
        record = read_receipt(path)
        if record is None:
            raise UserError("there are no complete proposals", where=str(path), remedy="Run weaksam propose")
        recipe = record.identity.recipe_name
        sets[f"{recipe} ({name})" if recipe in sets else recipe] = {
            key: largest_first(found.boxes, min_side) for key, found in proposals_of(path, labels).items()
        }
    return sets


def largest_first(boxes: FloatArray, min_side: float) -> FloatArray:
    """Boxes (n, 4) with no side below `min_side`, by decreasing area, so that heat maps have an order to show."""
    large = boxes[((boxes[:, 2:] - boxes[:, :2]) >= min_side).all(axis=1)]
    return large[np.argsort(-area(large), kind="stable")]


def compare(
    backbone: Lite0, labels: Labels, sets: Mapping[str, Boxes], key: str, seed: int
) -> dict[str, Similarity]:
    """Every set's similarities in one image."""
    image = labels.read_image(labels.by_key()[key])
    maps = image_maps(backbone, image, SHORT_SIDE)
    most = min(MOST, *(len(boxes[key]) for boxes in sets.values()))
    found = {}
    for name, boxes in sets.items():
        rows = boxes[key][sample_rows(len(boxes[key]), most, seed, key)]
        cosines = {layer: cosine_matrix(maps.pool(layer, rows)) for layer in LAYERS}
        found[name] = Similarity(most, cosines, mean_off_diagonal(iou(rows, rows)))
    return found


def table(means: Mapping[str, Sequence[float]], overlaps: Mapping[str, Sequence[float]]) -> str:
    """A row a set: mean and deviation over images, and the comparison with the first set on the same images."""
    lines = ["| proposals | mean cosine | deviation | less than the first | in of the images | mean IoU |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    first = np.asarray(next(iter(means.values())))
    for number, (name, values) in enumerate(means.items()):
        gain = first - np.asarray(values)
        error = np.nanstd(gain) / np.sqrt(max(np.isfinite(gain).sum(), 1))
        paired = f"{np.nanmean(gain):.3f} ± {error:.3f} | {100 * np.nanmean(gain > 0):.0f} %"
        lines.append(
            f"| {name} | {np.nanmean(values):.3f} | {np.nanstd(values):.3f} | {paired if number else '- | -'} "
            f"| {np.nanmean(overlaps[name]):.3f} |"
        )
    return "\n".join(lines)


def measure(
    backbone: Lite0, labels: Labels, sets: Mapping[str, Boxes], keys: Sequence[str], seed: int
) -> str:
    """The tables of both layers over the images `keys`."""
    means: dict[Layer, dict[str, list[float]]] = {layer: {name: [] for name in sets} for layer in LAYERS}
    overlaps: dict[str, list[float]] = {name: [] for name in sets}
    drawn: list[int] = []
    for key in keys:
        compared = compare(backbone, labels, sets, key, seed)
        drawn.append(next(iter(compared.values())).count)
        for name, found in compared.items():
            overlaps[name].append(found.overlap)
            for layer, cosines in found.cosines.items():
                means[layer][name].append(mean_off_diagonal(cosines))
    lines = [f"{len(keys)} images, {np.mean(drawn):.1f} proposals of each set an image, seed {seed}"]
    for layer in LAYERS:
        lines += [
            f"\nlite0 (ImageNet), {layer}: {LAYER_TEXT[layer]}, stride {STRIDE[layer]}; RoIAlign 7 x 7\n"
        ]
        lines += [table(means[layer], overlaps)]
    return "\n".join(lines)


def draw(found: Mapping[str, Similarity], layer: Layer, key: str) -> bytes:
    """The cosine matrices of one image side by side, as a PNG."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(found) + 0.8, 4.5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    # Few colours, and with them a small palette, keep the many single cells below 200 kB.
    colours = colormaps["viridis"].resampled(20)
    low = min(0.0, *(float(item.cosines[layer].min()) for item in found.values()))
    for (name, item), panel in zip(found.items(), axes, strict=True):
        matrix = item.cosines[layer]
        shown = panel.imshow(matrix, vmin=low, vmax=1, cmap=colours, interpolation="nearest")
        panel.set_title(f"{name}: mean {mean_off_diagonal(matrix):.3f} off the diagonal", fontsize="medium")
        panel.set_xlabel("proposal, the largest first")
    axes[0].set_ylabel("proposal, the largest first")
    figure.colorbar(shown, ax=axes, label="cosine similarity of RoI features", shrink=0.9)
    figure.suptitle(f"Feature similarity of {item.count} proposals each, image {key}")
    canvas.draw()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(128).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--variants", nargs="*", default=[], help="all that are there unless told; `plain`: none"
    )
    parser.add_argument("--split", default="trainval")
    parser.add_argument("--images", type=int, help="how many, evenly spaced; all unless told")
    parser.add_argument(
        "--min-side", type=float, default=0, help="leave out boxes with a shorter side (pixels)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image", help="image of the heat maps; the first unless told")
    parser.add_argument("--plot", type=Path, help="PNG of the heat maps")
    options = parser.parse_args()
    part = read_source(options.run).splits[options.split]
    labels = read_labels(options.run / "labels" / f"{options.split}.json", image_root(options.run, part))
    sets = read_sets(options.run, options.split, labels, options.variants, options.min_side)
    keys = [key for key in labels.keys if all(key in boxes for boxes in sets.values())]
    backbone = load_lite0()
    if options.plot is not None:
        image = options.image or keys[0]
        if image not in keys:
            parser.error(f"--image {image}: not an image with proposals of every set, as {keys[0]} is")
        options.plot.write_bytes(draw(compare(backbone, labels, sets, image, options.seed), "head", image))
    wanted = len(keys) if options.images is None else min(options.images, len(keys))
    chosen = [keys[index] for index in np.linspace(0, len(keys) - 1, wanted).astype(int)]
    sys.stdout.write(measure(backbone, labels, sets, chosen, options.seed) + "\n")


if __name__ == "__main__":
    main()
