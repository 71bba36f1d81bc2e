from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weaksam_cli.core import masks as mask_codec
from weaksam_cli.data.demo.canvas import Canvas, ellipse, rectangle
from weaksam_cli.data.demo.clutter import CLUTTER
from weaksam_cli.data.demo.compose import DemoImage, make_demo
from weaksam_cli.data.demo.scene import CLASS_NAMES, CLASSES
from weaksam_cli.data.demo.voc_writer import voc_palette, write_demo_voc
from weaksam_cli.data.ground_truth import read_ground_truth
from weaksam_cli.data.image_labels import read_labels
from weaksam_cli.data.types import ReadOptions


@pytest.fixture(scope="module")
def samples() -> list[DemoImage]:
    return list(make_demo(3, 24, 8))


def _digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_images_are_well_formed(samples: list[DemoImage]) -> None:
    assert [sample.key for sample in samples] == [f"{number:06d}" for number in range(1, 33)]
    assert [sample.split for sample in samples] == ["trainval"] * 24 + ["test"] * 8
    for sample in samples:
        assert sample.image.dtype == np.uint8
        height, width, _ = sample.image.shape
        assert 192 <= min(height, width) <= 240
        assert max(height, width) <= 320
        assert 1 <= len(sample.objects) <= 5
        assert np.stack([item.mask for item in sample.objects]).sum(axis=0).max() == 1


def test_boxes_are_tight_on_visible_pixels(samples: list[DemoImage]) -> None:
    for sample in samples:
        for item in sample.objects:
            rows, columns = np.nonzero(item.mask)
            assert item.box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert item.mask.sum() >= 60


def test_every_eight_images_hold_every_class(samples: list[DemoImage]) -> None:
    for start in range(0, 32, 8):
        found = {item.class_name for sample in samples[start : start + 8] for item in sample.objects}
        assert found == set(CLASS_NAMES)


def test_variety(samples: list[DemoImage]) -> None:
    groups = [sample for sample in samples if _touching(sample)]
    sides = [
        float(np.sqrt(np.prod(item.box[2:] - item.box[:2]))) for sample in samples for item in sample.objects
    ]
    counts = {len(sample.objects) for sample in samples}
    assert len(groups) >= 5
    assert max(sides) > 6 * min(sides)
    assert len(counts) >= 4
    assert any(item.difficult for sample in samples for item in sample.objects)
    assert any(item.truncated for sample in samples for item in sample.objects)


def _touching(sample: DemoImage) -> bool:
    """Whether two objects of one class have neighbouring pixels."""
    for index, item in enumerate(sample.objects):
        grown = np.zeros_like(item.mask)
        grown[:, 1:] |= item.mask[:, :-1]
        grown[:, :-1] |= item.mask[:, 1:]
        for other in sample.objects[index + 1 :]:
            if other.class_name == item.class_name and (grown & other.mask).any():
                return True
    return False


def test_the_seed_decides_and_larger_sets_begin_alike(samples: list[DemoImage]) -> None:
    again = list(make_demo(3, 2, 1))
    assert np.array_equal(again[0].image, samples[0].image)
    assert np.array_equal(again[2].image, samples[24].image)
    other = next(make_demo(4, 1, 0))
    assert other.image.shape != samples[0].image.shape or not np.array_equal(other.image, samples[0].image)


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_every_class_can_be_painted_at_both_ends_of_the_scale(name: str) -> None:
    look = CLASSES[name]
    for height in (14.0, 200.0):
        for flip in (False, True):
            canvas = Canvas(height, look.half_width, angle=0.3, flip=flip)
            look.draw(canvas, np.random.default_rng(0))
            sprite = canvas.sprite()
            assert (sprite.pixels[..., 3] >= 128).mean() > 0.15
            assert sprite.pixels.shape[0] > 0.8 * height
            touched = canvas.layer.getchannel("A")
            edges = np.asarray(touched)
            assert not edges[[0, -1]].any(), "painted over the upper or lower edge of the canvas"
            assert not edges[:, [0, -1]].any(), "painted over the left or right edge of the canvas"


@pytest.mark.parametrize("name", CLUTTER)
def test_every_clutter_can_be_painted(name: str) -> None:
    for height in (8.0, 90.0):
        canvas = Canvas(height, CLUTTER[name].half_width)
        CLUTTER[name].draw(canvas, np.random.default_rng(0))
        assert canvas.sprite().pixels[..., 3].max() == 255


def test_canvas_places_local_coordinates() -> None:
    canvas = Canvas(100, 0.5)
    canvas.shape(rectangle(-0.5, 0, 0.5, 1), (200, 0, 0), outline=False)
    sprite = canvas.sprite()
    assert sprite.pixels.shape[:2] == pytest.approx((100, 100), abs=1)
    assert sprite.foot == pytest.approx((50, 100), abs=1)
    assert sprite.pixels[5, 5, 0] > sprite.pixels[-5, -5, 0], "light falls from the upper left"


def test_canvas_ignores_what_lies_outside() -> None:
    canvas = Canvas(20, 0.5)
    canvas.shape(ellipse(9, 9, 0.1, 0.1), (1, 2, 3))
    assert canvas.sprite().pixels.shape == (1, 1, 4)


def test_written_as_voc_and_read_back(tmp_path: Path) -> None:
    folder = write_demo_voc(tmp_path / "a", seed=3, n_trainval=5, n_test=3)
    made = list(make_demo(3, 5, 3))
    splits = read_labels(folder, ReadOptions(difficult="include"), layout=None)
    assert [(split.name, split.role, len(split.images)) for split in splits] == [
        ("trainval", "train", 5),
        ("test", "test", 3),
    ]
    assert not [remark for split in splits for remark in (*split.failed, *split.warnings)]
    names = splits[0].class_names
    for record, sample in zip([*splits[0].images, *splits[1].images], made, strict=True):
        assert record.labels == tuple(sorted({item.class_name for item in sample.objects}))
    truth = read_ground_truth(folder, "trainval", ReadOptions(task="Segmentation"), masks=True)
    assert not truth.failed
    for image, sample in zip(truth.images, made[:5], strict=True):
        assert image.objects.boxes.tolist() == [item.box.tolist() for item in sample.objects]
        assert image.objects.difficult.tolist() == [item.difficult for item in sample.objects]
        assert [names[index] for index in image.objects.class_index] == [
            item.class_name for item in sample.objects
        ]
        masks = [mask for mask in image.masks or () if mask is not None]
        decoded = mask_codec.decode(masks, image.height, image.width)
        assert np.array_equal(decoded, np.stack([item.mask for item in sample.objects]))


def test_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    first = _digest(write_demo_voc(tmp_path / "a", seed=5, n_trainval=3, n_test=1))
    second = _digest(write_demo_voc(tmp_path / "b", seed=5, n_trainval=3, n_test=1))
    again = _digest(write_demo_voc(tmp_path / "a", seed=5, n_trainval=3, n_test=1))
    assert first == second == again
    assert len(first) == 4 * 4 + 4


def test_without_test_images_there_is_no_empty_list(tmp_path: Path) -> None:
    folder = write_demo_voc(tmp_path, seed=0, n_trainval=1, n_test=0)
    assert [path.name for path in (folder / "ImageSets" / "Main").iterdir()] == ["trainval.txt"]
    assert len(read_labels(folder, ReadOptions(difficult="include"))) == 1


@pytest.mark.parametrize(("n_trainval", "n_test"), [(0, 1), (1, -1)])
def test_impossible_numbers(tmp_path: Path, n_trainval: int, n_test: int) -> None:
    with pytest.raises(ValueError, match="n_trainval >= 1"):
        write_demo_voc(tmp_path, seed=0, n_trainval=n_trainval, n_test=n_test)


def test_mask_colours_are_those_of_voc(tmp_path: Path) -> None:
    palette = np.frombuffer(voc_palette(), dtype=np.uint8).reshape(256, 3)
    assert palette[[0, 1, 2, 4, 15, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [0, 0, 128],
        [192, 128, 128],
        [224, 224, 192],
    ]
    folder = write_demo_voc(tmp_path, seed=0, n_trainval=1, n_test=0)
    with Image.open(folder / "SegmentationClass" / "000001.png") as image:
        assert image.mode == "P"
        assert (
            np.asarray(image.getpalette()).reshape(-1, 3) == palette[: len(image.getpalette() or ()) // 3]
        ).all()
