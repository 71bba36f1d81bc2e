from __future__ import annotations

import numpy as np
import pytest

from weaksam_cli.core.random import generator_of


def first_draws(seed: int, *words: str) -> list[int]:
    return generator_of(seed, *words).integers(0, 1 << 30, 4).tolist()


def test_keys_that_end_alike_draw_differently() -> None:
    """Photographs are called .jpg: a seed made of the last bytes of a name was the same for all of them."""
    keys = ["2008_000021.jpg", "2008_000022.jpg", "a/2008_000021.jpg", "x0000001.jpg", "y0000001.jpg"]
    assert len({tuple(first_draws(0, key)) for key in keys}) == len(keys)


def test_seed_and_every_word_decide() -> None:
    drawn = [first_draws(0, "a"), first_draws(1, "a"), first_draws(0, "a", "b"), first_draws(0, "ab")]
    assert len({tuple(item) for item in drawn}) == 4
    assert first_draws(7, "a", "b") == first_draws(7, "a", "b")


def test_the_numbers_are_the_same_on_every_machine() -> None:
    np.testing.assert_allclose(generator_of(0, "000005").random(2), [0.3372531754279716, 0.7601546793160876])


def test_no_word_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        generator_of(0)
