"""Proposals by SAM beside the published procedure: seconds, memory, and whether the boxes are the same.

The published procedure runs `SamAutomaticMaskGenerator` for the grid, then `SamPredictor` on one point a call, and encodes
the image anew for every kind of points and for every class: 4 + 2 C encodings for C classes. Ours encodes it once.
Weights are random (none can be had here), which takes the same time; the mask weights and the quality head are scaled so
that about as many masks pass the filters as with trained weights.

    python benchmarks/propose.py --images PHOTO.jpg --model vit_b          # a CPU: about 15 minutes an image
    python benchmarks/propose.py --images *.jpg --model vit_h --device cuda --precision auto
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry
from segment_anything.utils.amg import batched_mask_to_box

from weaksam_cli.artifacts.proposals import SOURCES, Proposals, Source
from weaksam_cli.core.boxes import FloatArray, edges_to_inclusive
from weaksam_cli.core.types import Points
from weaksam_cli.data.images import read_image
from weaksam_cli.propose.prompting import PromptingSettings, assemble, grid_points
from weaksam_cli.propose.sam.segmenter import SamSegmenter, set_precision
from weaksam_cli.propose.torch_segmenter import choose_dtype

T = TypeVar("T")
Image = NDArray[np.uint8]
KINDS: tuple[Source, ...] = ("coarse", "fine", "cross")
BATCH = 64


def random_sam(model: str, device: str) -> Any:
    """A SAM of random weights whose masks are neither empty nor all alike."""
    torch.manual_seed(0)
    sam = sam_model_registry[model]()
    with torch.no_grad():
        for name, parameter in sam.image_encoder.named_parameters():
            if "rel_pos" in name or name == "pos_embed":
                parameter.normal_(std=0.02)
        for head in sam.mask_decoder.output_hypernetworks_mlps:
            head.layers[-1].weight *= 200
            head.layers[-1].bias.normal_(std=2)
        sam.mask_decoder.iou_prediction_head.layers[-1].bias += 0.35
        sam.mask_decoder.iou_prediction_head.layers[-1].weight *= 3
    return sam.eval().to(device)


def peaks(image: Image, count: int, classes: int) -> dict[Source, Points]:
    """`count` points over the three kinds, of `classes` classes in turn."""
    generator = np.random.default_rng(0)
    height, width = image.shape[:2]
    found: dict[Source, Points] = {}
    for index, kind in enumerate(KINDS):
        n = count // 3 + (index < count % 3)
        xy = np.stack([generator.integers(0, width, n), generator.integers(0, height, n)], axis=1)
        labels = (np.arange(n) % classes).astype(np.int32)
        found[kind] = Points(xy.astype(np.int32), labels, np.ones(n, np.float32), np.zeros(n, np.int16))
    return found


def published_grid(sam: Any, image: Image) -> FloatArray:
    """Boxes (n, 4), inclusive, of automatic mask generation with the published filters."""
    generator = SamAutomaticMaskGenerator(
        sam, points_per_batch=BATCH, pred_iou_thresh=0.3, stability_score_thresh=0.3, box_nms_thresh=0.3
    )
    xywh = np.asarray([item["bbox"] for item in generator.generate(image)], np.float32).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def published_clues(sam: Any, image: Image, points: dict[Source, Points]) -> FloatArray:
    """Boxes (n, 4), inclusive, of one point a call and of each class's points together (not for cross points)."""
    predictor = SamPredictor(sam)
    boxes: list[torch.Tensor] = []

    def predict(xy: NDArray[np.int32]) -> None:
        masks, _, _ = predictor.predict(
            xy.astype(np.float32), np.ones(len(xy), np.int32), multimask_output=True
        )
        boxes.append(batched_mask_to_box(torch.from_numpy(masks[1:])))

    for kind, found in points.items():
        predictor.set_image(image)
        for one in found.xy:
            predict(one[None])
        for index in dict.fromkeys(found.class_index.tolist()) if kind != "cross" else ():
            predictor.set_image(image)
            predict(found.xy[found.class_index == index])
    return np.concatenate([item.numpy() for item in boxes]).astype(np.float32)


@torch.inference_mode()
def bare(sam: Any, image: Image, prompts: int) -> tuple[float, float]:
    """Seconds of the package's encoder alone, and of its decoder alone over `prompts` points in batches of 64."""
    predictor = SamPredictor(sam)
    resized = predictor.transform.apply_image(image)
    pixels = sam.preprocess(torch.as_tensor(resized, device=sam.device).permute(2, 0, 1)[None])
    features, encoder = timed(lambda: sam.image_encoder(pixels), sam.device)
    xy = torch.rand(prompts, 1, 2, device=sam.device) * 1000
    labels = torch.ones(prompts, 1, device=sam.device)
    sparse, dense = sam.prompt_encoder(points=(xy, labels), boxes=None, masks=None)

    def decode() -> None:
        for start in range(0, prompts, BATCH):
            sam.mask_decoder(
                image_embeddings=features,
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse[start : start + BATCH],
                dense_prompt_embeddings=dense[start : start + BATCH],
                multimask_output=True,
            )

    return encoder, timed(decode, sam.device)[1]


def timed(function: Callable[[], T], device: Any) -> tuple[T, float]:
    """What `function` gives, and its wall seconds."""
    start = time.perf_counter()
    result = function()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def peak_memory() -> float:
    """Largest resident size of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


@dataclass
class Compared:
    """Seconds of the ways on all images, and how the boxes agree."""

    seconds: dict[str, float]
    equal: int = 0
    boxes: int = 0

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def agree(self, ours: FloatArray, theirs: FloatArray) -> None:
        """Count rows that are equal as sets: NMS may order equal qualities in either way."""
        mine = {tuple(row) for row in ours.tolist()}
        self.boxes += len(theirs)
        self.equal += sum(tuple(row) in mine for row in theirs.tolist())


def inclusive_of(proposals: Proposals, sources: tuple[Source, ...]) -> FloatArray:
    chosen = np.isin(proposals.source, [SOURCES.index(source) for source in sources])
    return edges_to_inclusive(proposals.boxes[chosen])


def compare(options: argparse.Namespace) -> list[str]:
    sam = random_sam(options.model, options.device)
    fast = random_sam(options.model, options.device)
    set_precision(fast, choose_dtype(options.precision, options.device))
    segmenter = SamSegmenter(fast, points_per_batch=options.batch, compiled=options.compile)
    no_grid = PromptingSettings(points_per_side=0, cross_nms=1.0)
    with_grid = PromptingSettings(cross_nms=1.0)
    found, memory = Compared({}), 0.0
    on_gpu = options.device != "cpu"
    all_images = [read_image(path) for path in options.all_images]
    if on_gpu:
        assemble(segmenter, with_grid, all_images[0], {})
    for image in all_images:
        points = peaks(image, options.points, options.classes)
        ours, seconds = timed(lambda: assemble(segmenter, no_grid, image, points), options.device)  # noqa: B023
        found.add("ours, peaks", seconds)
        whole, seconds = timed(lambda: assemble(segmenter, with_grid, image, points), options.device)  # noqa: B023
        found.add("ours, grid and peaks", seconds)
        memory = max(memory, peak_memory())
        prompts = len(grid_points(32, 1, 1)) + options.points + 2 * options.classes
        for name, seconds in zip(("bare encoder", "bare decoder"), bare(sam, image, prompts), strict=True):
            found.add(name, seconds)
        grid, seconds = timed(lambda: published_grid(sam, image), options.device)  # noqa: B023
        found.add("published, grid", seconds)
        found.agree(inclusive_of(whole, ("grid",)), grid)
        if not on_gpu:
            clues, seconds = timed(lambda: published_clues(sam, image, points), options.device)  # noqa: B023
            found.add("published, peaks", seconds)
            found.agree(inclusive_of(ours, KINDS), clues)
    return report(options, found, memory)


def report(options: argparse.Namespace, found: Compared, memory: float) -> list[str]:
    count = len(options.all_images)
    seconds = {name: value / count for name, value in found.seconds.items()}
    lines = [
        f"{options.model}, {options.device}, {options.precision}, {torch.get_num_threads()} threads, {count} images,"
        f" {options.points} peaks in {options.classes} classes; seconds an image",
        *(f"  {name:26s} {value:9.3f}" for name, value in seconds.items()),
    ]
    bare_total = seconds["bare encoder"] + seconds["bare decoder"]
    ours = seconds["ours, grid and peaks"]
    lines.append(f"  ours / (bare encoder + bare decoder), grid and peaks: {ours / bare_total:.2f}")
    lines.append(f"  published grid / ours with grid and peaks: {seconds['published, grid'] / ours:.2f}")
    if "published, peaks" in seconds:
        both = seconds["published, grid"] + seconds["published, peaks"]
        lines.append(f"  published / ours, peaks: {seconds['published, peaks'] / seconds['ours, peaks']:.2f}")
        lines.append(f"  published / ours, grid and peaks: {both / ours:.2f}")
        lines.append(
            f"  peak memory until ours was done: {memory:.2f} GB, of the whole run {peak_memory():.2f} GB"
        )
    lines.append(f"  boxes equal to the published: {found.equal} of {found.boxes}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--model", choices=["vit_b", "vit_l", "vit_h"], default="vit_b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "auto", "bfloat16", "float16"], default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, default=BATCH, help="prompts decoded at once on a GPU")
    parser.add_argument("--points", type=int, default=60)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sys.stdout.write("\n".join(compare(options)) + "\n")


if __name__ == "__main__":
    main()
