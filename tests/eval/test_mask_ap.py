from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.helpers import read_truth
from tests.eval.masks import CLASSES, SIZE, blobs, found, objects, rectangles
from tests.eval.test_coco_ap import summarized
from tests.exchange.helpers import labels
from weaksam_cli.core.masks import encode
from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.data import voc
from weaksam_cli.data.detections import annotations_bytes
from weaksam_cli.data.labels import Labels
from weaksam_cli.errors import UserError
from weaksam_cli.eval import mask_ap, pseudo_masks
from weaksam_cli.eval.case import Case
from weaksam_cli.eval.coco_ap import coco_ap
from weaksam_cli.eval.mask_ap import (
    MASK_THRESHOLDS,
    MaskApSettings,
    coco_mask_dataset,
    coco_mask_results,
    mask_ap_voc,
)

Split = dict[str, GroundTruth]
Found = dict[str, Detections]


def coco(truth: Split, masks: Found) -> dict[float, float]:
    sizes = dict.fromkeys(truth, SIZE)
    dataset, numbers = coco_mask_dataset(truth, CLASSES, sizes)
    results = coco_mask_results(masks, numbers, sizes)
    at = coco_ap(dataset, results, kind="segm", more=MASK_THRESHOLDS).at
    return {value: at[value].mean for value in MASK_THRESHOLDS}


def chainer(truth: Split, masks: Found) -> dict[float, float]:
    figures = mask_ap_voc(truth, masks, CLASSES, dict.fromkeys(truth, SIZE))
    return {value: figure.mean for value, figure in figures.items()}


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("protocol", [coco, chainer])
def test_the_true_masks_are_perfect(protocol: Any, n: int) -> None:
    drawn = rectangles([[20 * i, 5 * i, 20 * i + 15, 5 * i + 30] for i in range(n)])
    truth = {"a": objects(drawn, [1] * n), "b": objects([], [])}
    got = protocol(truth, {"a": found(drawn, [1] * n, [0.5] * n)})
    assert got == pytest.approx(dict.fromkeys(MASK_THRESHOLDS, 1 if n else np.nan), nan_ok=True)


@pytest.mark.parametrize("protocol", [coco, chainer])
def test_the_papers_thresholds(protocol: Any) -> None:
    """Masks of IoU .6 and .3 with the object of their class."""
    truth = {"a": objects(rectangles([[0, 0, 100, 100], [110, 0, 150, 100]]), [0, 1])}
    masks = {"a": found(rectangles([[0, 0, 100, 60], [110, 0, 150, 30]]), [0, 1], [0.9, 0.8])}
    assert protocol(truth, masks) == pytest.approx({0.25: 1, 0.5: 0.5, 0.7: 0, 0.75: 0})
    assert protocol(truth, {}) == dict.fromkeys(MASK_THRESHOLDS, 0)


@pytest.mark.parametrize("protocol", [coco, chainer])
def test_equality_is_enough(protocol: Any) -> None:
    truth = {"a": objects(rectangles([[0, 0, 100, 100]]), [0])}
    masks = {"a": found(rectangles([[0, 0, 100, 75]]), [0], [0.9])}
    assert protocol(truth, masks) == pytest.approx(dict.fromkeys(MASK_THRESHOLDS, 1))


def test_the_protocols_differ_in_the_sum() -> None:
    """Two objects, the second found by the third mask: 101 points against the area under the curve."""
    truth = {"a": objects(rectangles([[0, 0, 40, 40], [60, 0, 100, 40]]), [0, 0])}
    third = rectangles([[0, 0, 40, 40], [0, 60, 40, 100], [60, 0, 100, 40]])
    masks = {"a": found(third, [0, 0, 0], [0.9, 0.8, 0.7])}
    assert chainer(truth, masks)[0.5] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert coco(truth, masks)[0.5] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_the_protocols_differ_in_the_match() -> None:
    """Two masks on two neighbours prefer the same: COCO gives the second what is left, VOC calls it false."""
    truth = {"a": objects(rectangles([[0, 0, 60, 100], [40, 0, 100, 100]]), [0, 0])}
    masks = {"a": found(rectangles([[0, 0, 60, 100], [10, 0, 80, 100]]), [0, 0], [0.9, 0.8])}
    assert coco(truth, masks)[0.25] == pytest.approx(1)
    assert chainer(truth, masks)[0.25] == pytest.approx(0.5)


@pytest.mark.parametrize("protocol", [coco, chainer])
def test_flagged_objects_count_neither_way(protocol: Any) -> None:
    pair = rectangles([[0, 0, 40, 40], [60, 0, 100, 40]])
    truth = {"a": objects(pair, [0, 0], [False, True])}
    masks = {"a": found(pair[::-1], [0, 0], [0.9, 0.8])}
    assert protocol(truth, masks)[0.75] == pytest.approx(1)


def test_masks_of_unknown_images_are_refused() -> None:
    with pytest.raises(UserError, match="masks: 1 images"):
        mask_ap_voc({"a": objects([], [])}, {"b": found([], [], [])}, CLASSES, {"a": SIZE})


def random_split(seed: int) -> tuple[Split, Found, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """0, 1, 2, 6, 7 objects in an image, masks that resemble some of them, and all of both as dense masks."""
    rng = np.random.default_rng(seed)
    truth, masks, wanted, offered = {}, {}, {}, {}
    for key, n, more in zip("abcde", (0, 1, 2, 6, 7), (2, 0, 7, 1, 6), strict=True):
        dense = blobs(rng, n)
        near = np.concatenate([np.roll(dense, rng.integers(-9, 9), axis=2), blobs(rng, more)])
        truth[key] = objects(encode(dense), rng.integers(0, 2, n).tolist(), (rng.random(n) < 0.2).tolist())
        classes, scores = rng.integers(0, 2, len(near)).tolist(), rng.random(len(near)).round(1).tolist()
        masks[key] = found(encode(near), classes, scores)
        wanted[key], offered[key] = dense, near
    return truth, masks, wanted, offered


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_pycocotools_sums_up_to_the_same(seed: int) -> None:
    truth, masks, _, _ = random_split(seed)
    sizes = dict.fromkeys(truth, SIZE)
    dataset, numbers = coco_mask_dataset(truth, CLASSES, sizes)
    results = coco_mask_results(masks, numbers, sizes)
    got = coco_ap(dataset, results, kind="segm", more=MASK_THRESHOLDS)
    figures = [got.ap, got.at[0.5], got.at[0.75], *got.of_size.values()]
    expected = summarized(dataset, results, "segm")
    assert [figure.mean for figure in figures] == pytest.approx(expected, nan_ok=True)


def plain_ap(
    truth: Split, masks: Found, wanted: dict[str, Any], offered: dict[str, Any], k: int, threshold: float
) -> float:
    """chainercv's rule with dense masks, one image after the other, written anew: no object is flagged here."""
    scored: list[tuple[float, bool]] = []
    for key, item in masks.items():
        own, mine = wanted[key][truth[key].class_index == k], item.class_index == k
        used: set[int] = set()
        for row in np.flatnonzero(mine)[np.argsort(-item.scores[mine], kind="stable")]:
            mask = offered[key][row]
            ious = [(mask & other).sum() / (mask | other).sum() for other in own]
            best = int(np.argmax(ious)) if ious else -1
            is_true = best >= 0 and ious[best] >= threshold and best not in used
            used |= {best} if is_true else set()
            scored.append((float(item.scores[row]), is_true))
    scored.sort(key=lambda pair: -pair[0])
    hits = np.cumsum([is_true for _, is_true in scored])
    total = sum(int((item.class_index == k).sum()) for item in truth.values())
    if not total:
        return float("nan")
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / total
    steps = np.diff(recall, prepend=0)
    return float(sum(step * precision[i:].max() for i, step in enumerate(steps) if step))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_plain_loop_sums_up_to_the_same(seed: int) -> None:
    truth, masks, wanted, offered = random_split(seed)
    plain = {key: objects(item.masks or (), item.class_index.tolist()) for key, item in truth.items()}
    got = mask_ap_voc(plain, masks, CLASSES, dict.fromkeys(plain, SIZE))
    for threshold in MASK_THRESHOLDS:
        expected = [plain_ap(plain, masks, wanted, offered, k, threshold) for k in range(2)]
        assert list(got[threshold].values.values()) == pytest.approx(expected, nan_ok=True)


def test_as_the_published_evaluator_sums_up(oracle: Any) -> None:
    """MIST's boxes are pixels with both ends inside, and its IoU that of the masks of these pixels."""
    case = oracle("mist_wetectron")["voc_ap_wetectron"]

    def drawn(boxes: list[list[float]]) -> tuple[bytes, ...]:
        dense = np.zeros((len(boxes), 160, 160), bool)
        for mask, (left, top, right, bottom) in zip(dense, np.asarray(boxes, int), strict=True):
            mask[top : bottom + 1, left : right + 1] = True
        return tuple(encode(dense))

    truth = {
        str(number): GroundTruth(
            np.asarray(item["boxes"], np.float32), np.asarray(item["labels"], np.int32) - 1,
            np.asarray(item["difficult"]), masks=drawn(item["boxes"]),
        )
        for number, item in enumerate(case["gts"])
    }  # fmt: skip
    masks = {
        str(number): Detections(
            np.asarray(item["boxes"], np.float32), np.asarray(item["labels"], np.int32) - 1,
            np.asarray(item["scores"], np.float32), drawn(item["boxes"]),
        )
        for number, item in enumerate(case["preds"])
    }  # fmt: skip
    figures = mask_ap_voc(truth, masks, CLASSES, dict.fromkeys(truth, (160, 160)))
    assert list(figures[0.5].values.values()) == pytest.approx(case["ap_area"][1:])


def test_the_true_masks_of_photographs_are_perfect(voc12_inst_mini: Path) -> None:
    truth = read_truth(voc, voc12_inst_mini, "val", task="Segmentation", masks=True)
    sizes = {image.key: (image.height, image.width) for image in truth.images}
    wanted = {image.key: image.objects for image in truth.images}
    masks = {
        key: Detections(
            item.boxes, item.class_index, np.linspace(0.1, 0.9, len(item), dtype=np.float32),
            tuple(mask or b"" for mask in item.masks or ()),
        )
        for key, item in wanted.items()
    }  # fmt: skip
    assert (len(wanted), sum(map(len, wanted.values())), truth.failed) == (30, 66, ())
    plain = {key: replace(item, difficult=np.zeros(len(item), bool)) for key, item in wanted.items()}
    figures = mask_ap_voc(plain, masks, voc.VOC_CLASSES, sizes)
    assert {value: figure.mean for value, figure in figures.items()} == pytest.approx(
        dict.fromkeys(MASK_THRESHOLDS, 1)
    )
    dataset, numbers = coco_mask_dataset(plain, voc.VOC_CLASSES, sizes)
    results = coco_mask_results(masks, numbers, sizes)
    assert coco_ap(dataset, results, kind="segm").ap.mean == pytest.approx(1)


# ---------------------------------------------------------------- artifacts
def split(keys: str) -> Labels:
    made = labels({key: number for number, key in enumerate(keys, start=1)}, classes=2)
    made.file.images[:] = [
        image.model_copy(update={"height": SIZE[0], "width": SIZE[1]}) for image in made.file.images
    ]
    return made


def case_of(folder: Path, truth: Split, masks: Found, layout: str = "voc") -> Case:
    known = split("".join(truth))
    path = folder / "found.json"
    path.write_bytes(annotations_bytes(masks, known))
    return Case("retrain", "", path, known, truth, layout, {})


def test_images_without_masks_are_left_out(tmp_path: Path) -> None:
    """Image b has objects and no masks; an object of a has none; what is found there does not count, c is empty."""
    one, two = rectangles([[0, 0, 40, 40], [60, 0, 100, 40]])
    truth = {"a": objects([one, None], [0, 1]), "b": objects([None], [0]), "c": objects([], [])}
    masks = {"a": found([one], [0], [0.9]), "b": found([two], [0], [0.95]), "c": found([], [], [])}
    by_name = {
        item.name: item for item in mask_ap.evaluate(case_of(tmp_path, truth, masks), MaskApSettings())
    }
    assert list(by_name) == [
        "mask AP (coco)", "mask AP25 (coco)", "mask AP50 (coco)", "mask AP70 (coco)", "mask AP75 (coco)",
        "mask AP small (coco)", "mask AP medium (coco)", "mask AP large (coco)",
        "mask AP25 (voc)", "mask AP50 (voc)", "mask AP70 (voc)", "mask AP75 (voc)",
    ]  # fmt: skip
    assert by_name["mask AP50 (voc)"].value == pytest.approx(1)
    assert by_name["mask AP medium (coco)"].value == pytest.approx(1)
    assert by_name["mask AP50 (voc)"].as_json()["classes"] == {"class 0": 1}
    quality = pseudo_masks.evaluate(case_of(tmp_path, truth, masks), MaskApSettings())
    assert [(item.name, item.value) for item in quality] == [
        ("mean best mask IoU", 1),
        ("objects with mask IoU 0.5 or more", 1),
        ("objects with mask IoU 0.7 or more", 1),
        ("mask precision at IoU 0.5", 1),
        ("mask recall at IoU 0.5", 1),
    ]


@pytest.mark.parametrize(
    ("layout", "chosen", "expected"),
    [("voc", "include", 0.5), ("voc", "exclude", 1), ("coco", "include", 1), ("coco", "exclude", 1)],
)
def test_difficult_objects_count_and_crowds_do_not(
    tmp_path: Path, layout: str, chosen: Any, expected: float
) -> None:
    pair = rectangles([[0, 0, 40, 40], [60, 0, 100, 40]])
    truth = {"a": objects(pair, [0, 0], [False, True])}
    masks = {"a": found(pair[:1], [0], [0.9])}
    wish = MaskApSettings(mask_ap=("voc",), mask_difficult=chosen)
    figures = mask_ap.evaluate(case_of(tmp_path, truth, masks, layout), wish)
    assert [item.value for item in figures] == [expected] * 4


@pytest.mark.parametrize("side", ["artifact", "truth"])
def test_without_masks_there_is_no_figure(tmp_path: Path, side: str) -> None:
    one = rectangles([[0, 0, 40, 40]])
    boxes = found(one, [0], [0.9])
    truth = {"a": objects([None] if side == "truth" else one, [0])}
    masks = {"a": boxes if side == "truth" else Detections(boxes.boxes, boxes.class_index, boxes.scores)}
    for module in (mask_ap, pseudo_masks):
        assert module.evaluate(case_of(tmp_path, truth, masks), MaskApSettings()) == []
