"""What MIST or OICR on VGG16 costs: a training step and a detection at full size, with random weights.

    OMP_NUM_THREADS=1 python benchmarks/wsod_vgg.py --images PHOTO.jpg PHOTO.jpg --proposals 300 --short-side 480
    python benchmarks/wsod_vgg.py --images *.jpg --proposals 2000 --device cuda

The time does not depend on the weights. A step is forward, backward and Adam on all images that are given, and MIST's
adversarial step after it; a detection is all views of the recipe with flips, or one view with `--short-side`.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weaksam_cli.core.boxes import FloatArray, as_boxes
from weaksam_cli.data.images import read_image
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.training.loop import Training, TrainingRun
from weaksam_cli.wsod.detector import make_optimizer
from weaksam_cli.wsod.vgg16 import DetectionSettings
from weaksam_cli.wsod.vgg_detector import build_vgg_detector, detect, view_sample
from weaksam_cli.wsod.views import training_view

CLASSES = 20


def random_boxes(count: int, height: int, width: int, rng: np.random.Generator) -> FloatArray:
    """Boxes of at least 20 pixels a side, anywhere."""
    sides = rng.uniform(20, (width, height), (count, 2))
    corners = rng.uniform(0, 1, (count, 2)) * ((width, height) - sides)
    return as_boxes(np.hstack([corners, corners + sides]))


def seconds(device: str, start: float) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_gib(device: str) -> float:
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def recipe_of(name: str, short_side: int | None) -> Any:
    """A recipe, which is its method, too."""
    sides = (
        []
        if short_side is None
        else [f"network.{kind}_images.short_sides=[{short_side}]" for kind in ("train", "test")]
    )
    return load_recipe("wsod", name, sides).recipe


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--recipe", default="mist-vgg16")
    parser.add_argument("--proposals", type=int, default=300)
    parser.add_argument("--short-side", type=int, help="one size in place of the recipe's")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    recipe = recipe_of(given.recipe, given.short_side)
    network = recipe.network
    rng = np.random.default_rng(0)
    all_images = [read_image(path) for path in given.images]
    boxes = [random_boxes(given.proposals, image.shape[0], image.shape[1], rng) for image in all_images]

    torch.manual_seed(0)
    detector = build_vgg_detector(recipe, network, CLASSES, None).to(given.device).train()
    schedule = recipe.schedule.resolved(len(all_images))
    step, _ = recipe.training_step(detector, schedule.steps)
    run = TrainingRun(given.device, 0, Path("unused"), "", Path.write_bytes)
    training = Training(detector, make_optimizer(detector, schedule, schedule.refinement_factor), run)
    samples = []
    for image, own in zip(all_images, boxes, strict=True):
        label = torch.zeros(CLASSES)
        label[0] = 1
        samples.append(view_sample(training_view(image, own, network, rng), label))
    for name in ("first step", "next step"):
        start = time.perf_counter()
        step(training, samples)
        sys.stdout.write(f"{name}: {seconds(given.device, start):.1f} s for {len(samples)} images\n")
    sys.stdout.write(f"peak memory: {peak_gib(given.device):.1f} GiB\n")
    detector.eval()
    settings = DetectionSettings(
        method=recipe, network=network, proposals=recipe.proposals, inference=recipe.inference
    )
    start = time.perf_counter()
    detect(detector, all_images[0], boxes[0], settings)
    views = len(network.test_images.short_sides) * (2 if network.test_images.flip else 1)
    sys.stdout.write(f"detection: {seconds(given.device, start):.1f} s an image, {views} views\n")


if __name__ == "__main__":
    main()
