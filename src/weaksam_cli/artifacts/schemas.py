"""Goes with the last stage that is not a method yet."""

from __future__ import annotations

from weaksam_cli.core.types import Detections


def detections_to_rows(detections: Detections) -> Detections:
    """As they are: `engine.detecting` writes them."""
    return detections
