"""The proposals of one split as the evaluation reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.eval.recall_curve import best_first


@dataclass(frozen=True)
class ProposalSet:
    """Proposals by image; the three mappings have the same keys, and an image's arrays the same length.

    Attributes:
        boxes: float32 (n, 4), xyxy pixel edges.
        source: int8 (n,), index into `source_names`.
        predicted_iou: float32 (n,), the segmenter's own estimate; NaN where it gives none.
        source_names: names of the sources. A box that several sources found belongs to the one it was kept for.
    """

    boxes: dict[str, FloatArray]
    source: dict[str, NDArray[np.int8]]
    predicted_iou: dict[str, NDArray[np.float32]]
    source_names: Sequence[str]

    def best_first(self) -> dict[str, FloatArray]:
        """All boxes, the best first (see `recall_curve.best_first`)."""
        return {key: best_first(boxes, self.predicted_iou[key]) for key, boxes in self.boxes.items()}

    def by_source(self) -> dict[str, dict[str, FloatArray]]:
        """Source -> image -> boxes, for every source that occurs, in the order of `source_names`."""
        return {
            name: {key: boxes[self.source[key] == index] for key, boxes in self.boxes.items()}
            for index, name in enumerate(self.source_names)
            if any((rows == index).any() for rows in self.source.values())
        }


def read_proposals(path: Path) -> ProposalSet:
    """The proposals in an artifact.

    Raises:
        UserError: see `open_artifact`.
    """
    with open_artifact(path, PROPOSALS) as artifact:
        return ProposalSet(
            {key: artifact.rows(key, "boxes").astype(np.float32) for key in artifact},
            {key: artifact.rows(key, "source").astype(np.int8) for key in artifact},
            {key: artifact.rows(key, "predicted_iou").astype(np.float32) for key in artifact},
            artifact.table("source_names"),
        )
