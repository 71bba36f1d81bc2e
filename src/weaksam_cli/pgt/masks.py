"""Pseudo instance labels: the pseudo boxes prompt a segmenter, which answers with a mask each (paper, supplement section 6).

The released code does not do it: which of SAM's masks, which box and what is thrown away are ours (spec 05 section 9).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from weaksam_cli.core.masks import areas, encode, tight_boxes
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections, PromptedMasks
from weaksam_cli.data.detections import RESULTS, read_detections, result_texts
from weaksam_cli.data.labels import Split
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.predictors import Overlapped
from weaksam_cli.engine.sharded import ImageByImage, PerImage
from weaksam_cli.engine.steps import Step
from weaksam_cli.propose.prompting import Segmenter
from weaksam_cli.propose.segmenters import ChosenSegmenter, choose_segmenter


class MaskSettings(RecipeModel):
    """Pseudo masks.

    Attributes:
        enabled: make them.
        segmenter: the recipe of `propose` whose method answers the box prompts; null: the one that made the proposals,
            or that their method names for masks.
        choice: `single` is the segmenter's one mask for a box, SAM's `multimask_output=False`; `best` is that of highest
            predicted IoU among its three.
        box: of an instance: the tight box of its mask, or the pseudo box that prompted.
        min_side: masks whose tight box has a shorter side, in pixels, are dropped, as empty ones are.
    """

    enabled: bool = False
    segmenter: str | None = None
    choice: Literal["single", "best"] = "single"
    box: Literal["mask", "pgt"] = "mask"
    min_side: int = Field(default=2, ge=1, le=1000)


class MaskChoice(RecipeModel):
    """Whether a method's boxes become masks: its recipe inherits from this one.

    Attributes:
        masks: `true` stands for `{enabled: true}`.
    """

    masks: MaskSettings = MaskSettings()

    @field_validator("masks", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return {"enabled": value} if isinstance(value, bool) else value


class PromptSettings(RecipeModel):
    """All that decides the masks of given boxes.

    Attributes:
        choice: see `MaskSettings`.
        segmenter: the recipe of the segmenter, resolved.
    """

    choice: Literal["single", "best"]
    segmenter: dict[str, Any]


def mask_step(masks: MaskSettings, boxes: Path, context: Context, split: str) -> Step:
    """A mask for each box, image by image, as COCO results; some may be empty.

    Args:
        masks: how.
        boxes: COCO results or a COCO-JSON document of the split's images.
        context: what the command was told.
        split: of the dataset.

    Raises:
        UserError: see `choose_segmenter`.
    """
    segmenter = choose_segmenter(masks.segmenter, context, split, where="pgt recipe, masks.segmenter")
    data = context.run.input("data", split)

    def work(context: Context) -> PerImage:
        images, device = context.split(split), context.worker_device()
        predictor = MaskPredictor(images, boxes, segmenter, masks.choice, device)
        return PerImage(RESULTS, images.read().keys, predictor, "masks", device=device)

    return Step(
        path=context.run.folder("pgt") / "masks" / f"{split}.json",
        schema=RESULTS,
        split=split,
        settings=PromptSettings(choice=masks.choice, segmenter=segmenter.settings),
        inputs={"pgt-boxes": boxes, "data": data, **segmenter.inputs},
        run=ImageByImage(work),
        title="pseudo masks",
    )


def with_masks(
    found: Detections, height: int, width: int, settings: MaskSettings
) -> tuple[Detections, list[tuple[int, str]]]:
    """The instances of one image, and of those that are none the class index and the reason.

    Args:
        found: prompted boxes with the segmenter's masks.
        height, width: of the image.
        settings: which box, and how small is too small.
    """
    masks = found.masks or ()
    tight, pixels = tight_boxes(masks, height, width), areas(masks, height, width)
    sides = (tight[:, 2:] - tight[:, :2]).min(axis=1, initial=np.inf)
    good = (pixels > 0) & (sides >= settings.min_side)
    reasons = [
        (
            int(found.class_index[row]),
            "it is empty" if not pixels[row] else f"it is {sides[row]:.0f} pixels wide",
        )
        for row in np.flatnonzero(~good)
    ]
    boxes = tight if settings.box == "mask" else found.boxes
    return replace(found, boxes=boxes).take(good), reasons


@dataclass(frozen=True)
class MaskPredictor:
    """The masks of one image's boxes.

    Attributes:
        images: labels and folder of the images.
        boxes: see `mask_step`.
        segmenter: answers the prompts.
        choice: which mask.
        device: where the segmenter goes.
    """

    images: Split
    boxes: Path
    segmenter: ChosenSegmenter
    choice: Literal["single", "best"]
    device: str

    def open(self) -> Overlapped[NDArray[np.uint8] | None, list[str]]:
        """Load the segmenter and the boxes once a process; an image without boxes is not even read."""
        labels = self.images.read()
        images, texts = labels.by_key(), result_texts(labels)
        found = read_detections(self.boxes, labels)
        segmenter = self.segmenter.open(self.device)

        def load(key: str) -> NDArray[np.uint8] | None:
            return labels.read_image(images[key]) if len(found[key]) else None

        def compute(key: str, image: NDArray[np.uint8] | None) -> list[str]:
            if image is None:
                return []
            return texts(key, prompt(segmenter, image, found[key], self.choice))

        return Overlapped(load, compute)


def prompt(
    segmenter: Segmenter, image: NDArray[np.uint8], found: Detections, choice: Literal["single", "best"]
) -> Detections:
    """The boxes of one image with a mask each; the image, uint8 RGB (H, W, 3), is encoded once."""
    segmenter.set_image(image)
    answer = segmenter.prompt_boxes(found.boxes, masks=True, multimask=choice == "best")
    return replace(found, masks=chosen_masks(answer, image.shape[0], image.shape[1]))


def chosen_masks(answer: PromptedMasks, height: int, width: int) -> tuple[bytes, ...]:
    """Of each prompt's masks that of highest predicted IoU, as compressed RLE; an empty one where there is none."""
    empty = encode(np.zeros((1, height, width), bool))[0]
    best = answer.predicted_iou.argmax(axis=1)
    return tuple(
        masks[column] if pixels[column] else empty
        for masks, column, pixels in zip(answer.counts or (), best, answer.area, strict=True)
    )
