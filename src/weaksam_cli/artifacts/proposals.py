"""`weaksam/proposals`: class-agnostic boxes that remember which prompt and which mask they come from.

The schema, the value type of one image, and the way between the two: a new field is added here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.artifacts.schema import Column, ImageRows, Schema
from weaksam_cli.core.boxes import FloatArray, as_boxes
from weaksam_cli.core.types import PromptedMasks

PROPOSALS: Final = Schema(
    "weaksam/proposals",
    1,
    columns=(
        Column("boxes", "float32", (4,), inside="box"),
        Column("source", "int8", low=0, table="source_names"),
        Column("prompt", "int32"),
        Column("mask_token", "int8"),
        Column("predicted_iou", "float32", unknown=True),
        Column("stability", "float32", low=0, high=1, unknown=True),
    ),
    image_columns=(Column("image_size", "int32", (2,), low=1),),
    blobs=(Column("masks", "uint8"),),
    tables=("source_names",),
)
"""Class-agnostic boxes, xyxy pixel edges; `masks` holds each one's compressed RLE (COCO's `counts`), empty by default."""

Source = Literal["grid", "coarse", "fine", "cross", "search", "import"]
CLUE_SOURCES: Final[tuple[Source, ...]] = ("coarse", "fine", "cross")
"""Sources whose prompts are classification clues, in the order of concatenation (spec 03 §5)."""
SOURCES: Final[tuple[Source, ...]] = ("grid", *CLUE_SOURCES, "search", "import")
"""The table that `Proposals.source` indexes: prompted boxes, those that nobody prompted, those of a foreign file."""

MASK_TOKENS: Final = 3
"""Masks that a segmenter answers to one prompt: part, object, whole."""


@dataclass(frozen=True)
class Proposals:
    """Proposals of one image; a field for each column of `PROPOSALS`.

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
        as_boxes(self.boxes, name="proposals.boxes", ordered=True)
        n = len(self.boxes)
        for column in PROPOSALS.columns:
            expected, got = (n, *column.shape), getattr(self, column.name).shape
            if got != expected:
                raise ValueError(f"proposals.{column.name}: expected shape {expected}, got {got}")
        if self.counts is not None and len(self.counts) != n:
            raise ValueError(f"proposals.counts: expected {n} masks, got {len(self.counts)}")
        for name, limit in (("source", len(SOURCES)), ("mask_token", MASK_TOKENS), ("prompt", np.inf)):
            values = getattr(self, name)
            if ((values < 0) | (values >= limit)).any():
                got = f"{int(values.min())} to {int(values.max())}"
                raise ValueError(f"proposals.{name}: expected 0 to {limit - 1}, got {got}")

    def __len__(self) -> int:
        return len(self.boxes)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Name -> values, for every column of `PROPOSALS`."""
        return {column.name: getattr(self, column.name) for column in PROPOSALS.columns}

    def take(self, index: NDArray[np.generic]) -> Proposals:
        """The proposals at `index` (integers or a mask), in that order."""
        positions = np.arange(len(self))[index]
        counts = None if self.counts is None else [self.counts[position] for position in positions]
        return Proposals(
            **{name: values[positions] for name, values in self.columns().items()}, counts=counts
        )

    @classmethod
    def from_boxes(
        cls, boxes: FloatArray, source: Source, predicted_iou: NDArray[np.float32] | None = None
    ) -> Proposals:
        """Boxes that no prompt asked for: each counts as a prompt of its own, and what nobody estimated is NaN.

        Args:
            boxes: float32 (n, 4), xyxy pixel edges.
            source: where they come from.
            predicted_iou: float32 (n,), where the source gives estimates.
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
        """All proposals of `parts`, one at least, in order.

        The published code doubles the first source that is not empty when the grid gave nothing (spec 03 §5); here
        every proposal appears once.

        Raises:
            ValueError: when some parts have masks and others do not.
        """
        with_masks = {part.counts is not None for part in parts}
        if len(with_masks) > 1:
            raise ValueError("proposals.counts: some parts have masks and others do not")
        joined = {
            item.name: np.concatenate([getattr(part, item.name) for part in parts])
            for item in PROPOSALS.columns
        }
        counts = [item for part in parts for item in part.counts or ()] if with_masks == {True} else None
        return cls(**joined, counts=counts)

    @classmethod
    def from_prompted(cls, prompted: PromptedMasks, source: Source, *, first_mask: bool = True) -> Proposals:
        """The masks of n prompts, prompt-major and mask-minor, without the empty ones.

        Args:
            prompted: three masks a prompt.
            source: where the prompts come from.
            first_mask: keep the first mask of each prompt, too, which tends to be a part.
        """
        tokens = np.arange(0 if first_mask else 1, MASK_TOKENS)
        rows = np.repeat(np.arange(len(prompted)), len(tokens))
        columns = np.tile(tokens, len(prompted))
        filled = prompted.area[rows, columns] > 0
        rows, columns = rows[filled], columns[filled]
        counts = (
            None
            if prompted.counts is None
            else [prompted.counts[row][column] for row, column in zip(rows, columns, strict=True)]
        )
        return cls(
            prompted.boxes[rows, columns],
            np.full(len(rows), SOURCES.index(source), np.int8),
            rows.astype(np.int32),
            columns.astype(np.int8),
            prompted.predicted_iou[rows, columns],
            prompted.stability[rows, columns],
            counts,
        )


def keep_best(proposals: Proposals, most: int | None) -> Proposals:
    """At most `most` proposals of an image (None for all), in their order: by source, then by score.

    Boxes of classification clues stay before those of the grid, a search or a foreign file, which anybody has: they are
    what WeakSAM adds. Among those of like source the higher predicted IoU stays; without one, the earlier.
    """
    if most is None or len(proposals) <= most:
        return proposals
    is_other = ~np.isin(proposals.source, [SOURCES.index(source) for source in CLUE_SOURCES])
    score = np.where(np.isnan(proposals.predicted_iou), -np.inf, proposals.predicted_iou)
    return proposals.take(np.sort(np.lexsort((-score, is_other))[:most]))


def proposals_to_rows(proposals: Proposals, image_size: tuple[int, int]) -> ImageRows:
    """Proposals of one image of `image_size` (height, width) as rows of `PROPOSALS`."""
    counts = proposals.counts or [b""] * len(proposals)
    return ImageRows(
        columns=proposals.columns(),
        image={"image_size": np.asarray(image_size, np.int32)},
        blobs={"masks": [np.frombuffer(item, np.uint8) for item in counts]},
    )


def read_proposals(artifact: Artifact, image_id: str) -> Proposals:
    """The proposals of one image, without their masks.

    Raises:
        UserError: a value that cannot be, a source that this program does not know, a box that is none or lies outside.
    """
    columns = artifact.all_rows(image_id, PROPOSALS)
    with artifact.refusing(image_id):
        sources = [SOURCES.index(name) for name in artifact.table("source_names")]
        columns["source"] = np.asarray(sources, np.int8)[columns["source"]]
        return Proposals(**columns, counts=None)
