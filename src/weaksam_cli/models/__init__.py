"""Backbones that more than one stage uses."""
