from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.tiny import write_voc
from typer.testing import CliRunner

from weaksam_cli.cli.app import app
from weaksam_cli.data.images import read_image
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.propose.selective_search import Mode, Recipe, build, selective_search

Image = Callable[[int, int], NDArray[np.uint8]]
MODES: tuple[Mode, ...] = get_args(Mode)


def search(image: NDArray[np.uint8], **settings: Any) -> NDArray[np.float32]:
    return selective_search(image, Recipe(**{"max_side": None, **settings}))


@pytest.fixture(scope="module")
def scene() -> NDArray[np.uint8]:
    """A dark rectangle and a bright one on grey."""
    image = np.full((60, 90, 3), 128, np.uint8)
    image[10:40, 20:50] = (200, 30, 30)
    image[30:55, 60:85] = (20, 40, 220)
    return image


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 1), (7, 6), (1, 60), (33, 21)])
@pytest.mark.parametrize("kind", ["flat", "black", "noise"])
def test_small_and_flat_images(mode: Mode, height: int, width: int, kind: str, sample: Image) -> None:
    image = sample(height, width) if kind == "noise" else np.full((height, width, 3), 99, np.uint8)
    image = image * 0 if kind == "black" else image
    boxes = search(image, mode=mode)
    assert boxes.dtype == np.float32
    assert boxes.shape[1:] == (4,)
    assert (boxes == [0, 0, width, height]).all(axis=1).any()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [width, height]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_boxes_are_pixel_edges(scene: NDArray[np.uint8], mode: Mode) -> None:
    """The two rectangles are found exactly: left and top included, right and bottom one further."""
    found = {tuple(box) for box in search(scene, mode=mode).tolist()}
    assert {(20, 10, 50, 40), (60, 30, 85, 55), (0, 0, 90, 60)} <= found


def test_colours_are_rgb() -> None:
    """OpenCV takes BGR: an image with its channels swapped is another one, and finds other boxes."""
    image = np.random.default_rng(3).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    image = np.repeat(np.repeat(image[::8, ::8], 8, 0), 8, 1)[:40, :50]
    image[..., 2] //= 3
    assert search(image).tolist() != search(np.ascontiguousarray(image[..., ::-1])).tolist()


def test_more_is_searched_from_mode_to_mode(sample: Image) -> None:
    image = sample(80, 100)
    counts = [len(search(image, mode=mode)) for mode in MODES]
    assert counts == sorted(counts)
    assert len(set(counts)) == 3


def test_no_box_twice(sample: Image) -> None:
    boxes = search(sample(80, 100))
    assert len(np.unique(boxes, axis=0)) == len(boxes) > 7


def test_the_order_does_not_depend_on_what_was_done_before(sample: Image) -> None:
    """OpenCV ranks by the C library's `rand`."""
    image = sample(80, 100)
    first = search(image)
    ctypes.CDLL(None).srand(77)
    search(sample(50, 60))
    np.testing.assert_array_equal(search(image), first)
    ctypes.CDLL(None).srand(78)
    np.testing.assert_array_equal(search(image), first)


@pytest.mark.parametrize("most", [1, 2, 6, 7, 10_000])
def test_the_first_are_kept(sample: Image, most: int) -> None:
    image = sample(40, 50)
    whole = search(image)
    np.testing.assert_array_equal(search(image, max_boxes=most), whole[:most])


@pytest.mark.parametrize("side", [1, 5, 41])
def test_small_boxes_are_left_out_before_the_first_are_taken(sample: Image, side: int) -> None:
    image = sample(40, 50)
    whole = search(image)
    expected = whole[((whole[:, 2:] - whole[:, :2]) >= side).all(axis=1)]
    np.testing.assert_array_equal(search(image, min_side=side), expected)
    np.testing.assert_array_equal(search(image, min_side=side, max_boxes=2), expected[:2])


def test_a_large_image_is_searched_smaller(scene: NDArray[np.uint8]) -> None:
    large = np.repeat(np.repeat(scene, 3, axis=0), 3, axis=1)
    found = search(large, max_side=90)
    np.testing.assert_allclose(found, search(scene) * 3)
    np.testing.assert_array_equal(search(large, max_side=270), search(large))


def test_a_thin_image_keeps_a_pixel() -> None:
    image = np.full((1, 300, 3), 7, np.uint8)
    assert search(image, max_side=30).tolist() == [[0, 0, 300, 1]]


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_refuses_what_does_not_fit(image: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        search(image)


def test_the_recipes_say_the_mode() -> None:
    """OpenCV's `fast` gives 1,205 boxes an image of VOC07, the published files 2,001; `quality` gives more than both."""
    modes = {
        name: load_recipe("propose", name).resolved()["mode"]
        for name in ("selective-search", "selective-search-quality")
    }
    assert modes == {"selective-search": "fast", "selective-search-quality": "quality"}


def test_the_recipe_reaches_the_search(sample: Image) -> None:
    image = sample(40, 50)
    recipe = Recipe(mode="single", max_side=30, min_side=4, max_boxes=5)
    found = build(recipe, None, "cpu")(image, {})
    expected = search(image, mode="single", max_side=30, min_side=4, max_boxes=5)
    np.testing.assert_array_equal(found.boxes, expected)
    assert np.isnan(found.predicted_iou).all() and np.isnan(found.stability).all()


def test_the_stage_needs_no_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voc(tmp_path / "voc", trainval=9, test=0)
    monkeypatch.chdir(tmp_path)
    method = ("--recipe", "selective-search", "--workers", "1")
    for command in (("data", "voc"), ("propose", *method)):
        result = CliRunner().invoke(app, [*command, "--dataset", "tiny"])
        assert result.exit_code == 0, result.output
    with h5py.File(tmp_path / "runs/tiny/proposals/trainval.h5") as file:
        names = file["source_names"].asstr()[...].tolist()
        assert {names[index] for index in file["source"][...]} == {"search"}
        keys, ends, boxes = file["image_ids"].asstr()[...].tolist(), file["offsets"][...], file["boxes"][...]
    assert len(keys) == 9
    for key, start, end in zip(keys, ends[:-1], ends[1:], strict=True):
        image = read_image(tmp_path / f"voc/JPEGImages/{key}.jpg")
        np.testing.assert_array_equal(boxes[start:end], search(image))
