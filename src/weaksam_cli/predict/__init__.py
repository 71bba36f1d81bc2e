"""Trained detectors of a run on new images."""
