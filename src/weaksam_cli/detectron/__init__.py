"""Glue around detectron2 that `wsod` and `retrain` share: compatibility, training loop, checkpoints, backbone."""
