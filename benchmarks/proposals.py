"""The paper's Table 5 on a run of yours: recall of Selective Search, and of the region tree with more and more prompts.

python benchmarks/proposals.py runs/voc07-mini --plot docs/proposal-recall.png

RUN is a run directory with labels and prompts. Every row is a variant of `weaksam propose` in it, evaluated by
`weaksam eval` (into `eval@proposals`), so what is fresh is not made again. The commands are printed, then the table as
Markdown.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weaksam_cli.eval.report import draw_recall
from weaksam_cli.eval.results import Results, read_results

EVALUATED = "proposals"
"""Variant of the evaluation."""
METRICS = ("proposals an image", "recall at IoU 0.5", "recall at IoU 0.75", "recall at IoU 0.9")
PAPER = (
    ("paper: Selective Search", 2001, 92.6, 57.7, 19.2),
    ("paper: SAM prompted by WeakTr", 213, 95.6, 75.0, 42.1),
    ("paper: SAM prompted by MCTformer", 173, 93.2, 74.8, 43.7),
    ("paper: SAM prompted by CLIP-ES", 205, 93.8, 75.6, 44.5),
)
"""Supplement, Table 5: VOC07 trainval, 5,011 images; number, then recall in per cent."""


@dataclass(frozen=True)
class Row:
    """One set of proposals: how it is called, its variant, the options of `weaksam propose`, and whether it is drawn."""

    name: str
    variant: str
    options: tuple[str, ...]
    drawn: bool = True


def region_tree(*settings: str) -> tuple[str, ...]:
    """Options of the region tree with some settings changed."""
    return ("--recipe", "region-tree", *(item for setting in settings for item in ("--set", setting)))


SINGLE = ("clues.sources=[coarse, fine]", "clues.class_groups=[]")
EVERYTHING = "clues.sources=[coarse, fine, cross]"
ROWS = (
    Row("Selective Search (OpenCV, fast)", "ss", ("--recipe", "selective-search")),
    Row("region tree: grid", "grid", region_tree("clues.sources=[]")),
    Row("region tree: one grid box and peaks", "alone", region_tree("grid_boxes=1", EVERYTHING), drawn=False),
    Row("region tree: grid and single peaks", "peaks", region_tree(*SINGLE), drawn=False),
    Row("region tree: everything", "everything", region_tree(EVERYTHING)),
    Row("region tree: everything, grid of 900", "grid900", region_tree("grid_boxes=900", EVERYTHING)),
)


def weaksam(*arguments: str) -> None:
    """Run the program, after the command has been printed."""
    sys.stdout.write(f"    $ weaksam {shlex.join(arguments)}\n")
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "weaksam_cli", *arguments], check=True, stdout=subprocess.DEVNULL)


def evaluate(run: Path, split: str, workers: int) -> Results:
    """Make what is missing; the results file of the evaluation."""
    dataset = json.loads((run / "labels" / f"{split}.json").read_text())["info"]["dataset"]
    common = ("--dataset", dataset, "--run-dir", str(run), "--split", split)
    for row in ROWS:
        weaksam("propose", *common, *row.options, "--variant", row.variant, "--workers", str(workers))
    weaksam("eval", *common, "--variant", EVALUATED)
    return read_results(run / f"eval@{EVALUATED}" / f"{split}.json")


def table(results: Results) -> str:
    """The paper's rows and ours."""
    found = {
        (item.variant, item.name): item.value or 0.0 for item in results.metrics if item.stage == "propose"
    }
    lines = ["| proposals | an image | R@.5 | R@.75 | R@.9 |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [_line(name, count, shares) for name, count, *shares in PAPER]
    for row in ROWS:
        count, *shares = (found[row.variant, name] for name in METRICS)
        lines.append(_line(row.name, count, [100 * share for share in shares]))
    return "\n".join(lines)


def _line(name: str, count: float, shares: Sequence[float]) -> str:
    return f"| {name} | {count:.4g} | " + " | ".join(f"{share:.1f}" for share in shares) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="trainval")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="PNG of recall against the number of proposals")
    options = parser.parse_args()
    results = evaluate(options.run, options.split, options.workers)
    sys.stdout.write(f"\n{results.dataset} {options.split}, {results.images} images\n\n{table(results)}\n")
    if options.plot is not None:
        curves = {item.variant: item for item in results.curves}
        title = f"Recall of proposals on {results.dataset} {options.split} ({results.images} images)"
        drawn = {row.name: curves[row.variant] for row in ROWS if row.drawn}
        options.plot.write_bytes(draw_recall(drawn, title))


if __name__ == "__main__":
    main()
