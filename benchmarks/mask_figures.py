"""What `eval` says of masks whose faults are known: the true masks, and true masks that are changed.

python benchmarks/mask_figures.py /path/to/voc12-inst-mini [--splits train val]

The objects of a VOC folder with `SegmentationObject` are written as detections with random scores, each row with another
fault, and evaluated as detections and as pseudo masks. Prints a table as Markdown, and the CPU seconds of reading the masks.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from typer.testing import CliRunner

from weaksam_cli.cli.app import app
from weaksam_cli.core.masks import decode, encode, tight_boxes
from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.data.detections import annotations_bytes
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.data.source import read_source
from weaksam_cli.eval import coco_ap, mask_ap, pseudo_masks
from weaksam_cli.eval.case import Case, load_ground_truth
from weaksam_cli.eval.standard import Recipe

Masks = NDArray[np.bool_]
Change = Callable[[Masks, np.random.Generator], Masks]
COLUMNS = (
    *(f"mask AP{value} (coco)" for value in ("", 25, 50, 70, 75)),
    *(f"mask AP{value} (voc)" for value in (25, 50, 70, 75)),
    *("COCO AP", "mean best mask IoU", "objects with mask IoU 0.7 or more", "mask precision at IoU 0.5"),
)


def grown(pixels: int) -> Change:
    """Masks that are larger by so many pixels on every side; smaller where it is negative."""
    shape = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(pixels) + 1,) * 2)
    change = cv2.dilate if pixels > 0 else cv2.erode

    def of(masks: Masks, _: np.random.Generator) -> Masks:
        return np.stack([change(mask.astype(np.uint8), shape) > 0 for mask in masks])

    return of


def shifted(masks: Masks, _: np.random.Generator) -> Masks:
    return np.stack([np.roll(mask, max(1, mask.any(axis=0).sum() // 10), axis=1) for mask in masks])


def boxes_of(masks: Masks, _: np.random.Generator) -> Masks:
    return np.stack([mask.any(axis=0)[None] & mask.any(axis=1)[:, None] for mask in masks])


def upper_halves(masks: Masks, _: np.random.Generator) -> Masks:
    return np.stack([mask & (np.cumsum(mask.sum(axis=1)) <= mask.sum() / 2)[:, None] for mask in masks])


def missing(masks: Masks, rng: np.random.Generator) -> Masks:
    return np.where((rng.random(len(masks)) < 0.3)[:, None, None], False, masks)


ROWS: dict[str, Change] = {
    "the true masks": lambda masks, _: masks,
    "1 pixel larger": grown(1),
    "1 pixel smaller": grown(-1),
    "3 pixels larger": grown(3),
    "3 pixels smaller": grown(-3),
    "shifted by a tenth of their width": shifted,
    "the box instead of the mask": boxes_of,
    "the upper half": upper_halves,
    "three of ten objects missing": missing,
}


def detections(
    truth: Mapping[str, GroundTruth], labels: Labels, change: Change
) -> Iterator[tuple[str, Detections]]:
    """The objects with masks, changed; those of which nothing is left are none."""
    rng, images = np.random.default_rng(0), labels.by_key()
    for key, objects in truth.items():
        height, width = images[key].height, images[key].width
        drawn = objects.take(np.asarray([mask is not None for mask in objects.masks or ()], bool))
        if not len(drawn):
            yield (
                key,
                Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32), ()),
            )
            continue
        masks = change(decode([mask or b"" for mask in drawn.masks or ()], height, width), rng)
        scores, left = rng.random(len(masks)).astype(np.float32), masks.any(axis=(1, 2))
        counts = encode(masks[left]) if left.any() else []
        boxes = tight_boxes(counts, height, width)
        yield key, Detections(boxes, drawn.class_index[left], scores[left], tuple(counts))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--splits", nargs="+", default=["train", "val"])
    options = parser.parse_args()
    wish = f"splits={{{', '.join(f'{name}: train' for name in options.splits)}}}"
    command = [
        "data",
        str(options.data.absolute()),
        "--dataset",
        "d",
        "--set",
        "task=Segmentation",
        "--set",
        wish,
    ]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        assert CliRunner().invoke(app, command).exit_code == 0
        run = Path("runs/d").absolute()
        for split in options.splits:
            evaluate(run, split)


def evaluate(run: Path, split: str) -> None:
    """Print the table of a split."""
    labels, source = read_labels(run / "labels" / f"{split}.json", Path()), read_source(run)
    start = time.process_time()
    found = load_ground_truth(run, source, labels, masks=True)
    read = f"read in {time.process_time() - start:.2f} s"
    sys.stdout.write(f"\n{split}: {found.counts()}, {read}; left out: {list(found.left_out)}\n\n")
    names = [name.replace("objects with mask IoU 0.7 or more", "IoU ≥ .7") for name in COLUMNS]
    sys.stdout.write(line(split, *names) + line(*["---"] * (1 + len(names))))
    for name, change in ROWS.items():
        path = run / "changed.json"
        path.write_bytes(annotations_bytes(dict(detections(found.objects, labels, change)), labels))
        case = Case("retrain", "", path, labels, found.objects, source.splits[split].layout, {})
        modules = (coco_ap, mask_ap, pseudo_masks)
        values = {item.name: item.value for module in modules for item in module.evaluate(case, Recipe())}
        sys.stdout.write(line(name, *(f"{100 * (values[column] or 0):.1f}" for column in COLUMNS)))


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
