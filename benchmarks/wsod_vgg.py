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

import numpy as np
import torch

from weaksam_cli.core.boxes import FloatArray, as_boxes
from weaksam_cli.data.images import read_image
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.wsod.end_to_end.detector import build_vgg_detector
from weaksam_cli.wsod.end_to_end.fit import make_adversary, make_optimizer
from weaksam_cli.wsod.end_to_end.predict import detect, view_item
from weaksam_cli.wsod.end_to_end.recipe import MistRecipe, OicrRecipe
from weaksam_cli.wsod.end_to_end.views import training_view

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


def recipe_of(name: str, short_side: int | None) -> MistRecipe | OicrRecipe:
    sides = (
        []
        if short_side is None
        else [f"train_images.short_sides=[{short_side}]", f"inference.short_sides=[{short_side}]"]
    )
    recipe = load_recipe("wsod", name, sides).recipe
    assert isinstance(recipe, MistRecipe | OicrRecipe)
    return recipe


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
    rng = np.random.default_rng(0)
    all_images = [read_image(path) for path in given.all_images]
    boxes = [random_boxes(given.proposals, image.shape[0], image.shape[1], rng) for image in all_images]

    torch.manual_seed(0)
    detector = build_vgg_detector(recipe, CLASSES, None).to(given.device).train()
    schedule = recipe.schedule.resolved(len(all_images))
    optimizer = make_optimizer(detector, schedule)
    adversary = make_adversary(detector, recipe.model_copy(update={"schedule": schedule}))
    items = []
    for image, own in zip(all_images, boxes, strict=True):
        view = training_view(image, own, recipe.train_images, recipe.pixels, rng)
        label = torch.zeros(CLASSES)
        label[0] = 1
        items.append({**view_item(view), "image_labels": label})
    for name in ("first step", "next step"):
        start = time.perf_counter()
        losses = detector(items)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        if adversary is not None:
            adversary.loss(items).backward()
            adversary.optimizer.step()
        detector.zero_grad()
        sys.stdout.write(f"{name}: {seconds(given.device, start):.1f} s for {len(items)} images\n")
    sys.stdout.write(f"peak memory: {peak_gib(given.device):.1f} GiB\n")
    detector.eval()
    start = time.perf_counter()
    detect(detector, all_images[0], boxes[0], recipe)
    views = len(recipe.inference.short_sides) * (2 if recipe.inference.flip else 1)
    sys.stdout.write(f"detection: {seconds(given.device, start):.1f} s an image, {views} views\n")


if __name__ == "__main__":
    main()
