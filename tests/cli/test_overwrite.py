"""`--overwrite` makes again what differs, is damaged, or lists failed images, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import FAST, run_stage


@pytest.mark.parametrize("stage", [name for name in FAST if name != "eval"])
def test_what_is_fresh_and_whole_stays(finished: Path, stage: str) -> None:
    said = run_stage(finished, stage, "--overwrite")
    assert "fresh, nothing to do" in said
    assert "made again" not in said and "damaged" not in said
