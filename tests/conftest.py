"""Fixtures that all tests share."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.tiny import run_all, run_stage, write_voc

# As workers and trainings run. On a busy machine several threads wait for each other: SAM's tests took five times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ORACLES = Path(__file__).parent / "oracles"


@pytest.fixture(scope="session")
def oracle() -> Any:
    """A function that loads one file of inputs and outputs of the published implementation by name."""

    def load(name: str) -> Any:
        return json.loads((ORACLES / f"{name}.json").read_text(encoding="utf-8"))

    return load


def _photographs(name: str) -> Path:
    """A folder of real photographs, or a skip: in `WEAKSAM_TEST_DATA` or `../shared/data`."""
    root = Path(os.environ.get("WEAKSAM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / name).is_dir():
        pytest.skip(f"real photographs are not at hand: set WEAKSAM_TEST_DATA to a folder with {name}")
    return root / name


@pytest.fixture(scope="session")
def voc07_mini() -> Path:
    """600 + 300 photographs with boxes."""
    return _photographs("voc07-mini")


@pytest.fixture(scope="session")
def voc12_inst_mini() -> Path:
    """70 + 30 photographs with masks."""
    return _photographs("voc12-inst-mini")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A working folder with a finished run over a tiny VOC dataset; it is looked at, and never changed.

    It is made once: by the worker of pytest-xdist that needs it first, for the others to copy.
    """
    base, folder = tmp_path_factory.getbasetemp(), tmp_path_factory.mktemp("finished") / "work"
    made = (base.parent if hasattr(request.config, "workerinput") else base) / "made"
    made.mkdir(exist_ok=True)
    with (made / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / "done").exists():
            shutil.rmtree(made / "work", ignore_errors=True)
            write_voc(made / "work" / "voc", trainval=9, test=3)
            run_all(made / "work", made / "work" / "voc")
            run_stage(made / "work", "eval")
            (made / "done").touch()
    return shutil.copytree(made / "work", folder)


HEAVY = ("fuzz", "kill", "docs", "cli", "wsod", "eval", "cam", "retrain")
"""Whole runs of the program. They come first, so that short files fill what is left when one worker is done."""


def pytest_configure(config: pytest.Config) -> None:
    """`--dist loadfile` takes the files in our order, not those with many tests first, which are the quick ones."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(HEAVY)}
    items.sort(key=lambda item: min(ranks.get(folder, len(ranks)) for folder in item.path.parents))


# Shared machines stall now and then; a test that hangs is ended by its own timeout.
settings.register_profile("weaksam", deadline=None)
settings.load_profile("weaksam")
