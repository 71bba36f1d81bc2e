"""Painted masks: Label Studio's brush strokes and LabelMe's masks, as they were drawn or with a word on what is wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.data.helpers import Truth, read_labelled, read_truth, sample
from weaksam_cli.core.masks import decode
from weaksam_cli.data import label_studio, labelme
from weaksam_cli.data.brush import painted
from weaksam_cli.data.stage import choose_layout

HEIGHT, WIDTH = 30, 40
Mask = NDArray[np.bool_]


def ellipse(left: int, top: int, right: int, bottom: int) -> Mask:
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    along, down = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
    return np.asarray(along**2 + down**2 < 1)


ONE, TWO = ellipse(5, 3, 30, 20), ellipse(20, 11, 40, 30)
BOXES = [[5, 3, 30, 20], [20, 11, 40, 30]]


def packed(
    words: Sequence[int], size: int = 8, lengths: Sequence[int] = (3, 4, 8, 16), seed: int = 0
) -> list[int]:
    """Words in pieces of random lengths, as `rle-pack`'s README has them: repeated where all of a piece are the same."""
    rng, begin = Random(seed), 0
    bits = f"{len(words):032b}{size - 1:05b}" + "".join(f"{length - 1:04b}" for length in lengths)
    while begin < len(words):
        kind = rng.randrange(4)
        piece = words[begin : begin + rng.randint(1, 2 ** lengths[kind])]
        repeated = len({*piece}) == 1 and rng.random() < 0.8
        bits += f"{repeated:b}{kind:02b}{len(piece) - 1:0{lengths[kind]}b}"
        bits += "".join(f"{word:0{size}b}" for word in (piece[:1] if repeated else piece))
        begin += len(piece)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]


def brushed(mask: Mask, colour: Sequence[int] = (90, 0, 255, 128), **how: Any) -> list[int]:
    return packed((mask[..., None] * np.asarray(colour)).ravel().tolist(), **how)


# run lengths

THREE_BY_FIVE = [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
PIECES = [0, 0, 0, 60, 57, 27, 254, 23, 0, 183, 255, 133, 192, 0]
RED = [0, 0, 0, 60, 57, 27, 254, 23, 0, 3, 254, 16, 8, 127, 225, 0, 135, 254, 16, 0, 63, 240, 184, 0]


@pytest.mark.parametrize("values", [PIECES, RED])
def test_what_another_encoder_wrote(values: list[int]) -> None:
    """`encode_rle` of the package `label-studio-brush-rle-rs`, of a white and of a red stroke."""
    assert painted(values, 3, 5).astype(int).tolist() == THREE_BY_FIVE


@pytest.mark.parametrize("seed", range(12))
def test_pieces_of_all_kinds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 12, 2)
    mask = rng.random((height, width)) < rng.choice([0.0, 0.1, 0.9, 1.0])
    size = int(rng.integers(1, 33))
    colour = [*rng.integers(0, 2**size, 3).tolist(), int(rng.integers(1, 2**size))]
    lengths = rng.integers(1, 17, 4).tolist()
    values = brushed(mask, colour, size=size, lengths=lengths, seed=seed)
    assert (painted(values, height, width) == mask).all()


GOOD = brushed(ONE)
DAMAGED: dict[str, tuple[Any, str]] = {
    "nothing": ([], "end too early"),
    "header only": (GOOD[:7], "end too early"),
    "cut short": (GOOD[:-9], "end too early"),
    "of another image": (brushed(ONE[:-1]), r"are of 4,640 values, not of 30 x 40 x 4"),
    "of 2^32 - 1 values": ([255, 255, 255, 255, *GOOD[4:]], "are of 4,294,967,295 values"),
    "a piece that goes on": ([*GOOD[:6], 254, *[255] * 9], "are longer than its picture"),
    "no bytes": ([256, *GOOD], "no bytes from 0 to 255"),
    "negative": ([-1, *GOOD], "no bytes from 0 to 255"),
    "true": ([True, *GOOD], "no bytes from 0 to 255"),
    "text": ("AAAA", "no bytes from 0 to 255"),
    "null": (None, "no bytes from 0 to 255"),
    "nested": ([[0]], "no bytes from 0 to 255"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_run_lengths(name: str) -> None:
    values, message = DAMAGED[name]
    with pytest.raises(ValueError, match=message):
        painted(values, HEIGHT, WIDTH)


# Label Studio


def brush(label: str, rle: Any, **more: Any) -> dict[str, Any]:
    return {
        "type": "brushlabels", "from_name": "x", "to_name": "image", "original_width": WIDTH, "original_height": HEIGHT,
        "value": {"format": "rle", "rle": rle, "brushlabels": [label]}, **more,
    }  # fmt: skip


def tasks(folder: Path, *results: Any) -> Path:
    """An export of the image `a.jpg` with these results, JSON."""
    sample(folder / "images" / "a.jpg", WIDTH, HEIGHT)
    task = {"id": 1, "data": {"image": "/data/upload/a.jpg"}, "annotations": [{"result": [*results]}]}
    (folder / "tasks.json").write_text(json.dumps([task]))
    return folder / "tasks.json"


def rows(folder: Path, *results: Any) -> Path:
    """The same, JSON-MIN."""
    path = tasks(folder)
    regions = [{**item["value"], "original_width": WIDTH, "original_height": HEIGHT} for item in results]
    row = {"image": "/data/upload/a.jpg", "id": 1, "mask": regions, "annotator": 1, "annotation_id": 1}
    path.write_text(json.dumps([row]))
    return path


def shown(truth: Truth) -> tuple[list[list[float]], list[Mask | None]]:
    (image,) = truth.images
    assert image.masks is not None
    drawn = [None if mask is None else decode([mask], HEIGHT, WIDTH)[0] for mask in image.masks]
    return image.objects.boxes.tolist(), drawn


@pytest.mark.parametrize("write", [tasks, rows])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_brush_strokes(tmp_path: Path, write: Any, count: int) -> None:
    masks = [ONE, TWO][:count]
    regions = [
        brush(name, brushed(mask, seed=count)) for name, mask in zip(("cat", "dog"), masks, strict=False)
    ]
    box = {"x": 25, "y": 10, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["fox"]}
    source = write(tmp_path, *regions, {"type": "rectanglelabels", "value": box})
    assert choose_layout(str(source), None) == "label_studio"
    (split,) = read_labelled(label_studio, source)
    assert split.images[0].labels == (*("cat", "dog")[:count], "fox")
    truth = read_truth(label_studio, source, "trainval", masks=True)
    boxes, drawn = shown(truth)
    np.testing.assert_allclose(boxes, [*BOXES[:count], [10, 3, 30, 18]], atol=1e-5)
    assert all(mask is not None and (mask == want).all() for mask, want in zip(drawn, masks, strict=False))
    assert drawn[count:] == [None] and not truth.failed


SKIPPED: dict[str, tuple[dict[str, Any], str]] = {
    "truncated": (brush("cat", GOOD[:-9]), "its brush strokes cannot be read: its run lengths end too early"),
    "empty": (brush("cat", brushed(ONE & False)), "its brush painted nothing"),
    "no sides": (brush("cat", GOOD, original_width=None), "does not say the size of its image"),
    "a side of 0": (brush("cat", GOOD, original_width=0), "does not say the size of its image"),
    "other sides": (brush("cat", GOOD, original_width=41), "are of 4,800 values, not of 30 x 41 x 4"),
    "too large": (
        brush("cat", GOOD, original_width=10**9),
        "is painted on 30 x 1000000000 pixels, more than",
    ),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_brush_strokes_that_are_left_out(tmp_path: Path, name: str) -> None:
    """Region and class are named, the label stays, and so do the other regions."""
    result, message = SKIPPED[name]
    source = tasks(tmp_path, brush("dog", brushed(TWO)), result)
    assert read_labelled(label_studio, source)[0].images[0].labels == ("cat", "dog")
    truth = read_truth(label_studio, source, "trainval", masks=True)
    assert shown(truth)[0] == [BOXES[1]]
    (remark,) = truth.failed
    assert remark.key == "a.jpg" and remark.reason.startswith("region 2 (cat): ") and message in remark.reason


def test_brush_strokes_on_an_image_of_another_size(tmp_path: Path) -> None:
    source = tasks(tmp_path, brush("cat", GOOD))
    sample(tmp_path / "images" / "a.jpg", 80, 60)
    truth = read_truth(label_studio, source, "trainval", masks=True)
    np.testing.assert_allclose(truth.images[0].objects.boxes, [[10, 6, 60, 40]], atol=1e-5)
    assert truth.images[0].masks == (None,)
    (reason,) = [remark.reason for remark in truth.failed]
    assert reason == "region 1 (cat): the file has not the size that its mask was drawn on"


# LabelMe


def png(mask: NDArray[Any]) -> str:
    data = BytesIO()
    Image.fromarray(mask).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def shape(label: str, points: Any, mask: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": "mask", "mask": mask, "flags": {}}


def drawn_in(box: list[int], mask: Mask, label: str = "cat") -> dict[str, Any]:
    """As LabelMe saves it: zeros and ones of the box, whose points are its first and its last pixel."""
    left, top, right, bottom = box
    cut = mask[top:bottom, left:right].astype(np.uint8)
    return shape(label, [[float(left), float(top)], [float(right - 1), float(bottom - 1)]], png(cut))


def labelled(folder: Path, *shapes: dict[str, Any]) -> Path:
    sample(folder / "a.jpg", WIDTH, HEIGHT)
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    (folder / "a.json").write_text(json.dumps({"shapes": [*shapes], "imagePath": "a.jpg", **size}))
    return folder


@pytest.mark.parametrize("count", [0, 1, 2])
def test_masks_of_labelme(tmp_path: Path, count: int) -> None:
    masks = [ONE, TWO][:count]
    shapes = [
        drawn_in(box, mask, name)
        for box, mask, name in zip(BOXES, masks, ("cat", "dog"), strict=False)
    ]  # fmt: skip
    box = {"label": "fox", "points": [[1, 2], [9, 9]], "shape_type": "rectangle", "mask": None}
    source = labelled(tmp_path, *shapes, box)
    assert choose_layout(str(source), None) == "labelme"
    assert read_labelled(labelme, source)[0].images[0].labels == (*("cat", "dog")[:count], "fox")
    truth = read_truth(labelme, source, "trainval", masks=True)
    boxes, drawn = shown(truth)
    assert boxes == [*BOXES[:count], [1, 2, 9, 9]]
    assert all(mask is not None and (mask == want).all() for mask, want in zip(drawn, masks, strict=False))
    assert drawn[count:] == [None] and not truth.failed


def test_a_mask_of_a_single_pixel(tmp_path: Path) -> None:
    one = np.zeros((HEIGHT, WIDTH), bool)
    one[29, 39] = True
    source = labelled(tmp_path, drawn_in([39, 29, 40, 30], one))
    boxes, (mask,) = shown(read_truth(labelme, source, "trainval", masks=True))
    assert boxes == [[39, 29, 40, 30]] and mask is not None and (mask == one).all()


POINTS = [[5, 3], [29, 19]]
CUT = ONE[3:20, 5:30].astype(np.uint8)
MASKLESS: dict[str, tuple[Any, str]] = {
    "no base64": (shape("cat", POINTS, "*" * 20), "its mask is no PNG in base64, or a damaged one"),
    "no PNG": (shape("cat", POINTS, base64.b64encode(b"GIF89a").decode()), "its mask is no PNG in base64"),
    "cut short": (
        shape("cat", POINTS, png(np.random.default_rng(0).integers(0, 2, (17, 25), np.uint8))[:80]), "damaged one"),
    "of another size": (
        shape("cat", POINTS, png(CUT[:, :-1])), "its mask has 17 x 24 pixels of 1 channels, expected 17 x 25 of one"),
    "in colours": (shape("cat", POINTS, png(np.stack([CUT] * 3, axis=2))), "pixels of 3 channels, expected 17 x 25"),
    "out of the image": (shape("cat", [[20, 14], [44, 30]], png(CUT)), "the mask stands out of the image"),
    "nothing painted": (shape("cat", POINTS, png(CUT * 0)), "its mask is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKLESS)
def test_masks_of_labelme_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    """The box stays, as does that of a polygon whose mask is none; shape and class are named."""
    given, message = MASKLESS[name]
    source = labelled(tmp_path, drawn_in(BOXES[1], TWO, "dog"), given)
    truth = read_truth(labelme, source, "trainval", masks=True)
    boxes, drawn = shown(truth)
    assert len(boxes) == 2 and drawn[1] is None
    (remark,) = truth.failed
    assert remark.key == "a.jpg" and remark.reason.startswith("shape 2 (cat): ") and message in remark.reason


BOXLESS: dict[str, tuple[Any, str]] = {
    "no points": ([], "a mask of 0 points has no box"),
    "one point": ([[1, 2]], "a mask of 1 points has no box"),
    "three points": ([[1, 2], [3, 4], [5, 6]], "a mask of 3 points has no box"),
    "turned round": ([[29, 19], [5, 3]], "has no extent"),
    "far away": ([[1e8, 1e8], [1e8, 1e8]], "lies outside the image"),
    "huge": ([[0, 0], [1e300, 1e300]], "is not finite"),
}


@pytest.mark.parametrize("name", BOXLESS)
def test_masks_of_labelme_without_a_box(tmp_path: Path, name: str) -> None:
    points, message = BOXLESS[name]
    source = labelled(tmp_path, drawn_in(BOXES[1], TWO, "dog"), shape("cat", points, png(CUT)))
    truth = read_truth(labelme, source, "trainval", masks=True)
    assert shown(truth)[0] == [BOXES[1]]
    (remark,) = truth.failed
    assert remark.reason.startswith("shape 2 (cat): ") and message in remark.reason


def test_a_mask_without_its_picture_is_a_box(tmp_path: Path) -> None:
    truth = read_truth(labelme, labelled(tmp_path, shape("cat", POINTS, None)), "trainval", masks=True)
    boxes, drawn = shown(truth)
    assert boxes == [BOXES[0]] and drawn == [None] and not truth.failed
    assert [remark.reason for remark in truth.warnings] == ["1 objects of 1 images have no mask: a.jpg"]
