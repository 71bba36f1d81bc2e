"""From views to detections, with networks that answer as the test wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.types import Detections
from weaksam_cli.wsod.detector import Answer, Sample, select_detections
from weaksam_cli.wsod.mist import Mist
from weaksam_cli.wsod.settings import InferenceSettings, ProposalSettings
from weaksam_cli.wsod.vgg16 import DetectionSettings, Vgg16
from weaksam_cli.wsod.vgg_detector import detect

HEIGHT, WIDTH = 60, 90


@dataclass
class FakeNetwork:
    """Knows the scores of the proposals; `place` makes boxes of the view from the proposals in it."""

    scores: NDArray[np.float32]
    place: Callable[[torch.Tensor], torch.Tensor] = lambda boxes: boxes
    items: list[Sample] = field(default_factory=list)

    def __call__(self, items: list[Sample]) -> list[Answer]:
        assert not torch.is_grad_enabled()
        self.items += items
        (item,) = items
        return [Answer(torch.from_numpy(self.scores), self.place(item.regions.boxes))]


SELECTION = InferenceSettings()


def settings(selection: InferenceSettings = SELECTION, **test_images: Any) -> DetectionSettings:
    network = Vgg16.model_validate({"name": "vgg16", "test_images": test_images})
    return DetectionSettings(
        method=Mist(), network=network, proposals=ProposalSettings(), inference=selection
    )


def sample(n: int, classes: int = 3) -> tuple[NDArray[np.uint8], FloatArray, NDArray[np.float32]]:
    rng = np.random.default_rng(n)
    low = rng.uniform(0, 40, (n, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 20, (n, 2))], axis=1).astype(np.float32)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    return image, boxes, rng.random((n, classes), dtype=np.float32)


def assert_same(found: Detections, expected: Detections) -> None:
    assert found.class_index.tolist() == expected.class_index.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)


def shifted(boxes: torch.Tensor) -> torch.Tensor:
    """A box for each of three classes: the proposal, and its upper and lower half (a mirror image keeps them)."""
    middle = (boxes[:, 1] + boxes[:, 3]) / 2
    upper, lower = boxes.clone(), boxes.clone()
    upper[:, 3] = middle
    lower[:, 1] = middle
    return torch.stack([boxes, upper, lower], dim=1)


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("place", [lambda boxes: boxes, shifted], ids=["shared", "class"])
def test_many_views_are_as_good_as_one(
    n: int, flip: bool, place: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    image, boxes, scores = sample(n)
    many = settings(short_sides=(48, 32, 77), flip=flip)
    expected = select_detections(place(torch.from_numpy(boxes)).numpy(), scores, SELECTION)
    network = FakeNetwork(scores, place)
    assert_same(detect(network, image, boxes, many), expected)
    assert len(network.items) == (6 if flip else 3)
    assert (len(expected) > 0) == (n > 0)
    one = settings(short_sides=(HEIGHT,), flip=False)
    assert_same(detect(FakeNetwork(scores, place), image, boxes, one), expected)


def test_fourteen_views_by_default() -> None:
    image, boxes, scores = sample(2)
    network = FakeNetwork(scores)
    detect(network, image, boxes, settings())
    assert len(network.items) == 14
    heights = [int(item.input.shape[1]) for item in network.items[::2]]
    assert heights == [800, 480, 576, 688, 864, 1000, 1200]


@dataclass
class OneAnswerAView:
    """Answers the k-th view with the k-th scores and with boxes wider by the k-th margin, in pixels of the view."""

    scores: list[NDArray[np.float32]]
    margins: list[float]
    calls: int = 0

    def __call__(self, items: list[Sample]) -> list[Answer]:
        boxes = items[0].regions.boxes.clone()
        boxes[:, 2] += self.margins[self.calls]
        boxes[:, 0] -= self.margins[self.calls]
        answer = Answer(torch.from_numpy(self.scores[self.calls]), boxes[:, None])
        self.calls += 1
        return [answer]


def test_scores_and_boxes_are_means_over_the_views() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = np.asarray([[20, 10, 30, 30]], np.float32)
    scores = [np.asarray([[value]], np.float32) for value in (0.1, 0.2, 0.6, 0.9)]
    network = OneAnswerAView(scores, [4, 8, 2, 6])
    # 80 pixels are twice the image: the margins are 2, 4, 2 and 6 pixels of the image.
    found = detect(network, image, boxes, settings(short_sides=(80, 40), flip=True))
    np.testing.assert_allclose(found.scores, [0.45], atol=1e-6)
    np.testing.assert_allclose(found.boxes, [[16.5, 10, 33.5, 30]], atol=1e-4)


def test_boxes_are_cut_to_the_image_before_the_mean() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = np.asarray([[0, 10, 30, 30]], np.float32)
    network = OneAnswerAView([np.ones((1, 1), np.float32)] * 2, [100, 0])
    found = detect(network, image, boxes, settings(short_sides=(40,), flip=True))
    np.testing.assert_allclose(found.boxes, [[0, 10, 45, 30]], atol=1e-4)


def test_boxes_that_leave_the_image_are_no_detections() -> None:
    image, boxes, scores = sample(6, classes=1)
    outside = FakeNetwork(scores, lambda found: found + 10_000)
    assert len(detect(outside, image, boxes, settings(short_sides=(40,)))) == 0
    turned = FakeNetwork(scores, lambda found: found[:, [2, 1, 0, 3]])
    assert len(detect(turned, image, boxes, settings(short_sides=(40,)))) == 0


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_nothing_above_the_threshold(n: int) -> None:
    image, boxes, scores = sample(n)
    strict = settings(InferenceSettings(score_threshold=1.0), short_sides=(32,))
    assert len(detect(FakeNetwork(scores), image, boxes, strict)) == 0
    silent = FakeNetwork(np.zeros_like(scores))
    assert len(detect(silent, image, boxes, settings(short_sides=(32,)))) == 0


def test_selection_follows_the_recipe() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = np.asarray([[0, 0, 20, 20], [0, 0, 20, 12], [30, 0, 50, 20]], np.float32)  # IoU 0.6
    scores = np.asarray([[0.9], [0.8], [0.7]], np.float32)

    def found(**changes: Any) -> Any:
        own = settings(InferenceSettings(**changes), short_sides=(40,), flip=False)
        return pytest.approx(detect(FakeNetwork(scores), image, boxes, own).scores)

    assert found() == [0.9, 0.7]
    assert found(nms=0.7) == [0.9, 0.8, 0.7]
    assert found(nms=0.7, detections=2) == [0.9, 0.8]
    assert found(nms=0.7, score_threshold=0.75) == [0.9, 0.8]


def test_a_network_that_answers_nan_is_not_silent() -> None:
    image, boxes, scores = sample(2)
    network = FakeNetwork(np.full_like(scores, np.nan))
    with pytest.raises(ValueError, match="finite"):
        detect(network, image, boxes, settings(short_sides=(32,)))
