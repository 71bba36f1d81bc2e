"""Pseudo ground truth from the detections on the training pictures: adaptive and top-k selection."""
