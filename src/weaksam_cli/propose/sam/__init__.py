"""Segment Anything over a grid of points and the points of clues, as the published system drives it."""

from __future__ import annotations

from weaksam_cli.propose.sam.method import Recipe, steps

__all__ = ["Recipe", "steps"]
