"""Seconds of a training iteration, and memory, of the published recipes of `retrain`, with random weights and made images.

    python benchmarks/trainings.py --device cuda
    OMP_NUM_THREADS=1 python benchmarks/trainings.py --recipes faster-rcnn-lite0-fpn dino-lite0 --steps 2 --batch 2

An iteration is augmentation by detectron2's mapper, forward, backward and the optimiser's step, at the recipe's sizes. A
batch has `--batch` images of 500 x 375, each with a few boxes and masks. detectron2's own SimpleTrainer has the same network
and batches, in turns with ours: the ratio tells what our loop costs. Rates are near zero: random weights stay as they are.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weaksam_cli.core.masks import encode
from weaksam_cli.detectron.training import SeededMapper, step_in_event_storage
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.retrain.detector import build_network, detectron_config, make_optimizer
from weaksam_cli.training.loop import Training, TrainingRun

PUBLISHED = ("faster-rcnn-r50-fpn", "mask-rcnn-r50-fpn", "dino-r50", "mask2former-r50")
CLASSES, HEIGHT, WIDTH = 20, 375, 500
WARM = 2
"""Iterations before those that count."""


def entries(images: int, masks: bool) -> list[dict[str, Any]]:
    """detectron2's dicts of made images with one to four rectangles each."""
    rng, made = np.random.default_rng(0), []
    for number in range(images):
        objects = []
        for _ in range(1 + number % 4):
            left, top = rng.integers(0, 250), rng.integers(0, 180)
            right, bottom = left + rng.integers(40, 240), top + rng.integers(40, 180)
            item = {
                "bbox": [float(left), float(top), float(right), float(bottom)],
                "bbox_mode": 0,
                "iscrowd": 0,
            }
            item["category_id"] = int(rng.integers(CLASSES))
            if masks:
                drawn = np.zeros((1, HEIGHT, WIDTH), bool)
                drawn[0, top:bottom, left:right] = True
                item["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": encode(drawn)[0]}
            objects.append(item)
        size = {"height": HEIGHT, "width": WIDTH}
        made.append({"key": str(number), "image_id": number, **size, "annotations": objects})
    return made


def made_image(key: str) -> Any:
    return np.random.default_rng(int(key)).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def seconds_of(work: Callable[[], object], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(name: str, options: argparse.Namespace) -> str:
    """A row: iterations of our loop and of detectron2's, in turns; the ratio of their medians; memory."""
    from detectron2.engine import SimpleTrainer
    from detectron2.utils.events import EventStorage

    changes = [
        "backbone.weights=random",
        "schedule.learning_rate=1e-12",
        f"schedule.batch_size={options.batch}",
    ]
    changes += options.overrides
    settings: Any = load_recipe("retrain", name, changes).recipe
    settings = settings.resolved(1000)
    cfg = detectron_config(settings, CLASSES, options.device)
    torch.manual_seed(0)
    model = build_network(cfg).train()
    optimizer = make_optimizer(model, settings.schedule)
    dicts = entries(options.batch, settings.learns_masks)
    mapper = SeededMapper(cfg, dicts, made_image, 0, settings.augmentations(cfg))
    run = TrainingRun(options.device, 0, Path("none"), "", lambda *_: None)
    mixed = settings.schedule.mixed_precision and options.device != "cpu"
    training = Training(
        model, optimizer, run, gradient_clip=settings.schedule.gradient_clip, mixed_precision=mixed,
        images_at_once=settings.schedule.images_at_once,
    )  # fmt: skip

    def batches() -> Iterator[list[dict[str, Any]]]:
        while True:
            yield [mapper.item(training.iteration, place, place) for place in range(options.batch)]

    def ours() -> None:
        step_in_event_storage(training, next(stream))
        training.finish_iteration()

    stream = batches()
    stock = None if mixed or settings.schedule.images_at_once else SimpleTrainer(model, stream, optimizer)

    def theirs() -> None:
        assert stock is not None
        with EventStorage(training.iteration):
            stock.iter = training.iteration
            stock.run_step()

    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    found: dict[str, list[float]] = {"ours": [], "stock": []}
    for training.iteration in range(WARM + options.steps):
        found["ours"].append(seconds_of(ours, options.device))
        if stock is not None:
            found["stock"].append(seconds_of(theirs, options.device))
    own = statistics.median(found["ours"][WARM:])
    ratio = "-" if stock is None else f"{statistics.median(found['stock'][WARM:]) / own:.3f}"
    return f"| {name} | {options.batch} | {own:.3f} | {ratio} | {memory(options.device):.1f} |"


def memory(device: str) -> float:
    """The most that was held so far, in GB: of the GPU, or of this process."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return torch.cuda.max_memory_allocated() / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", default=list(PUBLISHED))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    sys.stdout.write("| recipe | images | seconds an iteration | detectron2's trainer over ours | GB |\n")
    sys.stdout.write("| --- | --- | --- | --- | --- |\n")
    for name in options.recipes:
        sys.stdout.write(measure(name, options) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
