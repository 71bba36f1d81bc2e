"""What a training step of every WSOD method on VGG16 costs, relative to OICR's in the same run; memory; code lines.

    OMP_NUM_THREADS=1 python -m benchmarks.comparators PHOTO.jpg --proposals 300 --short-side 480
    python -m benchmarks.comparators PHOTO.jpg --proposals 2000 --short-side 688 --device cuda

A step is all that the recipe's training does with one image, with random weights and random proposals. Every measurement is
a process of its own, the second step of it, compared with OICR's of the same round; CPU seconds on a CPU. What is computed
once an image before the training (superpixels, class maps) is not in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CLASSES = 20
_REFERENCE = "oicr-vgg16"
_SUFFIX = "-vgg16"


def measured(
    recipe_name: str, photograph: Path, proposals: int, short_side: int, device: str
) -> dict[str, float]:
    """Seconds of a step, and GiB at most."""
    import numpy as np
    import torch
    from benchmarks.wsod_vgg import peak_gib, random_boxes, recipe_of

    from weaksam_cli.data.images import read_image
    from weaksam_cli.training.loop import Training, TrainingRun
    from weaksam_cli.wsod.detector import make_optimizer
    from weaksam_cli.wsod.vgg16 import TrainingSettings
    from weaksam_cli.wsod.vgg_detector import build_vgg_detector, training_sample

    recipe = recipe_of(recipe_name, short_side)
    rng, image = np.random.default_rng(0), read_image(photograph)
    boxes = random_boxes(proposals, image.shape[0], image.shape[1], rng)
    torch.manual_seed(0)
    detector = build_vgg_detector(recipe, recipe.network, CLASSES, None).to(device).train()
    schedule = recipe.schedule.resolved(1)
    step, _ = recipe.training_step(detector, schedule.steps)
    optimizer = make_optimizer(detector, schedule, schedule.refinement_factor, schedule.momentum)
    training = Training(detector, optimizer, TrainingRun(device, 0, Path("unused"), "", Path.write_bytes))
    present = torch.zeros(CLASSES)
    present[[0, 7]] = 1
    known = None if recipe.evidence is None else torch.rand(proposals, recipe.evidence.width(CLASSES))
    settings = TrainingSettings(
        method=recipe, network=recipe.network, proposals=recipe.proposals, schedule=schedule
    )
    sample = training_sample(image, boxes, present, known, settings, rng)
    for _ in range(2):
        start = time.process_time()
        if device != "cpu":
            torch.cuda.synchronize()
            start = time.perf_counter()
        step(training, [sample])
        if device != "cpu":
            torch.cuda.synchronize()
    end = time.process_time() if device == "cpu" else time.perf_counter()
    return {"seconds": end - start, "memory": peak_gib(device)}


def in_a_process(recipe_name: str, given: argparse.Namespace) -> dict[str, float]:
    """The same in a process of its own."""
    sizes = ("--proposals", str(given.proposals), "--short-side", str(given.short_side))
    words = (str(given.photograph), *sizes, "--device", given.device, "--step", recipe_name)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.comparators", *words], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photograph", type=Path)
    parser.add_argument("--proposals", type=int, default=300)
    parser.add_argument("--short-side", type=int, default=480)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", nargs="+", help="recipes, beside OICR's; all by default")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        own = measured(given.step, given.photograph, given.proposals, given.short_side, given.device)
        sys.stdout.write(f"{json.dumps(own)}\n")
        return
    from benchmarks.size import code_lines

    from weaksam_cli.engine.recipes import load_recipe, recipe_names

    known = [item for item in recipe_names("wsod") if item.endswith(_SUFFIX) and item != _REFERENCE]
    names = [_REFERENCE, *(given.methods or known)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(given.rounds):
        for name in names:
            found[name].append(in_a_process(name, given))
            sys.stderr.write(f"{name}: {found[name][-1]}\n")
    sys.stdout.write(
        "| method | seconds | step / OICR's | GiB | code lines |\n| --- | --- | --- | --- | --- |\n"
    )
    for name in names:
        module: Any = load_recipe("wsod", name).method
        lines = code_lines(Path(module.__file__).read_text(encoding="utf-8"))
        # Each round has its own step of OICR: what else the machine does changes from round to round.
        pairs = zip(found[name], found[_REFERENCE], strict=True)
        ratio = statistics.median(mine["seconds"] / theirs["seconds"] for mine, theirs in pairs)
        memory = max(item["memory"] for item in found[name])
        seconds = statistics.median(item["seconds"] for item in found[name])
        row = (name.removesuffix(_SUFFIX), f"{seconds:.2f}", f"{ratio:.2f}", f"{memory:.1f}", str(lines))
        sys.stdout.write(f"| {' | '.join(row)} |\n")


if __name__ == "__main__":
    main()
