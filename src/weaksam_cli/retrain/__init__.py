"""Retraining a fully supervised detector on pseudo ground truth with detectron2."""
