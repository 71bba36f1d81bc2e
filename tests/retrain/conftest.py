"""Trainings of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from weaksam_cli.engine.predictors import one_thread


@pytest.fixture(autouse=True, scope="package")
def single_thread() -> Iterator[None]:
    """As in a real training; on a busy machine threads that wait for each other take far longer."""
    with one_thread():
        yield
