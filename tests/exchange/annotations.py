"""Annotated images with names, classes and boxes of all kinds; and boxes read again, to compare them with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from weaksam_cli.exchange.annotated import Annotated, AnnotatedImage

HOSTILE = (
    "../x",
    "=1+1",
    "<b>&amp;",
    "naïve 犬",
    "a, b|c",
    'say "it"',
    "it's",
    "yes",
    "@home",
    "-1",
    "a: #b",
)
KEYS = ("a.jpg", "b.png", "sub/a.jpg", "sub/deep er/ü 犬.jpg", "=x.jpg", "0007.jpg", "c%20d.jpg")
COUNTS = (0, 1, 2, 6, 7, 1, 2)
SERVERS = frozenset({"voc-server", "coco-results"})
"""Formats of results, which hold neither all images nor the order of their boxes: see `test_servers`."""
Found = dict[str, list[tuple[str, tuple[float, float, float, float]]]]
"""Name of an image -> class and box (xyxy pixel edges) of each of its objects."""


def annotated_image(
    key: str,
    boxes: ArrayLike,
    classes: Sequence[int],
    *,
    size: tuple[int, int] = (64, 48),
    folder: Path | None = None,
    scores: Sequence[float] | None = None,
) -> AnnotatedImage:
    """An image of a width and height."""
    return AnnotatedImage(
        key,
        None if folder is None else folder / key,
        *size,
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(classes, np.int32),
        None if scores is None else np.asarray(scores, np.float32),
    )


def sample(
    classes: Sequence[str] = HOSTILE,
    keys: Sequence[str] = KEYS,
    folder: Path | None = None,
    *,
    scored: bool = True,
) -> Annotated:
    """0, 1, 2, 6, 7, ... boxes with fractions of pixels in images of names of all kinds, which are written to `folder`."""
    generator = np.random.default_rng(0)
    images: list[AnnotatedImage] = []
    for key, count in zip(keys, (*COUNTS, *COUNTS), strict=False):
        width, height = 64 + len(images), 48 + 2 * len(images)
        corners = np.sort(generator.random((count, 2, 2)), axis=1) * [width, height]
        corners[:, 1] = np.minimum(corners[:, 1] + 1, [width, height])
        chosen, scores = generator.integers(0, len(classes), count), generator.random(count)
        if folder is not None:
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / key)
        images.append(
            annotated_image(
                key, corners.reshape(-1, 4), chosen.tolist(), size=(width, height), folder=folder,
                scores=scores.tolist() if scored else None,
            )
        )  # fmt: skip
    return Annotated(tuple(classes), tuple(images))


def found_in(annotated: Annotated) -> Found:
    """What a reader should find."""
    return {
        image.file_name: [(annotated.classes[row.class_index], row.box) for row in image.rows()]
        for image in annotated.images
    }


def assert_found(found: Found, expected: Found, pixels: float = 0.01) -> None:
    """The same images with the same classes and, to a hundredth of a pixel, the same boxes; in the same order."""
    assert sorted(found) == sorted(expected)
    for name, objects in expected.items():
        assert [item[0] for item in found[name]] == [item[0] for item in objects]
        boxes = [np.asarray([box for _, box in items]).reshape(-1, 4) for items in (found[name], objects)]
        np.testing.assert_allclose(boxes[0], boxes[1], atol=pixels)


def boxes_of(values: Iterable[Iterable[float]]) -> list[tuple[float, float, float, float]]:
    return [(left, top, right, bottom) for left, top, right, bottom in values]
