"""From an image and its proposals to detections, averaged over views (spec 04 §A.6, §B.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from weaksam_cli.detectron.compat import import_detectron2

import_detectron2()

from detectron2.structures import Boxes, Instances  # noqa: E402

from weaksam_cli.core.boxes import FloatArray  # noqa: E402
from weaksam_cli.core.types import Detections  # noqa: E402
from weaksam_cli.wsod.detect import select_detections  # noqa: E402
from weaksam_cli.wsod.end_to_end.recipe import MistRecipe, OicrRecipe  # noqa: E402
from weaksam_cli.wsod.end_to_end.views import View, boxes_to_image, test_views  # noqa: E402


class Answer(Protocol):
    """What a detector says of the R proposals of a view.

    Attributes:
        scores: float (R, C).
        boxes: float (R, C, 4), or (R, 4) for all classes; xyxy pixel edges of the view.
    """

    @property
    def scores(self) -> torch.Tensor: ...  # noqa: D102

    @property
    def boxes(self) -> torch.Tensor: ...  # noqa: D102


Network = Callable[[list[dict[str, Any]]], Sequence[Answer]]
"""A detector in evaluation mode: an answer for each item of `view_item`."""


def view_item(view: View) -> dict[str, Any]:
    """A view as a detectron2 model takes it: `image` float32 (3, h, w) and `proposals` with `proposal_boxes`."""
    proposals = Instances(view.size)
    proposals.proposal_boxes = Boxes(torch.from_numpy(view.boxes))
    return {"image": torch.from_numpy(view.pixels), "proposals": proposals}


def detect(
    network: Network, image: NDArray[np.uint8], boxes: FloatArray, recipe: MistRecipe | OicrRecipe
) -> Detections:
    """Detections of one image, class by class and by decreasing score within a class.

    Args:
        network: takes its inputs to its own device.
        image: uint8 RGB (H, W, 3).
        boxes: float32 (R, 4), the proposals, xyxy pixel edges.
        recipe: views and selection.
    """
    if not len(boxes):
        return Detections.empty()
    inference = recipe.inference
    places, scores = _average(network, image, boxes, recipe)
    return select_detections(
        places,
        scores,
        score_threshold=inference.score_threshold,
        nms_threshold=inference.nms,
        most=inference.detections,
    )


def _average(
    network: Network, image: NDArray[np.uint8], boxes: FloatArray, recipe: MistRecipe | OicrRecipe
) -> tuple[FloatArray, NDArray[np.float32]]:
    """Means over the views: boxes (R, 4) or (R, C, 4) of the image, and scores (R, C)."""
    height, width = image.shape[:2]
    box_sum = score_sum = np.zeros((), np.float32)
    count = 0
    for view, answer in _answers(network, test_views(image, boxes, recipe.inference, recipe.pixels)):
        box_sum = box_sum + boxes_to_image(_to_array(answer.boxes), view, height, width)
        score_sum = score_sum + _to_array(answer.scores)
        count += 1
    return box_sum / np.float32(count), score_sum / np.float32(count)


def _answers(network: Network, views: Iterator[View]) -> Iterator[tuple[View, Answer]]:
    """Each view with the answer to it."""
    view = next(views, None)
    while view is not None:
        with torch.inference_mode():
            answer = network([view_item(view)])[0]
        # A GPU is still at work now: the next view is made before anything waits for the answer.
        following = next(views, None)
        yield view, answer
        view = following


def _to_array(values: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array
