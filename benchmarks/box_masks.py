"""Masks of true boxes by GrabCut, `region-tree`, `region-tree-masks` and GrabCut after that, in one run on photographs.

    python benchmarks/box_masks.py DATA --cache FOLDER

DATA is a folder in VOC layout with `SegmentationObject`; the images are those of `ImageSets/Segmentation/{train,val}.txt`.
Every object with a mask counts, difficult ones, too; its true box is the prompt. As in VOC, pixels of the border (255)
count nowhere; the last column is the mean IoU with them as background. Settings were chosen on train, so each split has a
table of its own. Seconds are CPU time of one thread an image, all of its objects together. With --cache the run can be
stopped and gone on with: remove the folder after a change of the methods.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from defusedxml import ElementTree
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.masks import decode
from weaksam_cli.propose.prompting import Segmenter

SPLITS = ("val", "train")
BORDER = 255
_UNUSED_BOX = (0, 0, 1, 1)
Masks = NDArray[np.bool_]
Method = Callable[[NDArray[np.uint8], FloatArray], Masks]
"""From an image (H, W, 3) and boxes (n, 4), xyxy pixel edges, to a mask each (n, H, W)."""


@dataclass(frozen=True)
class Measured:
    """IoU of every object of an image, with the border left out and with it as background, and CPU seconds."""

    overlaps: NDArray[np.float64]
    strict: NDArray[np.float64]
    seconds: float


def grabcut(image: NDArray[np.uint8], boxes: FloatArray) -> Masks:
    """OpenCV's GrabCut from the box, five iterations; where it leaves nothing the box itself."""
    import cv2

    found = np.zeros((len(boxes), *image.shape[:2]), bool)
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    for mask, box in zip(found, np.rint(boxes).astype(int), strict=True):
        labels = np.full(mask.shape, cv2.GC_BGD, np.uint8)
        labels[box[1] : box[3], box[0] : box[2]] = cv2.GC_PR_FGD
        mask[:] = labels == cv2.GC_PR_FGD
        if mask.all():  # without a pixel outside there is no model of the background
            continue
        cv2.setRNGSeed(0)
        cv2.grabCut(bgr, labels, _UNUSED_BOX, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
        if (labels & 1).any():
            mask[:] = labels & 1
    return found


def grabcut_from(first: Method) -> Method:
    """GrabCut from another method's masks, three iterations on the box and a quarter of its sides around it: what stays of a
    mask when its border moves inwards is surely of the object, what lies out of it when its border moves outwards, or out
    of the box, surely not; the border moves by a tenth of the root of the mask's area."""

    def masks(image: NDArray[np.uint8], boxes: FloatArray) -> Masks:
        found = first(image, boxes)
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        for mask, box in zip(found, boxes, strict=True):
            if mask.any():
                mask[:] = cut_again(bgr, mask, np.rint(box).astype(int))
        return found

    return masks


def cut_again(bgr: NDArray[np.uint8], mask: Masks, box: NDArray[np.int_]) -> Masks:
    """One mask of `grabcut_from`, which has pixels; where nothing is left of it, the mask itself."""
    import cv2

    width = max(1, round(0.1 * float(mask.sum()) ** 0.5))
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    object_, near = (change(mask.astype(np.uint8), brush) > 0 for change in (cv2.erode, cv2.dilate))
    x1, y1, x2, y2 = box
    inside = np.zeros(mask.shape, bool)
    inside[y1:y2, x1:x2] = True
    labels = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[object_] = cv2.GC_FGD
    labels[~(near & inside)] = cv2.GC_BGD
    x, y = max((x2 - x1) // 4, 1), max((y2 - y1) // 4, 1)
    around = np.s_[max(y1 - y, 0) : y2 + y, max(x1 - x, 0) : x2 + x]
    cut = np.ascontiguousarray(labels[around])
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(np.ascontiguousarray(bgr[around]), cut, _UNUSED_BOX, *models, 3, cv2.GC_INIT_WITH_MASK)
    result = np.zeros(mask.shape, bool)
    result[around] = cut & 1
    return result if result.any() else mask


def region_tree(name: str) -> Method:
    """The segmenter of a recipe, with its weights."""
    from weaksam_cli.engine.recipes import load_recipe
    from weaksam_cli.models.weights.catalogue import WeightsFinder

    loaded: Any = load_recipe("propose", name)
    needed = loaded.resolved().get("weights")
    weights = WeightsFinder(()).require(needed) if needed else None
    segmenter: Segmenter = loaded.method.open_segmenter(loaded.recipe, weights, "cpu")

    def masks(image: NDArray[np.uint8], boxes: FloatArray) -> Masks:
        segmenter.set_image(image)
        counts = segmenter.prompt_boxes(boxes, masks=True, multimask=False).counts or []
        return decode([one for (one,) in counts], *image.shape[:2])

    return masks


METHODS: dict[str, Callable[[], Method]] = {
    "GrabCut": lambda: grabcut,
    "region-tree": lambda: region_tree("region-tree"),
    "region-tree-masks": lambda: region_tree("region-tree-masks"),
    "region-tree-masks, then GrabCut": lambda: grabcut_from(region_tree("region-tree-masks")),
}


@cache
def loaded(name: str) -> Method:
    """A method, loaded once."""
    return METHODS[name]()


def load_image(root: Path, key: str) -> tuple[NDArray[np.uint8], FloatArray, NDArray[np.uint8], list[int]]:
    """The image, the boxes of its objects that have a mask, the values of the mask file, and each object's value."""
    from PIL import Image

    with Image.open(root / "JPEGImages" / f"{key}.jpg") as file:
        image = np.asarray(file.convert("RGB"))
    with Image.open(root / "SegmentationObject" / f"{key}.png") as file:
        values = np.asarray(file)
    objects = ElementTree.parse(root / "Annotations" / f"{key}.xml").iterfind("object")
    corners = [
        [float(item.findtext(f"bndbox/{edge}") or "nan") for edge in ("xmin", "ymin", "xmax", "ymax")]
        for item in objects
    ]
    boxes = np.asarray(corners, np.float32).reshape(-1, 4) - np.asarray([1, 1, 0, 0], np.float32)
    shown = [number for number in range(1, len(boxes) + 1) if (values == number).any()]
    return image, boxes[[number - 1 for number in shown]], values, shown


def overlap(mask: Masks, truth: Masks) -> float:
    """IoU of two masks; 0 where both are empty."""
    return float((mask & truth).sum() / max((mask | truth).sum(), 1))


def measure(name: str, root: Path, key: str, folder: Path | None) -> Measured:
    """What a method makes of an image, from `folder` where it is there."""
    path = folder / f"{name}-{key}.npz" if folder else None
    if path and path.is_file():
        with np.load(path) as saved:
            return Measured(saved["overlaps"], saved["strict"], float(saved["seconds"]))
    image, boxes, values, numbers = load_image(root, key)
    method = loaded(name)
    begin = time.process_time()
    masks = method(image, boxes)
    seconds = time.process_time() - begin
    pairs = [(mask, values == number) for mask, number in zip(masks, numbers, strict=True)]
    inside = values != BORDER
    found = Measured(
        np.asarray([overlap(mask & inside, truth) for mask, truth in pairs]),
        np.asarray([overlap(mask, truth) for mask, truth in pairs]),
        seconds,
    )
    if path:
        part = path.with_suffix(".part.npz")
        np.savez(part, overlaps=found.overlaps, strict=found.strict, seconds=found.seconds)
        part.rename(path)
    return found


def table(images: Sequence[dict[str, Measured]]) -> str:
    """Markdown: a row a method, from what each gives for every image."""
    lines = [
        "| masks of true boxes | mean IoU | above .5 | above .7 | CPU s | border as background |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in images[0]:
        overlaps = np.concatenate([image[name].overlaps for image in images])
        strict = np.concatenate([image[name].strict for image in images]).mean()
        seconds = np.mean([image[name].seconds for image in images])
        shares = " | ".join(f"{(overlaps > threshold).mean():.2f}" for threshold in (0.5, 0.7))
        lines.append(f"| {name} | {overlaps.mean():.3f} | {shares} | {seconds:.2f} | {strict:.3f} |")
    return "\n".join(lines)


def keys_of(root: Path, split: str) -> list[str]:
    """Names of the images of a split."""
    return (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text(encoding="utf-8").split()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in VOC layout, with SegmentationObject")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS)
    parser.add_argument("--images", type=int, help="only the first so many of each split")
    parser.add_argument("--cache", type=Path, help="keep what was found for every image")
    options = parser.parse_args(arguments)
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if options.cache:
        options.cache.mkdir(parents=True, exist_ok=True)
    found = {
        split: [
            {name: measure(name, options.data, key, options.cache) for name in options.methods}
            for key in keys_of(options.data, split)[: options.images]
        ]
        for split in options.splits
    }
    if len(found) > 1:
        found[" and ".join(found)] = [image for images in found.values() for image in images]
    for title, images in found.items():
        objects = sum(len(image[options.methods[0]].overlaps) for image in images)
        sys.stdout.write(f"{title}: {len(images)} images, {objects} objects\n\n{table(images)}\n\n")


if __name__ == "__main__":
    main()
