"""The most memory that a piece of work took."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from weaksam_cli.engine import memory
from weaksam_cli.engine.memory import peak_memory

SIZE = 200_000_000
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what Linux tells")


def held(size: int) -> int:
    with peak_memory() as peak:
        assert np.ones(size, np.uint8).all()
    found = peak()
    assert found is not None
    return found


def test_it_is_that_of_the_work_and_not_of_what_was_before() -> None:
    small, large, after = held(1), held(SIZE), held(1)
    assert 0.9 * SIZE < large - small < 1.5 * SIZE
    assert after < small + SIZE / 2


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "none")
    with peak_memory() as peak:
        pass
    assert peak() is None
