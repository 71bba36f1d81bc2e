"""COCO's `segmentation`: polygons, or run lengths in either form, as compressed run lengths that cover exactly the image."""

from __future__ import annotations

from typing import Any

from weaksam_cli.data.outlines import numbers, polygon_mask


def segmentation_mask(segmentation: Any, height: int, width: int) -> bytes:
    """Compressed RLE (`counts`).

    Raises:
        ValueError: why it cannot be used.
    """
    if isinstance(segmentation, list):
        polygons = [numbers(item) if isinstance(item, list) else None for item in segmentation]
        known = [item for item in polygons if item is not None]
        if len(known) < len(polygons):
            raise ValueError("a polygon has a coordinate that is no finite number")
        return polygon_mask(known)(height, width)
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise ValueError("expected polygons or run lengths as segmentation")
    if segmentation.get("size") != [height, width]:
        raise ValueError(f"run lengths of size {segmentation.get('size')}, the image has {[height, width]}")
    return _run_lengths(segmentation["counts"], height, width)


def _run_lengths(counts: Any, height: int, width: int) -> bytes:
    """Compressed run lengths that are known to cover exactly the image; the C decoder trusts its input."""
    from pycocotools import mask as coco_mask

    runs = _decompress(counts) if isinstance(counts, str) else counts
    fits = isinstance(runs, list) and all(isinstance(run, int) and run >= 0 for run in runs)
    if not fits or sum(runs) != height * width:
        raise ValueError("the run lengths do not cover the image")
    return bytes(coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"])


def _decompress(text: str) -> list[int]:
    """COCO's compressed string to run lengths: 5 bits per character, from the third on as differences."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("the compressed run lengths are damaged")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError("the compressed run lengths are cut short")
    return runs
