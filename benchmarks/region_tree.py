"""The region tree beside OpenCV's Selective Search: proposal recall, boxes and seconds an image on one thread.

Run `python benchmarks/region_tree.py DATA --images 50`, where DATA is a folder in VOC layout. Seconds are CPU time of
the process, so that other work on the machine does not enter.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from defusedxml import ElementTree
from numpy.typing import NDArray

from weaksam_cli.core.boxes import edges_to_inclusive, iou
from weaksam_cli.propose.region_tree import TreeSettings
from weaksam_cli.propose.region_tree.segmenter import RegionTreeSegmenter

FloatArray = NDArray[np.float32]
Found = Sequence[tuple[FloatArray, FloatArray]]
THRESHOLDS = (0.5, 0.75, 0.9)


def load_images(root: Path, count: int | None) -> Iterator[tuple[NDArray[np.uint8], FloatArray]]:
    """RGB images of the trainval split, evenly spaced in the list, and their objects, 1-based inclusive boxes."""
    names = (root / "ImageSets" / "Main" / "trainval.txt").read_text(encoding="utf-8").split()
    wanted = np.arange(len(names)) if count is None else np.linspace(0, len(names) - 1, count).astype(int)
    for index in wanted:
        path = root / "JPEGImages" / f"{names[index]}.jpg"
        image = cv2.imread(str(path))
        if image is None:
            raise FileNotFoundError(f"{path}: not an image that OpenCV reads")
        objects = load_objects(root / "Annotations" / f"{names[index]}.xml")
        yield np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8), objects


def load_objects(path: Path) -> FloatArray:
    """Boxes (n, 4) of all objects, difficult ones too, as they stand in the file."""
    boxes = [
        [float(item.findtext(f"bndbox/{edge}") or "nan") for edge in ("xmin", "ymin", "xmax", "ymax")]
        for item in ElementTree.parse(path).iterfind("object")
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


def recalls(found: Found) -> list[float]:
    """Recall at `THRESHOLDS` over pairs of objects and proposals."""
    best = np.concatenate([best_overlaps(truth, proposals) for truth, proposals in found])
    return [float((best >= threshold).mean()) for threshold in THRESHOLDS]


def selective_search(image: NDArray[np.uint8]) -> FloatArray:
    """Boxes of OpenCV's Selective Search in fast mode, xyxy pixel edges."""
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    search.switchToSelectiveSearchFast()
    boxes = np.asarray(search.process(), np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def timed(method: Callable[[], FloatArray]) -> tuple[FloatArray, float]:
    start = time.process_time()
    boxes = method()
    return boxes, time.process_time() - start


def compare(root: Path, count: int | None, budgets: Sequence[int]) -> list[str]:
    segmenter = RegionTreeSegmenter(TreeSettings())
    found: dict[str, list[tuple[FloatArray, FloatArray]]] = {}
    seconds: dict[str, list[float]] = {}

    def record(name: str, truth: FloatArray, method: Callable[[], FloatArray], before: float = 0) -> None:
        boxes, spent = timed(method)
        found.setdefault(name, []).append((truth, boxes))
        seconds.setdefault(name, []).append(before + spent)

    for image, truth in load_images(root, count):
        record("selective search, fast", truth, lambda image=image: selective_search(image))  # type: ignore[misc]
        start = time.process_time()
        segmenter.set_image(image)
        encoding = time.process_time() - start
        for budget in budgets:
            record(
                f"region tree, {budget}",
                truth,
                lambda budget=budget: segmenter.grid_proposals(budget).boxes,  # type: ignore[misc]
                encoding,
            )
    reference = float(np.mean(seconds["selective search, fast"]))
    lines = [
        f"{'method':24s} {'boxes':>7s} {'R@.50':>6s} {'R@.75':>6s} {'R@.90':>6s} {'s':>6s} {'ratio':>6s}"
    ]
    for name, pairs in found.items():
        mean_boxes = np.mean([len(boxes) for _, boxes in pairs])
        spent = float(np.mean(seconds[name]))
        row = " ".join(f"{100 * value:6.1f}" for value in recalls(pairs))
        lines.append(f"{name:24s} {mean_boxes:7.0f} {row} {spent:6.2f} {spent / reference:6.2f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder in VOC layout")
    parser.add_argument("--images", type=int, default=None, help="how many of trainval; all unless told")
    parser.add_argument(
        "--budget", type=int, nargs="+", default=[300, 900, 1300], help="boxes of the region tree"
    )
    options = parser.parse_args()
    cv2.setNumThreads(1)
    sys.stdout.write("\n".join(compare(options.data, options.images, options.budget)) + "\n")


if __name__ == "__main__":
    main()
