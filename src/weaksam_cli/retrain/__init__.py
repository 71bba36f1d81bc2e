"""Retraining a fully supervised detector on pseudo ground truth, hosted by detectron2."""
