"""As in a real run, torch computes with one thread; on a busy machine threads that wait for each other take far longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from weaksam_cli.engine.predictors import one_thread


@pytest.fixture(autouse=True, scope="package")
def single_thread() -> Iterator[None]:
    with one_thread():
        yield
