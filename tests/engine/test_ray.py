"""A real Ray cluster of two nodes on this machine: whatever dies, the bytes are the same, and little is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.elsewhere import SHARD, computed, expect_progress, wait_for, whole

IMAGES = 90
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """One node with a core; `second` is another."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
        patch.setenv("RAY_worker_niceness", "0")  # other processes of this machine would come first
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "2")
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield started
        started.shutdown()


@pytest.fixture(scope="module")
def second(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1)


def start(cluster: Any, folder: Path, seconds: float, deadly: str = "") -> subprocess.Popen[str]:
    """A command that makes the artifact of a folder on the cluster, in a process group of its own.

    Without a cluster it starts one for itself.
    """
    words = ["ray", folder, IMAGES, seconds, deadly]
    words += [0, f"address={cluster.address}"] if cluster else [2]
    command = [sys.executable, "-m", "tests.engine.elsewhere", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def ended(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def test_a_killed_command_that_is_given_again_does_the_rest(
    cluster: Any, second: Any, tmp_path: Path
) -> None:
    expected, folder = whole(tmp_path / "whole", IMAGES), tmp_path / "made"
    folder.mkdir()
    first = start(cluster, folder, seconds=0.05)
    wait_for(folder, 5 * SHARD)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (folder / "a.h5").exists()
    assert "images are done" in ended(start(None, folder, seconds=0.01))
    assert (folder / "a.h5").read_bytes() == expected
    found = computed(folder)
    assert len(found) == IMAGES
    assert found.total() - IMAGES <= 2 * SHARD, "two workers had a shard in progress"


def test_a_worker_and_then_a_node_are_killed(cluster: Any, second: Any, tmp_path: Path) -> None:
    expected, folder = whole(tmp_path / "whole", IMAGES), tmp_path / "made"
    folder.mkdir()
    process = start(cluster, folder, seconds=0.15, deadly="i21")
    wait_for(folder, processes=3)
    assert (folder / "killed").exists()
    cluster.remove_node(second, allow_graceful=False)
    said = ended(process)
    assert said.count("a worker died, or its machine; its shard is made anew") == 2, said
    assert "2 failed" in said
    expect_progress(said, IMAGES)
    assert (folder / "a.h5").read_bytes() == expected
    found = computed(folder)
    assert len(found) == IMAGES
    assert found.total() - IMAGES <= 2 * SHARD
