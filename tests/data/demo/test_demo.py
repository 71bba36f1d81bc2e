from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tests.data.helpers import read_labelled, read_truth
from weaksam_cli.core import masks as mask_codec
from weaksam_cli.data import demo, voc
from weaksam_cli.data.demo.brush import SCALE, Brush, Canvas, ellipse, rectangle
from weaksam_cli.data.demo.scene import DemoImage, make_demo
from weaksam_cli.data.demo.things import CLASS_NAMES, LOOKS
from weaksam_cli.data.demo.voc_folder import write_demo_voc
from weaksam_cli.data.voc.png import voc_palette


@pytest.fixture(scope="module")
def samples() -> list[DemoImage]:
    return list(make_demo(3, 24, 8))


def written(folder: Path, seed: int, n_trainval: int, n_test: int) -> Path:
    write_demo_voc(folder, seed=seed, n_trainval=n_trainval, n_test=n_test)
    return folder


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


def test_the_featured_class_can_be_learnt(samples: list[DemoImage]) -> None:
    for start in range(0, 32, 8):
        clear = {
            item.class_name
            for sample in samples[start : start + 8]
            for item in sample.objects
            if not item.difficult
        }
        assert clear == set(CLASS_NAMES)


def _canvas() -> Canvas:
    return Canvas(
        np.zeros((240 * SCALE, 320 * SCALE, 3), np.uint8), np.zeros((240 * SCALE, 320 * SCALE), np.uint8)
    )


@pytest.mark.parametrize("name", LOOKS)
def test_everything_can_be_painted_at_both_ends_of_the_scale(name: str) -> None:
    for height in (14.0, 120.0):
        for flip in (False, True):
            canvas = _canvas()
            LOOKS[name].draw(Brush(canvas, 3, 160, 180, height, 0.3, flip), np.random.default_rng(0))
            rows, columns = np.nonzero(canvas.owner == 3)
            assert 0.7 * height < (rows.max() - rows.min()) / SCALE < 2.2 * height
            assert len(rows) > 0.15 * (rows.max() - rows.min()) * (columns.max() - columns.min())
            half = abs(columns / SCALE - 160).max()
            assert half < (LOOKS[name].half_width + 0.4) * height


def test_a_brush_places_local_coordinates() -> None:
    canvas = _canvas()
    Brush(canvas, 1, 100, 200, 100).shape(rectangle(-0.5, 0, 0.5, 1), (200, 0, 0), outline=False)
    rows, columns = np.nonzero(canvas.owner)
    found = [side / SCALE for side in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
    assert found == pytest.approx([50, 100, 150, 200], abs=0.6)
    upper_left, lower_right = canvas.pixels[210, 110, 0], canvas.pixels[390, 290, 0]
    assert upper_left > lower_right, "light falls from the upper left"
    before = canvas.pixels.copy()
    Brush(canvas, 2, 100, 200, 20).shape(ellipse(99, 99, 0.1, 0.1), (1, 2, 3))
    assert np.array_equal(canvas.pixels, before), "what lies outside is not painted"
    Brush(canvas, None, 100, 150, 20).shape(ellipse(0, 0, 1, 1), (1, 2, 3), opacity=0.5)
    assert (canvas.owner != 2).all()
    assert not np.array_equal(canvas.pixels, before), "a shadow is seen, but owns nothing"


def test_written_as_voc_and_read_back(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", 3, 5, 3)
    made = list(make_demo(3, 5, 3))
    splits = read_labelled(voc, folder, difficult="include")
    assert [(split.name, split.role, len(split.images)) for split in splits] == [
        ("trainval", "train", 5),
        ("test", "test", 3),
    ]
    assert not [remark for split in splits for remark in (*split.failed, *split.warnings)]
    names = splits[0].class_names
    for record, sample in zip([*splits[0].images, *splits[1].images], made, strict=True):
        assert record.labels == tuple(sorted({item.class_name for item in sample.objects}))
    truth = read_truth(voc, folder, "trainval", masks=True, task="Segmentation")
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
    first = _digest(written(tmp_path / "a", 5, 3, 1))
    second = _digest(written(tmp_path / "b", 5, 3, 1))
    again = _digest(written(tmp_path / "a", 5, 3, 1))
    assert first == second == again
    assert len(first) == 4 * 4 + 4


def test_without_test_images_there_is_no_empty_list(tmp_path: Path) -> None:
    folder = written(tmp_path, 0, 1, 0)
    assert [path.name for path in (folder / "ImageSets" / "Main").iterdir()] == ["trainval.txt"]
    assert len(read_labelled(voc, folder, difficult="include")) == 1


@pytest.mark.parametrize("numbers", [{"trainval": 0}, {"test": -1}])
def test_impossible_numbers(numbers: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        demo.Recipe(**numbers)


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
    folder = written(tmp_path, 0, 1, 0)
    with Image.open(folder / "SegmentationClass" / "000001.png") as image:
        assert image.mode == "P"
        assert (
            np.asarray(image.getpalette()).reshape(-1, 3) == palette[: len(image.getpalette() or ()) // 3]
        ).all()
