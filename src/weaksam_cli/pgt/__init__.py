"""Pseudo ground truth from the detections on the training images: adaptive and top-k selection."""
