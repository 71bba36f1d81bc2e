"""How well the polygons of `export` (yolo, labelme, label-studio) are the masks that they stand for.

    OMP_NUM_THREADS=1 python benchmarks/mask_outlines.py path/to/voc12-inst-mini

The true masks of all images become polygons and are filled again by pycocotools. Beside them: the exact outline, and the
largest part alone with its holes filled, as a converter writes it that takes the largest outer contour.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weaksam_cli.core import masks
from weaksam_cli.core.polygons import Ring, joined, outline, rings
from weaksam_cli.data.outlines import polygon_mask

BORDER = 255
Mask = NDArray[np.bool_]


def true_masks(folder: Path) -> list[Mask]:
    """The objects of all images of a VOC folder."""
    found = []
    for path in sorted((folder / "SegmentationObject").glob("*.png")):
        values = np.asarray(Image.open(path))
        found += [values == value for value in np.unique(values) if value not in (0, BORDER)]
    return found


def largest(mask: Mask) -> Ring:
    """The outer contour of the largest part; outlines are the longest first."""
    return rings(mask)[0]


def simple(mask: Mask) -> Ring:
    """What `export` writes."""
    ring = outline(masks.encode(mask[None])[0], *mask.shape)
    assert ring is not None
    return ring


WAYS: dict[str, Callable[[Mask], Ring]] = {
    "export": simple,
    "exact outline": lambda mask: joined(rings(mask)),
    "largest contour": largest,
}


def row(name: str, way: Callable[[Mask], Ring], every: list[Mask]) -> str:
    """A line of the table."""
    start = time.process_time()
    polygons = [way(mask) for mask in every]
    seconds = time.process_time() - start
    ious, corners = [], [len(ring) for ring in polygons]
    for mask, ring in zip(every, polygons, strict=True):
        again = masks.decode([polygon_mask([ring.reshape(-1).tolist()])(*mask.shape)], *mask.shape)[0]
        ious.append((again & mask).sum() / (again | mask).sum())
    figures = f"{np.mean(ious):.4f} | {np.min(ious):.4f} | {np.mean(corners):.0f} | {np.max(corners)}"
    return f"| {name} | {figures} | {1000 * seconds / len(every):.1f} |"


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="voc12-inst-mini")
    every = true_masks(parser.parse_args().data)
    holes = sum(len(rings(mask)) > 1 for mask in every)
    sys.stdout.write(f"{len(every)} masks, {holes} of them of several outlines (parts or holes)\n\n")
    sys.stdout.write("| polygon | mean IoU | least | corners, mean | most | CPU ms a mask |\n")
    sys.stdout.write("| --- | ---: | ---: | ---: | ---: | ---: |\n")
    for name, way in WAYS.items():
        sys.stdout.write(f"{row(name, way, every)}\n")


if __name__ == "__main__":
    main()
