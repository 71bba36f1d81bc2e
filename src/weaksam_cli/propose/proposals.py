"""Proposals of one image: class-agnostic boxes that remember which prompt and which mask they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray, as_boxes
from weaksam_cli.core.types import PromptedMasks

Source = Literal["grid", "coarse", "fine", "cross", "search", "import"]
CLUE_SOURCES: Final[tuple[Source, ...]] = ("coarse", "fine", "cross")
"""Sources whose prompts are classification clues, in the order of concatenation (spec 03 §5)."""
SOURCES: Final[tuple[Source, ...]] = ("grid", *CLUE_SOURCES, "search", "import")
"""The table that `Proposals.source` indexes: prompted boxes, those of Selective Search, those of a foreign file."""

MASK_TOKENS: Final = 3
"""Masks that a segmenter answers to one prompt: part, object, whole."""


@dataclass(frozen=True)
class Proposals:
    """Proposals of one image.

    Attributes:
        boxes: float32 (n, 4), xyxy pixel edges.
        source: int8 (n,), index into `SOURCES`.
        prompt: int32 (n,), index of the prompt within its source; clue sources count single points first, then the
            class-wise groups.
        mask_token: int8 (n,), which of the prompt's three masks, 0 to 2.
        predicted_iou: float32 (n,), the segmenter's own estimate of mask quality; NaN where there is none.
        stability: float32 (n,), in [0, 1]; NaN where nobody measured it.
        counts: n compressed RLE strings, or None when masks were not asked for.

    Raises:
        ValueError: for arrays of unequal length or values outside their tables.
    """

    boxes: FloatArray
    source: NDArray[np.int8]
    prompt: NDArray[np.int32]
    mask_token: NDArray[np.int8]
    predicted_iou: NDArray[np.float32]
    stability: NDArray[np.float32]
    counts: list[bytes] | None = None

    def __post_init__(self) -> None:
        as_boxes(self.boxes, name="proposals.boxes")
        n = len(self.boxes)
        for name in ("source", "prompt", "mask_token", "predicted_iou", "stability"):
            column = getattr(self, name)
            if column.shape != (n,):
                raise ValueError(f"proposals.{name}: expected shape ({n},), met {column.shape}")
        if self.counts is not None and len(self.counts) != n:
            raise ValueError(f"proposals.counts: expected {n} masks, met {len(self.counts)}")
        _expect_range(self.source, len(SOURCES), "source")
        _expect_range(self.mask_token, MASK_TOKENS, "mask_token")
        if (self.prompt < 0).any():
            raise ValueError("proposals.prompt: expected indexes from 0, got a negative one")

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, index: NDArray[np.generic]) -> Proposals:
        """The proposals at `index` (integers or a mask), in that order."""
        positions = np.arange(len(self))[index]
        return Proposals(
            self.boxes[positions],
            self.source[positions],
            self.prompt[positions],
            self.mask_token[positions],
            self.predicted_iou[positions],
            self.stability[positions],
            None if self.counts is None else [self.counts[position] for position in positions],
        )

    @classmethod
    def empty(cls, *, masks: bool = False) -> Proposals:
        """No proposal at all."""
        none = np.zeros(0, np.float32)
        return cls(
            as_boxes([]),
            np.zeros(0, np.int8),
            np.zeros(0, np.int32),
            np.zeros(0, np.int8),
            none,
            none,
            [] if masks else None,
        )

    @classmethod
    def from_boxes(
        cls, boxes: FloatArray, source: Source, predicted_iou: NDArray[np.float32] | None = None
    ) -> Proposals:
        """Boxes that no prompt asked for: each counts as a prompt of its own, and what nobody estimated is NaN.

        Args:
            boxes: float32 (n, 4), xyxy pixel edges, in the order of their maker.
            source: who made them.
            predicted_iou: float32 (n,), where the maker gave estimates.
        """
        n = len(boxes)
        unknown = np.full(n, np.nan, np.float32)
        return cls(
            boxes,
            np.full(n, SOURCES.index(source), np.int8),
            np.arange(n, dtype=np.int32),
            np.zeros(n, np.int8),
            unknown if predicted_iou is None else predicted_iou,
            unknown,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Proposals]) -> Proposals:
        """All proposals of `parts`, in order.

        The published code doubles the first source that is not empty when the grid gave nothing (spec 03 §5); here
        every proposal appears once.

        Raises:
            ValueError: when some parts have masks and others do not.
        """
        if not parts:
            return cls.empty()
        with_masks = {part.counts is not None for part in parts}
        if len(with_masks) > 1:
            raise ValueError("proposals.counts: some parts have masks and others do not")
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.source for part in parts]),
            np.concatenate([part.prompt for part in parts]),
            np.concatenate([part.mask_token for part in parts]),
            np.concatenate([part.predicted_iou for part in parts]),
            np.concatenate([part.stability for part in parts]),
            [item for part in parts for item in part.counts or ()] if with_masks == {True} else None,
        )

    @classmethod
    def from_prompted(
        cls, prompted: PromptedMasks, source: Source, *, first_mask: bool = True, first_prompt: int = 0
    ) -> Proposals:
        """The masks of n prompts, prompt-major and mask-minor, without the empty ones.

        Args:
            prompted: three masks a prompt.
            source: where the prompts come from.
            first_mask: keep the first mask of each prompt, too, which tends to be a part.
            first_prompt: index of the first of the prompts within the source.
        """
        tokens = np.arange(0 if first_mask else 1, MASK_TOKENS)
        rows = np.repeat(np.arange(len(prompted)), len(tokens))
        columns = np.tile(tokens, len(prompted))
        filled = prompted.area[rows, columns] > 0
        rows, columns = rows[filled], columns[filled]
        return cls(
            prompted.boxes[rows, columns],
            np.full(len(rows), SOURCES.index(source), np.int8),
            (rows + first_prompt).astype(np.int32),
            columns.astype(np.int8),
            prompted.predicted_iou[rows, columns],
            prompted.stability[rows, columns],
            None
            if prompted.counts is None
            else [prompted.counts[row][column] for row, column in zip(rows, columns, strict=True)],
        )


def _expect_range(column: NDArray[np.int8], size: int, name: str) -> None:
    if ((column < 0) | (column >= size)).any():
        raise ValueError(
            f"proposals.{name}: expected 0 to {size - 1}, met {int(column.min())} to {int(column.max())}"
        )
