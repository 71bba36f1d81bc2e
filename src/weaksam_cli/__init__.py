"""weaksam: object detectors and instance segmenters from image-level labels (the WeakSAM method)."""

__version__ = "0.1.0"
