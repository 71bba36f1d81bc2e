"""Run a per-image function over the shards of a plan, in this process or in several.

The bytes do not depend on the number of processes: every image is computed by the same single-threaded code, and shards are
merged in the order of the plan.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.schema import ImageRows, concatenate
from weaksam_cli.artifacts.shards import ShardPlan, write_shard
from weaksam_cli.errors import ImageError, UserError

ImageFunction = Callable[[str], ImageRows]


class Work(Protocol):
    """What a stage does to each image; small, frozen and picklable: it is sent to the worker processes."""

    def open(self) -> ImageFunction:
        """Load models and inputs once a process; the function returned computes one image.

        The function raises `ImageError` for an image that cannot be done; any other exception stops the stage.
        """
        ...


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads() -> None:
    """One thread for the numeric libraries that this process has loaded: results do not depend on the machine."""
    import threadpoolctl

    threadpoolctl.threadpool_limits(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)


def make_shard(ops: FileOps, plan: ShardPlan, index: int, function: ImageFunction) -> int:
    """Compute and write one shard; returns how many of its images failed."""
    done: list[tuple[str, ImageRows]] = []
    failed: list[tuple[str, str]] = []
    for image_id in plan.images(index):
        try:
            done.append((image_id, function(image_id)))
        except ImageError as error:
            failed.append((image_id, error.what))
        except UserError:
            raise
        except Exception as error:
            error.add_note(f"while working on image {image_id!r}")
            raise
    write_shard(ops, plan, index, concatenate(plan.form, done, failed))
    return len(failed)


def run_shards(
    ops: FileOps,
    plan: ShardPlan,
    work: Work,
    *,
    workers: int,
    on_shard: Callable[[int, int], None],
) -> None:
    """Make every shard that is still missing.

    Args:
        ops: the seam for writing.
        plan: which shards there are.
        work: what is done to each image.
        workers: processes; 1 works in this one.
        on_shard: called with (images done, images failed) after each shard.

    Raises:
        UserError: a fault that stops the stage, or a worker process that died (out of memory, killed).
    """
    missing = plan.missing()
    if not missing:
        return
    if workers <= 1 or len(missing) == 1:
        function = work.open()
        limit_threads()
        for index in missing:
            failed = make_shard(ops, plan, index, function)
            on_shard(len(plan.images(index)), failed)
        return
    for index, failed in _in_processes(ops, plan, work, missing, min(workers, len(missing))):
        on_shard(len(plan.images(index)), failed)


def _in_processes(
    ops: FileOps, plan: ShardPlan, work: Work, missing: Iterable[int], workers: int
) -> Iterator[tuple[int, int]]:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(os.getpid(), ops, plan, work)
    )
    pending: dict[Future[int], int] = {}
    try:
        pending = {pool.submit(_work_on, index): index for index in missing}
        while pending:
            ready, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in ready:
                yield pending.pop(future), future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, most likely for lack of memory",
            where=str(plan.target),
            remedy="finished shards are kept: run the same command again, with fewer --workers",
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((pool._processes or {}).values()) if pending else ():
            process.terminate()


_worker: tuple[FileOps, ShardPlan, ImageFunction] | None = None


def _start_worker(parent: int, ops: FileOps, plan: ShardPlan, work: Work) -> None:
    global _worker  # noqa: PLW0603 - a worker process is one plan's from start to end
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()
    _worker = (ops, plan, work.open())
    limit_threads()


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work_on(index: int) -> int:
    if _worker is None:
        raise RuntimeError("the worker process was not started by run_shards")
    ops, plan, function = _worker
    return make_shard(ops, plan, index, function)
