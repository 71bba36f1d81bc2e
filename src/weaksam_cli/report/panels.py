"""Images of the page as SVG: a photograph that stands there once, and boxes, masks, points and maps over it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from weaksam_cli.core.boxes import iou
from weaksam_cli.core.drawing import (
    Box,
    colour,
    coloured,
    free_place,
    ink,
    printable,
    scaled_box,
    shortened,
    text_width,
)
from weaksam_cli.core.masks import decode
from weaksam_cli.core.polygons import rings
from weaksam_cli.core.types import Detections, GroundTruth, Points

_WIDEST, _HIGHEST = 320, 512
"""Units of a panel: letters have the same size in all that are shown in a column, but in very high ones."""
_LETTERS = 17
_LONGEST_NAME = 22
_MOST_BOXES = 20
_STEPS = ((560, 78), (480, 74), (400, 68), (320, 60), (240, 50), (160, 40), (96, 30))
"""Longest side and quality of a photograph, until it is small enough."""
_MAP_SIDE = 56
_MASK_TOLERANCE = 1.2
"""Units that a mask's outline may lie beside the mask: a page has hundreds of them."""
_SMOOTHING = 0.75
"""The same in pixels of the image, at least: steps of pixels are not drawn."""
_FINENESS = 10
"""Steps of a unit in which outlines are written, as whole numbers, which are short."""


@dataclass(frozen=True)
class Photo:
    """A photograph of the page.

    Attributes:
        name: of the element that holds it; panels refer to it.
        uri: a data URI; '' where the image could not be read.
        width, height: of a panel, in its units.
        scale: units a pixel of the image.
        size: height and width of the image as labelled, which masks have.
    """

    name: str
    uri: str
    width: float
    height: float
    scale: float
    size: tuple[int, int]

    @classmethod
    def of(cls, name: str, pixels: NDArray[np.uint8] | None, size: tuple[int, int], most_bytes: int) -> Photo:
        """From uint8 RGB (h, w, 3), None where it could not be read, and the height and width as labelled."""
        height, width = pixels.shape[:2] if pixels is not None else size
        scale = min(_WIDEST / max(width, 1), _HIGHEST / max(height, 1))
        uri = "" if pixels is None else photo_uri(pixels, most_bytes)
        return cls(name, uri, round(width * scale, 1), round(height * scale, 1), scale, size)


def photo_uri(pixels: NDArray[np.uint8], most_bytes: int) -> str:
    """An image as a WebP in a data URI, as large and as good as so many bytes allow."""
    image, data = Image.fromarray(pixels), b""
    for side, quality in _STEPS:
        data = _webp(image, side, quality)
        if len(data) <= most_bytes:
            break
    return _uri(data)


def map_uri(heat: NDArray[np.float32]) -> str:
    """A map with values in [0, 1] in colours, as a small WebP in a data URI."""
    return _uri(_webp(Image.fromarray(coloured(heat)), _MAP_SIDE, 70))


def map_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which a map is drawn."""
    factor = _MAP_SIDE / max(height, width, 1)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _webp(image: Image.Image, side: int, quality: int) -> bytes:
    small, buffer = image.copy(), io.BytesIO()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.save(buffer, "webp", quality=quality, method=4)
    return buffer.getvalue()


def _uri(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def panel(photo: Photo, title: str, layers: Sequence[Markup], note: str = "") -> Markup:
    """A photograph with layers over it; a button, which shows it larger."""
    return Markup(
        '<figure class="panel"><button type="button" class="zoom" aria-label="{title}, larger">'
        '<svg viewBox="0 0 {w} {h}" role="img" aria-label="{title}{colon}{note}">'
        '<rect width="{w}" height="{h}" class="ground"/>{photo}{layers}</svg></button>'
        "<figcaption><b>{title}</b> {note}</figcaption></figure>"
    ).format(
        title=title, note=note, colon=": " if note else "", w=photo.width, h=photo.height,
        photo=Markup('<use href="#{}"/>').format(photo.name) if photo.uri else "", layers=Markup("").join(layers),
    )  # fmt: skip


def boxes_layer(
    photo: Photo, found: Detections, ranks: NDArray[np.float64], names: Sequence[str], most: float
) -> Markup:
    """Detections with class, score and mask, the best on top; those whose rank is `most` or above are there, not shown."""
    order = np.argsort(-found.scores, kind="stable")[:_MOST_BOXES]
    taken: list[Box] = []
    outlines, tags, end = [], [], Markup("</g>")
    for row in order:
        index, score = int(found.class_index[row]), float(found.scores[row])
        place = _place(photo, found.boxes[row])
        name = printable(names[index])
        text = f"{shortened(name, _LONGEST_NAME)} {score:.2f}"
        width, height = text_width(text, _LETTERS) + 6, _LETTERS + 5
        label = free_place(place, (width, height), (photo.width, photo.height), taken)
        taken.append(label)
        paint = colour(index)
        group = Markup('<g class="box{}" data-rank="{:.3f}"><title>{} {:.3f}</title>').format(
            " off" if ranks[row] >= most else "", ranks[row], name, score
        )
        mask = None if found.masks is None else found.masks[row]
        shape = _mask(photo, mask, "mask", paint) + _outline(
            place, "line" if mask is None else "beside", paint
        )
        outlines.append(group + shape + end)
        tag = Markup(
            '<rect class="tag" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" fill="{}"/>'
            '<text x="{:.1f}" y="{:.1f}" fill="{}">{}</text>'
        ).format(
            label[0], label[1], width, height, paint, label[0] + 3, label[1] + _LETTERS, ink(paint), text
        )
        tags.append(group + tag + end)
    return Markup("").join([*reversed(outlines), *reversed(tags)])


def pseudo_layer(photo: Photo, found: Detections, names: Sequence[str]) -> Markup:
    """All pseudo boxes, as detections that are always shown."""
    return boxes_layer(photo, found, np.zeros(len(found)), names, 1)


def proposals_layer(
    photo: Photo, boxes: NDArray[np.float32], truth: GroundTruth | None
) -> tuple[Markup, int]:
    """Some proposals, float32 (n, 4), thin; and for each annotated object the one of all that overlaps it most, thick.

    Returns:
        The layer, and how many objects have a proposal at IoU .5 or above.
    """
    parts = [_outline(_place(photo, box), "thin", "") for box in boxes[:_MOST_BOXES]]
    objects = truth.boxes[~truth.difficult] if truth is not None else np.zeros((0, 4), np.float32)
    if not len(objects) or not len(boxes):
        return Markup("").join(parts), 0
    overlap = iou(objects, boxes)
    parts += [_outline(_place(photo, boxes[best]), "best", "") for best in overlap.argmax(axis=1)]
    return Markup("").join(parts), int((overlap.max(axis=1) >= 0.5).sum())


def truth_layer(
    photo: Photo, truth: GroundTruth, masks: Sequence[bytes | None] = (), names: Sequence[str] = ()
) -> Markup:
    """Annotated objects, dashed in white and black, which shows on any ground; masks in the colours of their classes.

    Args:
        photo: of the image.
        truth: the objects.
        masks: compressed RLE of each, None where it has none; none at all where they are not known.
        names: of the classes.
    """
    parts = [
        Markup("<g><title>{}</title>").format(printable(names[index]))
        + _mask(photo, mask, "mask", colour(index))
        + Markup("</g>")
        for index, mask in zip(truth.class_index.tolist(), masks, strict=False)
    ]
    places = [_place(photo, box) for box in truth.boxes]
    parts += [_outline(place, kind, "") for place in places for kind in ("under", "truth")]
    return Markup("").join(parts)


def map_layer(photo: Photo, heat: NDArray[np.float32]) -> Markup:
    """A map (h, w) over the whole photograph."""
    return Markup('<image class="map" href="{}" width="{}" height="{}" preserveAspectRatio="none"/>').format(
        map_uri(heat), photo.width, photo.height
    )


def points_layer(photo: Photo, kinds: dict[str, Points], index: int) -> Markup:
    """The peaks of a class, of every kind."""
    return Markup("").join(
        Markup('<circle class="peak" cx="{:.1f}" cy="{:.1f}" r="6"><title>{} peak, {:.2f}</title></circle>').format(
            (x + 0.5) * photo.scale, (y + 0.5) * photo.scale, kind, value
        )
        for kind, points in kinds.items()
        for (x, y), of_class, value in zip(
            points.xy.tolist(), points.class_index.tolist(), points.value.tolist(), strict=True
        )
        if of_class == index
    )  # fmt: skip


def _place(photo: Photo, box: NDArray[np.float32]) -> Box:
    """A box in units of the panel, where its outline is seen at the borders, too."""
    return scaled_box(box, photo.scale, 1, (photo.width - 1, photo.height - 1))


def _outline(place: Box, kind: str, paint: str) -> Markup:
    left, top, right, bottom = place
    return Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"{}/>').format(
        kind, left, top, right - left, bottom - top, Markup(' stroke="{}"').format(paint) if paint else ""
    )


def _mask(photo: Photo, counts: bytes | None, kind: str, paint: str) -> Markup:
    """A mask of the image's size as a path, holes left out by the even-odd rule; nothing for None, or of an empty one."""
    if counts is None:
        return Markup("")
    fine = photo.scale * _FINENESS
    parts = []
    for ring in rings(decode([counts], *photo.size)[0], max(_MASK_TOLERANCE / photo.scale, _SMOOTHING)):
        points = np.rint(ring * fine).astype(int)
        steps = np.diff(points, axis=0).tolist()
        parts.append(f"M{points[0, 0]} {points[0, 1]}l{' '.join(f'{x} {y}' for x, y in steps)}z")
    path = "".join(parts).replace(" -", "-")
    if not path:
        return Markup("")
    return Markup('<path class="{}" d="{}" transform="scale({})" fill="{}" stroke="{}"/>').format(
        kind, path, 1 / _FINENESS, paint, paint
    )
