"""What query drop costs: CPU seconds of a step with it and without, in turn, and of the drop alone.

    python benchmarks/query_drop.py [--recipe dino-r50] [--short-side 480] [--steps 5]

The network has random weights, and images of noise: neither changes what is computed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from weaksam_cli.engine.predictors import one_thread
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.retrain.detector import build_network, detectron_config


def batch(images: int, short_side: int, objects: int, class_count: int) -> list[dict[str, Any]]:
    """Images of noise, 4 : 3, with so many objects each."""
    from detectron2.structures import Boxes, Instances

    generator = torch.Generator().manual_seed(0)
    height, width = short_side, short_side * 4 // 3
    found = []
    for _ in range(images):
        instances = Instances((height, width))
        corners = torch.rand(objects, 2, generator=generator) * short_side / 2
        instances.gt_boxes = Boxes(torch.cat([corners, corners + short_side / 3], dim=1))
        instances.gt_classes = torch.randint(0, class_count, (objects,), generator=generator)
        pixels = torch.randint(0, 255, (3, height, width), dtype=torch.uint8, generator=generator)
        found.append({"image": pixels, "instances": instances})
    return found


def now(device: str) -> float:
    """Seconds: of the processor where that does the work, else of the clock, when the GPU has done what it was given."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], object], device: str) -> float:
    begin = now(device)
    work()
    return now(device) - begin


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="dino-r50")
    parser.add_argument("--short-side", type=int, default=480)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--objects", type=int, default=6, help="of an image")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = options.device
    from detectron2.utils.events import EventStorage

    module: Any = import_module("weaksam_cli.retrain.dino.model")

    changes = [] if "lite0" in options.recipe else ["backbone.weights=random"]
    recipe: Any = load_recipe("retrain", options.recipe, changes).recipe
    cfg = detectron_config(recipe.resolved(1000), 20, device)
    network: Any = build_network(cfg).train()
    samples = batch(options.images, options.short_side, options.objects, 20)
    drop, alone = module.dropped_by, 0.0

    def timed(*given: Any) -> Any:
        nonlocal alone
        begin = now(device)
        found = drop(*given)
        alone += now(device) - begin
        return found

    module.dropped_by = timed
    settings = {
        mode: network.settings.model_copy(
            update={"query_drop": recipe.query_drop.model_copy(update={"mode": mode})}
        )
        for mode in ("off", "both")
    }

    def step() -> None:
        with EventStorage(0):
            torch.stack([*network(samples).values()]).sum().backward()

    with one_thread():
        step()
        taken: dict[str, list[float]] = {mode: [] for mode in settings}
        drops = []
        for _ in range(options.steps):
            for mode, value in settings.items():
                network.settings, alone = value, 0.0
                taken[mode].append(seconds(step, device))
                if mode == "both":
                    drops.append(alone)
    off, both = (statistics.median(taken[mode]) for mode in ("off", "both"))
    own = statistics.median(drops)
    return (
        f"{options.recipe}, {options.images} images of short side {options.short_side}, {options.steps} steps: "
        f"{off:.2f} s without, {both:.2f} s with query drop; the drop itself {1000 * own:.1f} ms, "
        f"{100 * own / off:.2f} % of a step"
    )


if __name__ == "__main__":
    sys.stdout.write(f"{main()}\n")
