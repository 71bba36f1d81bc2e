"""Evaluation protocols; the only package, with `report`, that reads ground-truth boxes."""
