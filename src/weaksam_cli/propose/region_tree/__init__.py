"""The embedded promptable segmenter: nodes of binary partition trees answer prompts as SAM does."""

from __future__ import annotations

from weaksam_cli.propose.region_tree.method import Recipe, steps

__all__ = ["Recipe", "steps"]
