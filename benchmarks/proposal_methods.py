"""Proposal methods side by side on photographs: recall, boxes and CPU seconds an image, in one run and without prompts.

    python benchmarks/proposal_methods.py DATA --images 100 --workers 2 --cache FOLDER

DATA is a folder in VOC layout. The methods are those of the shipped recipes (selective-search, region-tree, edge-boxes,
region-tree-edges), each at several numbers of boxes; what they share (the trees, the edges) is computed once an image and
counted for each. Every object counts, difficult ones, too. With --cache the run can be stopped and gone on with: images that
are there are not computed again (remove the folder after a change of the methods). Seconds are CPU time of one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from defusedxml import ElementTree
from numpy.typing import NDArray

from weaksam_cli.artifacts.proposals import Proposals
from weaksam_cli.core.boxes import FloatArray, edges_to_inclusive, iou
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.models.weights.catalogue import WeightsFinder

THRESHOLDS = (0.5, 0.75, 0.9)
Found = dict[str, tuple[FloatArray, float]]
"""Method and budget -> its boxes and the CPU seconds of all that it needs."""
NAMES = ("selective search", "region tree", "edge boxes", "region tree with edges")


def image_names(root: Path, count: int | None) -> list[str]:
    """Names of the trainval split, all or so many, evenly spaced in the list."""
    names = (root / "ImageSets" / "Main" / "trainval.txt").read_text(encoding="utf-8").split()
    wanted = np.arange(len(names)) if count is None else np.linspace(0, len(names) - 1, count).astype(int)
    # In strides: what was done when it was stopped is a sample of all.
    return [names[index] for start in range(8) for index in wanted[start::8]]


def load_objects(root: Path, name: str) -> FloatArray:
    """Boxes (n, 4) of all objects as they stand in the file: 1-based, inclusive."""
    boxes = [
        [float(item.findtext(f"bndbox/{edge}") or "nan") for edge in ("xmin", "ymin", "xmax", "ymax")]
        for item in ElementTree.parse(root / "Annotations" / f"{name}.xml").iterfind("object")
    ]
    return np.asarray(boxes, np.float32).reshape(-1, 4)


def best_overlaps(truth: FloatArray, proposals: FloatArray) -> FloatArray:
    """IoU of every object under greedy one-to-one matching, the largest IoU first (spec 03 §7)."""
    matrix = iou(truth, edges_to_inclusive(proposals), plus_one=True)
    best = np.full(len(truth), -1, np.float32)
    for _ in range(min(matrix.shape)):
        row, column = np.unravel_index(matrix.argmax(), matrix.shape)
        best[row] = matrix[row, column]
        matrix[row], matrix[:, column] = -1, -1
    return best


def recalls(found: Sequence[tuple[FloatArray, FloatArray]]) -> list[float]:
    """Recall at `THRESHOLDS` over pairs of objects and proposals."""
    best = np.concatenate([best_overlaps(truth, proposals) for truth, proposals in found])
    return [float((best >= threshold).mean()) for threshold in THRESHOLDS]


def read_image(root: Path, name: str) -> NDArray[np.uint8]:
    """RGB (H, W, 3)."""
    from PIL import Image

    with Image.open(root / "JPEGImages" / f"{name}.jpg") as image:
        return np.asarray(image.convert("RGB"))


@dataclass(frozen=True)
class Methods:
    """The methods of the shipped recipes, loaded once a process."""

    search: Any
    joined: Any
    tree: Any
    edges: Any

    @classmethod
    def load(cls) -> Methods:
        import cv2
        import torch

        from weaksam_cli.models.hed import load_hed
        from weaksam_cli.propose.region_tree.segmenter import RegionTreeSegmenter

        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        joined: Any = load_recipe("propose", "region-tree-edges").recipe
        return cls(
            search=load_recipe("propose", "selective-search").recipe,
            joined=joined,
            tree=RegionTreeSegmenter(joined.first.tree),
            edges=load_hed(WeightsFinder(()).require(joined.second.weights)),
        )

    def searched(self, image: NDArray[np.uint8], _: Sequence[int]) -> Found:
        """Boxes of Selective Search, which has its own number of them."""
        from weaksam_cli.propose.selective_search import selective_search

        with Clock() as clock:
            boxes = selective_search(image, self.search)
        return {f"{NAMES[0]}, all": (boxes, clock.seconds)}

    def ranked(self, image: NDArray[np.uint8], budgets: Sequence[int]) -> Found:
        """Boxes of the methods that rank theirs."""
        from weaksam_cli.models.hed import edge_map
        from weaksam_cli.propose.edge_boxes import edge_boxes
        from weaksam_cli.propose.joined import join

        found: Found = {}
        with Clock() as planting:
            self.tree.set_image(image)
        with Clock() as seeing:
            edges = edge_map(self.edges, image)
        with Clock() as listing:
            every = self.tree.grid_proposals(self.joined.first.grid_boxes)
        for budget in budgets:
            with Clock() as clock:
                grid = self.tree.grid_proposals(budget)
            found[f"{NAMES[1]}, {budget}"] = (grid.boxes, planting.seconds + clock.seconds)
            settings = self.joined.second.model_copy(update={"max_boxes": budget})
            with Clock() as clock:
                boxes, scores = edge_boxes(edges, settings)
            spent = seeing.seconds + clock.seconds
            found[f"{NAMES[2]}, {budget}"] = (boxes, spent)
            with Clock() as clock:
                second = Proposals.from_boxes(boxes, "search", scores)
                both = join(every, second, self.joined.model_copy(update={"max_boxes": budget}))
            spent += planting.seconds + listing.seconds + clock.seconds
            found[f"{NAMES[3]}, {budget}"] = (both.boxes, spent)
        return found


GROUPS = {"ranked": Methods.ranked, "searched": Methods.searched}


class Clock:
    """CPU seconds of this process between entering and leaving."""

    def __enter__(self) -> Clock:
        self.seconds = -time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time()


loaded_methods = cache(Methods.load)


def measure(task: tuple[str, str], root: Path, budgets: Sequence[int], folder: Path | None) -> Found:
    """What a group of methods gives for an image, from `folder` where it is there."""
    group, name = task
    path = folder / f"{name}-{group}.npz" if folder else None
    if path and path.is_file():
        with np.load(path) as saved:
            keys = [key.removesuffix("/boxes") for key in saved if key.endswith("/boxes")]
            return {key: (saved[f"{key}/boxes"], float(saved[f"{key}/seconds"])) for key in keys}
    found = GROUPS[group](loaded_methods(), read_image(root, name), budgets)
    if path:
        columns: dict[str, Any] = {f"{key}/boxes": boxes for key, (boxes, _) in found.items()}
        columns |= {f"{key}/seconds": np.float64(spent) for key, (_, spent) in found.items()}
        part = path.with_suffix(".part.npz")
        np.savez(part, **columns)
        part.rename(path)
    return found


def table(names: Sequence[str], root: Path, found: Sequence[Found]) -> str:
    """Markdown: a row a method and budget."""
    truths = [load_objects(root, name) for name in names]
    lines = [
        "| proposals | an image | R@.5 | R@.75 | R@.9 | CPU s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for key in sorted(found[0], key=lambda key: NAMES.index(key.split(",")[0])):
        lists = [item[key][0] for item in found]
        shares = " | ".join(f"{100 * share:.1f}" for share in recalls(list(zip(truths, lists, strict=True))))
        seconds = np.mean([item[key][1] for item in found])
        lines.append(f"| {key} | {np.mean([len(boxes) for boxes in lists]):.0f} | {shares} | {seconds:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in VOC layout")
    parser.add_argument("--images", type=int, default=None, help="how many of trainval; all unless told")
    parser.add_argument(
        "--budget", type=int, nargs="+", default=[300, 900], help="boxes of all but the first"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="keep what was found for every image")
    options = parser.parse_args()
    if options.cache:
        options.cache.mkdir(parents=True, exist_ok=True)
    names = image_names(options.data, options.images)
    work = partial(measure, root=options.data, budgets=options.budget, folder=options.cache)
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        parts = {group: list(pool.map(work, [(group, name) for name in names])) for group in GROUPS}
    found = [ranked | searched for ranked, searched in zip(*parts.values(), strict=True)]
    objects = sum(len(load_objects(options.data, name)) for name in names)
    sys.stdout.write(f"{len(names)} images, {objects} objects\n\n{table(names, options.data, found)}\n")


if __name__ == "__main__":
    main()
