"""CLIP-ES (CVPR 2023, arXiv 2212.09506): class activation maps from a frozen CLIP (spec 01 §c)."""

from weaksam_cli.cam.clip_es.method import Recipe, steps

__all__ = ["Recipe", "steps"]
