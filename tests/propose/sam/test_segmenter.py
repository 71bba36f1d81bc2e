from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.propose.conftest import build_tiny_sam

from weaksam_cli.core import masks as rle
from weaksam_cli.core.boxes import edges_to_inclusive
from weaksam_cli.core.types import Points, PromptedMasks
from weaksam_cli.errors import UserError
from weaksam_cli.propose import torch_segmenter
from weaksam_cli.propose.mask_logits import MaskUpsampling
from weaksam_cli.propose.prompting import PromptingSettings, Segmenter, assemble, grid_proposals, pad_prompts
from weaksam_cli.propose.sam import encoder
from weaksam_cli.propose.sam import segmenter as sam_segmenter
from weaksam_cli.propose.sam.segmenter import SamSegmenter, set_precision

Image = Callable[[int, int], NDArray[np.uint8]]
SHAPES: list[dict[str, Any]] = [
    {"window_size": 4, "num_heads": 3},
    {"window_size": 8, "depth": 3, "global_attn_indexes": (0, 2)},
    {"window_size": 5, "embed_dim": 32, "mlp_ratio": 4},
]
SIZES = [(90, 140), (140, 90), (64, 64), (128, 128), (33, 301), (300, 7), (1, 1)]


def predictor_answer(
    sam: Any, image: NDArray[np.uint8], multimask: bool = True, **prompt: Any
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    from segment_anything import SamPredictor

    predictor = SamPredictor(sam)
    predictor.set_image(image)
    masks, quality, _ = predictor.predict(multimask_output=multimask, **prompt)
    return masks, quality


def assert_same(
    answer: PromptedMasks, row: int, masks: NDArray[np.bool_], quality: NDArray[np.float32]
) -> None:
    assert answer.counts is not None
    height, width = masks.shape[1:]
    ours = rle.decode(answer.counts[row], height, width)
    # The two run other batches, so a pixel on the threshold may fall to either side.
    assert (ours != masks).mean() < 1e-3
    np.testing.assert_allclose(answer.predicted_iou[row], quality, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(answer.area[row], ours.sum(axis=(1, 2)))
    np.testing.assert_array_equal(answer.boxes[row], rle.tight_boxes(answer.counts[row], height, width))


def assert_points_agree(
    sam: Any, image: NDArray[np.uint8], xy: NDArray[np.float32], labels: NDArray[np.int8]
) -> None:
    segmenter = SamSegmenter(sam, points_per_batch=2)
    segmenter.set_image(image)
    answer = segmenter.prompt_points(xy, labels, masks=True)
    for row in range(len(xy)):
        real = labels[row] >= 0
        masks, quality = predictor_answer(
            sam, image, point_coords=xy[row][real], point_labels=labels[row][real]
        )
        assert_same(answer, row, masks, quality)


def random_prompts(
    height: int, width: int, lengths: list[int]
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    generator = np.random.default_rng(height + width)
    total = sum(lengths)
    xy = np.stack([generator.integers(0, width, total), generator.integers(0, height, total)], axis=1)
    ends = np.cumsum(lengths)
    members = [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    return pad_prompts(xy.astype(np.float32), members)


@pytest.mark.parametrize("size", SIZES)
def test_points_agree_with_sam_predictor(tiny_sam: Any, sample: Image, size: tuple[int, int]) -> None:
    image = sample(*size)
    xy, labels = random_prompts(*size, [1, 3, 1, 2, 3])
    labels[1, 2] = 0
    assert_points_agree(tiny_sam, image, xy, labels)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [(90, 140), (33, 301)])
def test_every_shape_of_network_agrees_with_sam_predictor(
    sample: Image, size: tuple[int, int], shape: dict[str, Any]
) -> None:
    sam = build_tiny_sam(5, **shape)
    image = sample(*size)
    xy, labels = random_prompts(*size, [1, 3, 1])
    assert_points_agree(sam, image, xy, labels)


@pytest.mark.parametrize("size", SIZES[:5])
def test_boxes_agree_with_sam_predictor(tiny_sam: Any, sample: Image, size: tuple[int, int]) -> None:
    height, width = size
    image = sample(height, width)
    boxes = np.asarray([[0, 0, width, height], [1, 2, width / 2, height / 3], [3, 3, 9, 21]], np.float32)
    segmenter = SamSegmenter(tiny_sam, points_per_batch=2)
    segmenter.set_image(image)
    answer = segmenter.prompt_boxes(boxes, masks=True)
    one = segmenter.prompt_boxes(boxes, masks=True, multimask=False)
    for row, box in enumerate(boxes):
        masks, quality = predictor_answer(tiny_sam, image, box=box)
        assert_same(answer, row, masks, quality)
        single, quality = predictor_answer(tiny_sam, image, multimask=False, box=box)
        assert_same(one, row, single, quality)


@pytest.mark.parametrize("size", [(90, 140), (140, 90), (40, 40)])
@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize(
    ("predicted_iou", "stability", "nms"), [(0.3, 0.3, 0.3), (-np.inf, 0.01, 0.95), (-np.inf, 0.2, 0.7)]
)
def test_grid_agrees_with_automatic_mask_generation(
    tiny_sam_factory: Callable[[int], Any],
    sample: Image,
    size: tuple[int, int],
    threshold: float,
    predicted_iou: float,
    stability: float,
    nms: float,
) -> None:
    from segment_anything import SamAutomaticMaskGenerator

    sam = tiny_sam_factory(0)
    sam.mask_threshold = threshold
    height, width = size
    image = sample(height, width)
    reference = SamAutomaticMaskGenerator(
        sam,
        points_per_side=6,
        points_per_batch=5,
        # The generator leaves out a filter whose threshold is not above 0.
        pred_iou_thresh=max(predicted_iou, 0.0),
        stability_score_thresh=stability,
        box_nms_thresh=nms,
    )
    expected = reference.generate(image)
    segmenter = SamSegmenter(sam, points_per_batch=5)
    segmenter.set_image(image)
    settings = PromptingSettings.model_construct(
        points_per_side=6, predicted_iou=predicted_iou, stability=stability, nms=nms, masks=True
    )
    found = grid_proposals(segmenter, height, width, settings)
    assert found.counts is not None
    filled = [item for item in expected if item["area"] > 0]
    assert len(found) == len(filled)
    inclusive = edges_to_inclusive(found.boxes)
    for row, item in enumerate(filled):
        left, top, w, h = item["bbox"]
        np.testing.assert_array_equal(inclusive[row], [left, top, left + w, top + h])
        np.testing.assert_allclose(found.predicted_iou[row], item["predicted_iou"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.stability[row], item["stability_score"], rtol=1e-3)
        assert (rle.decode([found.counts[row]], height, width)[0] != item["segmentation"]).mean() < 1e-3
        x, y = item["point_coords"][0]
        prompt = int(found.prompt[row])
        assert ((prompt % 6 + 0.5) / 6 * width, (prompt // 6 + 0.5) / 6 * height) == pytest.approx((x, y))


def test_padding_has_no_influence(tiny_sam: Any, sample: Image) -> None:
    image = sample(60, 80)
    xy, labels = random_prompts(60, 80, [1, 4, 2])
    segmenter = SamSegmenter(tiny_sam)
    segmenter.set_image(image)
    together = segmenter.prompt_points(xy, labels, masks=True)
    for row in range(3):
        real = labels[row] >= 0
        alone = segmenter.prompt_points(xy[row : row + 1, real], labels[row : row + 1, real], masks=True)
        np.testing.assert_allclose(together.predicted_iou[row], alone.predicted_iou[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(together.boxes[row], alone.boxes[0])


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("budget", [1, 16 * 1024 * 1024])
def test_batches_change_nothing(
    tiny_sam: Any, sample: Image, monkeypatch: pytest.MonkeyPatch, batch: int, budget: int
) -> None:
    xy, labels = random_prompts(50, 70, [1] * 9)
    whole = SamSegmenter(tiny_sam)
    whole.set_image(sample(50, 70))
    expected = whole.prompt_points(xy, labels)
    monkeypatch.setitem(torch_segmenter.FULL_SIZE_PIXELS, "cpu", budget)
    segmenter = SamSegmenter(tiny_sam, points_per_batch=batch)
    segmenter.set_image(sample(50, 70))
    found = segmenter.prompt_points(xy, labels)
    np.testing.assert_allclose(found.predicted_iou, expected.predicted_iou, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.area, expected.area, atol=3)
    assert found.counts is None


def test_full_size_masks_stay_within_the_budget(
    tiny_sam: Any, sample: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 0
    bands = MaskUpsampling.bands

    def watched(self: MaskUpsampling, low: Any, window: Any, pixels: int) -> Any:
        nonlocal largest
        for rows, logits in bands(self, low, window, pixels):
            largest = max(largest, logits.numel())
            yield rows, logits

    monkeypatch.setattr(MaskUpsampling, "bands", watched)
    monkeypatch.setitem(torch_segmenter.FULL_SIZE_PIXELS, "cpu", 20_000)
    segmenter = SamSegmenter(tiny_sam)
    segmenter.set_image(sample(200, 300))
    xy, labels = random_prompts(200, 300, [1] * 20)
    whole = segmenter.prompt_points(xy, labels, masks=True)
    assert 0 < largest <= 20_000
    assert whole.counts is not None
    for row in range(20):
        np.testing.assert_array_equal(
            whole.area[row], rle.decode(whole.counts[row], 200, 300).sum(axis=(1, 2))
        )


@pytest.mark.parametrize("masks", [False, True])
def test_masks_that_are_not_wanted_are_empty(tiny_sam: Any, sample: Image, masks: bool) -> None:
    xy, labels = random_prompts(50, 70, [1] * 7)
    segmenter = SamSegmenter(tiny_sam)
    segmenter.set_image(sample(50, 70))
    every = segmenter.prompt_points(xy, labels, masks=masks)
    without_first = segmenter.prompt_points(xy, labels, masks=masks, first_mask=False)
    assert (without_first.area[:, 0] == 0).all() and (without_first.boxes[:, 0] == 0).all()
    np.testing.assert_array_equal(without_first.boxes[:, 1:], every.boxes[:, 1:])
    np.testing.assert_allclose(without_first.predicted_iou[:, 1:], every.predicted_iou[:, 1:])
    threshold = float(np.median(every.predicted_iou))
    good = every.predicted_iou > threshold
    some = segmenter.prompt_points(xy, labels, masks=masks, quality_above=threshold)
    np.testing.assert_array_equal(some.area, np.where(good, every.area, 0))
    np.testing.assert_array_equal(some.boxes, np.where(good[..., None], every.boxes, 0))
    np.testing.assert_array_equal(some.predicted_iou, every.predicted_iou)
    if masks:
        assert every.counts is not None and some.counts is not None and without_first.counts is not None
        for row in range(7):
            assert some.counts[row] == [
                item if keep else b"" for item, keep in zip(every.counts[row], good[row], strict=True)
            ]
            assert without_first.counts[row] == [b"", *every.counts[row][1:]]


def test_the_gpu_s_way_gives_the_same(tiny_sam: Any, sample: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused attention and large batches, which a GPU is driven with, on the CPU."""
    xy, labels = random_prompts(50, 70, [1, 2, 1, 1, 2])
    expected = SamSegmenter(tiny_sam)
    expected.set_image(sample(50, 70))
    monkeypatch.setattr(encoder, "chunked_attention", encoder.fused_attention)
    monkeypatch.setattr(torch_segmenter, "CPU_POINTS_PER_BATCH", 64)
    found = SamSegmenter(tiny_sam)
    found.set_image(sample(50, 70))
    one, other = expected.prompt_points(xy, labels), found.prompt_points(xy, labels)
    np.testing.assert_allclose(other.predicted_iou, one.predicted_iou, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(other.boxes, one.boxes)


def test_half_precision_is_close(tiny_sam_factory: Callable[[int], Any], sample: Image) -> None:
    xy, labels = random_prompts(50, 70, [1] * 5)
    expected = SamSegmenter(tiny_sam_factory(0))
    half = tiny_sam_factory(0)
    set_precision(half, torch.bfloat16)
    found = SamSegmenter(half)
    for segmenter in (expected, found):
        segmenter.set_image(sample(50, 70))
    one, other = expected.prompt_points(xy, labels), found.prompt_points(xy, labels)
    assert other.predicted_iou.dtype == np.float32
    assert np.abs(other.predicted_iou - one.predicted_iou).max() < 0.1 * np.abs(one.predicted_iou).max()
    assert np.abs(other.area - one.area).mean() < 0.1 * 50 * 70


def test_too_little_memory_for_the_encoder_is_said(
    tiny_sam: Any, sample: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(sam_segmenter, "encode", exhausted)
    segmenter = SamSegmenter(tiny_sam)
    with pytest.raises(UserError, match="not enough memory for the image encoder"):
        segmenter.set_image(sample(20, 30))
    with pytest.raises(ValueError, match="no image is set"):
        segmenter.prompt_boxes(np.zeros((1, 4), np.float32))


def test_the_encoder_compiles_to_one_graph(tiny_sam: Any) -> None:
    torch.compiler.reset()
    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(encoder.encode, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(tiny_sam.image_encoder, pixels), tiny_sam.image_encoder(pixels), rtol=1e-4, atol=1e-4
        )


def test_one_image_encoding_a_image(tiny_sam_factory: Callable[[int], Any], sample: Image) -> None:
    sam = tiny_sam_factory(1)
    calls: list[int] = []
    sam.image_encoder.patch_embed.register_forward_hook(lambda *_: calls.append(1))
    segmenter = SamSegmenter(sam)
    points = Points(
        np.asarray([[5, 6], [30, 20], [7, 9]], np.int32),
        np.asarray([0, 3, 0], np.int32),
        np.ones(3, np.float32),
        np.zeros(3, np.int16),
    )
    sources = {"coarse": points, "fine": points, "cross": points}
    for number in (1, 2):
        assemble(segmenter, PromptingSettings(points_per_side=4), sample(40, 60), sources)  # type: ignore[arg-type]
        segmenter.prompt_boxes(np.asarray([[1, 1, 20, 20]], np.float32))
        assert len(calls) == number


@pytest.mark.parametrize("masks", [False, True])
def test_no_prompt_gives_no_mask(tiny_sam: Any, sample: Image, masks: bool) -> None:
    segmenter = SamSegmenter(tiny_sam)
    segmenter.set_image(sample(20, 30))
    none = segmenter.prompt_points(np.zeros((0, 1, 2), np.float32), np.zeros((0, 1), np.int8), masks=masks)
    assert len(none) == 0 and none.boxes.shape == (0, 3, 4)
    assert len(segmenter.prompt_boxes(np.zeros((0, 4), np.float32), masks=masks)) == 0
    assert len(segmenter.prompt_boxes(np.zeros((0, 4), np.float32), masks=masks, multimask=False)) == 0


def test_is_a_segmenter(tiny_sam: Any) -> None:
    assert isinstance(SamSegmenter(tiny_sam), Segmenter)


def test_refuses_what_does_not_fit(tiny_sam: Any) -> None:
    segmenter = SamSegmenter(tiny_sam)
    one = (np.zeros((1, 1, 2), np.float32), np.ones((1, 1), np.int8))
    with pytest.raises(ValueError, match="no image is set"):
        segmenter.prompt_points(*one)
    with pytest.raises(ValueError, match="no image is set"):
        segmenter.prompt_boxes(np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="uint8"):
        segmenter.set_image(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="uint8"):
        segmenter.set_image(np.zeros((4, 4), np.uint8))
