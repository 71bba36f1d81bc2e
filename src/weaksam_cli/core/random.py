"""Random numbers that belong to a name: of an image, of a step, of whatever has to draw the same anywhere."""

from __future__ import annotations

import hashlib

import numpy as np


def generator_of(seed: int, *words: str) -> np.random.Generator:
    """A generator that the seed and all of the words decide, on every machine and in whatever order work is done.

    The words are hashed whole (SHA-256), so two keys that end or begin alike draw differently.

    Args:
        seed: of the run, 0 or more.
        words: at least one, such as the key of an image and what is drawn for it; no word holds a NUL.

    Raises:
        ValueError: no word was given.
    """
    if not words:
        raise ValueError("words: expected at least one, got none")
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, "<u4").tolist()])
