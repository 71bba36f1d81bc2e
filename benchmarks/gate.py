"""Is what a run hands over ever worse than its weakly supervised detector?  Whole runs on part of voc07-mini, and the demo.

    python benchmarks/gate.py path/to/voc07-mini --sizes 600 200 100 20 demo --seeds 0 1 2 --out runs/gate

A seed draws the training images and is the seed of the run. The test images are all 300; with 20 training images a user has
few classes, so they are of four that the seed draws, as are the test images, and other objects are no part of either. The
runs go on where they were stopped; `--until pgt` makes the first stages only. At the end, a row a run.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import xml.etree.ElementTree as ET  # of files that come with the benchmark
from pathlib import Path

from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.eval.results import read_results
from weaksam_cli.retrain.choice import read_choice

STAGES = ("cam", "prompt", "propose", "wsod", "pgt", "retrain", "eval")
FEW, CLASSES = 40, 4
"""Up to so many images are of so many classes."""


def subset(source: Path, folder: Path, size: int, seed: int, *, design: bool) -> None:
    """A VOC folder with `size` of the training images, and the test images of the same classes; for `design` other training
    images in their place."""
    if (folder / "ImageSets").exists():
        return
    names = {
        split: (source / f"ImageSets/Main/{split}.txt").read_text().split() for split in ("trainval", "test")
    }
    if design:
        order = names["trainval"]
        random.Random(1000 + seed).shuffle(order)
        names = {"trainval": sorted(order[:size]), "test": sorted(order[size : 2 * size])}
    trees = {name: ET.parse(source / f"Annotations/{name}.xml") for part in names.values() for name in part}
    shown = {
        name: {item.findtext("name") or "" for item in tree.iter("object")} for name, tree in trees.items()
    }
    draw = random.Random(seed)
    kept = sorted(set().union(*shown.values()))
    if size <= FEW:
        kept = sorted(draw.sample(kept, CLASSES))
        names = {split: [name for name in part if shown[name] & {*kept}] for split, part in names.items()}
        names["trainval"] = evenly(names["trainval"], shown, kept, size, draw)
    else:
        names["trainval"] = sorted(draw.sample(names["trainval"], size))
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name in (*names["trainval"], *names["test"]):
        root = trees[name].getroot()
        for item in root.findall("object"):
            if item.findtext("name") not in kept:
                root.remove(item)
        trees[name].write(folder / f"Annotations/{name}.xml")
        (folder / f"JPEGImages/{name}.jpg").symlink_to((source / f"JPEGImages/{name}.jpg").resolve())
    for split in names:
        (folder / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names[split]))


def evenly(
    names: list[str], shown: dict[str, set[str]], kept: list[str], size: int, draw: random.Random
) -> list[str]:
    """`size` names, each of the class that has fewest so far."""
    counts, left = dict.fromkeys(kept, 0), draw.sample(names, len(names))
    chosen: list[str] = []
    while len(chosen) < size:
        rarest = min(counts, key=lambda name: counts[name])
        pick = next(name for name in left if rarest in shown[name])
        left.remove(pick)
        chosen.append(pick)
        for name in shown[pick] & {*kept}:
            counts[name] += 1
    return sorted(chosen)


def weaksam(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "weaksam_cli", *map(str, arguments)], check=True)


def make_run(source: Path, out: Path, size: str, seed: int, until: str, *, design: bool) -> Path:
    """The stages of one run; CPU seconds of all that was made are kept beside it."""
    name = f"gate-{size}-{seed}"
    run, given = out / name, "demo"
    if size != "demo":
        given = str(out / "data" / name)
        subset(source, Path(given), int(size), seed, design=design)
    common = ("--dataset", name, "--run-dir", run, "--seed", seed)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not (run / "labels/source.json").exists():
        weaksam("data", given, *common, "--quiet")
    for stage in STAGES[: STAGES.index(until) + 1]:
        weaksam(stage, *common, "--profile", "embedded")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    place = run / "cpu-seconds.txt"
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    place.write_text(str(spent + float(place.read_text() if place.exists() else 0)))
    return run


def row(run: Path, size: str, seed: int) -> str:
    """Images, seed, AP50 on test of the weakly supervised and of the retrained detector and of both together, the quality
    without boxes of the last two over that of the first, what is handed over, how much that gains, CPU minutes."""
    results = read_results(run / "eval/test.json")
    found = {use: results.of(use, "VOC AP50") for use in ("wsod", "retrain", "both")}
    ap50 = {use: 100 * (item.value or 0.0) for use, item in found.items() if item is not None}
    minutes = float((run / "cpu-seconds.txt").read_text()) / 60
    choice = read_choice(RunDirectory(run))
    assert choice is not None and choice.both is not None, "the test images have labels"
    figures = " | ".join(f"{value:.1f}" for value in ap50.values())
    ranked = " | ".join(f"{item.product / choice.wsod.product:.2f}" for item in (choice.retrain, choice.both))
    gained = ap50[choice.use] - ap50["wsod"]
    return f"| {size} | {seed} | {figures} | {ranked} | {choice.use} | {gained:+.1f} | {minutes:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--sizes", nargs="+", default=["600", "200", "100", "20", "demo"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/gate"))
    parser.add_argument("--until", choices=STAGES, default="eval")
    parser.add_argument(
        "--design", action="store_true", help="test images are other training images: to choose settings by"
    )
    options = parser.parse_args()
    for size in options.sizes:
        for seed in options.seeds:
            run = make_run(options.source, options.out, size, seed, options.until, design=options.design)
            if options.until == STAGES[-1]:
                sys.stdout.write(row(run, size, seed) + "\n")


if __name__ == "__main__":
    main()
