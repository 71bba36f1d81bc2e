"""The local executor: makes the shards of a plan, in this process or in several.

A worker process that dies (out of memory, killed) leaves its shard to the others; without others, to the next run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import MutableSequence, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.shards import ShardPlan
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.devices import gpus_for, torch_device, use_gpu, worker_gpus
from weaksam_cli.engine.executors.task import Task
from weaksam_cli.engine.executors.worker import ShardMaker, portable
from weaksam_cli.engine.predictors import ImageRunner, Predictor, make_shard, one_thread
from weaksam_cli.engine.queue import ShardQueue
from weaksam_cli.errors import UserError

_PROGRESS_SECONDS = 1.0
_IMAGES, _FAILED, _PROCESS, _STOP = range(4)
"""What a worker process shares with this one: images done, failed ones, its process id; and that it is to stop."""


class Options(RecipeModel):
    """None: `--workers` says how many processes there are."""


@dataclass(frozen=True)
class LocalExecutor:
    """Processes of this machine; a process for each of its GPUs, where the work's model lives on one."""

    def device(self, asked: str) -> str:
        """See `Executor`; `auto` is `cuda` where this machine has one."""
        return torch_device(asked)

    def run(self, task: Task) -> int:
        """See `Executor`."""
        return run_shards(task, worker_gpus(task.device, task.workers, gpus_for(task.device)))


def executor(options: Options, workers: int) -> LocalExecutor:
    """The executor; how many processes it starts is what the task says."""
    return LocalExecutor()


def run_shards(task: Task, gpus: Sequence[str | None]) -> int:
    """Make every shard that is still missing, leaving out those that other commands make meanwhile.

    Args:
        task: what is to be done.
        gpus: a worker process for each entry, which sees that GPU alone (None: what this process sees); a single worker
            is this process.

    Returns:
        The number of images that were computed here.

    Raises:
        UserError: a fault that stops the stage, or worker processes that died.
        ShardLostError: another command has merged the shards meanwhile.
    """
    queue = ShardQueue(task.plan, task.part, lambda images: task.on_images(images, 0))
    processes = min(len(gpus), len(queue))
    if not processes:
        return 0
    if processes == 1:
        return _run_here(task, queue)
    with _Workers(task, queue, gpus[:processes]) as workers:
        return workers.run()


def _run_here(task: Task, queue: ShardQueue) -> int:
    images = 0
    with ImageRunner(task.predictor.open()) as runner, one_thread():
        while (index := queue.take()) is not None:
            collided = make_shard(
                task.ops,
                task.plan,
                index,
                runner,
                following=lambda: None if (after := queue.peek()) is None else task.plan.images(after)[0],
                on_image=lambda failed: task.on_images(1, int(failed)),
            )
            images += len(task.plan.images(index))
            if collided:
                queue.jump()
    return images


@dataclass(eq=False)
class _Worker:
    """A process pool of one: when it breaks, we know whose shard is lost."""

    pool: ProcessPoolExecutor
    counts: MutableSequence[int]
    index: int | None = None
    """The shard that it makes; None while it waits."""
    future: Future[bool] | None = None
    shown: tuple[int, int] = (0, 0)
    """Images and failed ones that were told so far."""
    finished: int = 0
    """Images of its finished shards."""


@dataclass
class _Workers:
    """Worker processes, and the shards that each of them makes."""

    task: Task
    queue: ShardQueue
    gpus: Sequence[str | None]
    workers: list[_Worker] = field(default_factory=list)
    suspects: set[int] = field(default_factory=set)

    def __enter__(self) -> _Workers:
        context = multiprocessing.get_context("spawn")
        for gpu in self.gpus:
            counts: MutableSequence[int] = context.RawArray("q", 4)
            arguments = (os.getpid(), gpu, self.task.ops, self.task.plan, self.task.predictor, counts)
            pool = ProcessPoolExecutor(1, context, _begin, arguments)
            self.workers.append(_Worker(pool, counts))
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for worker in self.workers:
            worker.counts[_STOP] = kind is not None
            if kind is not None and worker.counts[_PROCESS]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.counts[_PROCESS], signal.SIGTERM)
            worker.pool.shutdown(cancel_futures=True)

    def run(self) -> int:
        """Let the workers work until nothing is left; returns the number of images."""
        images = 0
        for worker in self.workers:
            self._give(worker)
        while busy := {worker.future: worker for worker in self.workers if worker.future is not None}:
            done, _ = wait(busy, timeout=_PROGRESS_SECONDS, return_when=FIRST_COMPLETED)
            for worker in busy.values():
                self._show(worker)
            for future in done:
                images += self._finish(busy[future], future)
        return images

    def _give(self, worker: _Worker) -> None:
        worker.index = self.queue.take()
        worker.future = None if worker.index is None else worker.pool.submit(_make, worker.index)

    def _show(self, worker: _Worker) -> None:
        counted = worker.counts[_IMAGES], worker.counts[_FAILED]
        if counted != worker.shown:
            self.task.on_images(counted[0] - worker.shown[0], counted[1] - worker.shown[1])
            worker.shown = counted

    def _finish(self, worker: _Worker, future: Future[bool]) -> int:
        try:
            collided = future.result()
        except BrokenProcessPool:
            self._lose(worker)
            return 0
        images = len(self.task.plan.images(worker.index or 0))
        worker.finished += images
        if collided:
            self.queue.jump()
        self._give(worker)
        return images

    def _lose(self, worker: _Worker) -> None:
        """A worker died: its shard goes to the others, unless it has killed one before or there are no others."""
        index = worker.index or 0
        self.workers.remove(worker)
        worker.pool.shutdown()
        self.task.on_images(worker.finished - worker.shown[0], 0)
        what = "a worker process died, most likely for lack of memory"
        if index in self.suspects or not self.workers:
            raise UserError(
                what,
                where=f"{self.task.plan.target}, images {' '.join(self.task.plan.images(index)[:2])} ...",
                remedy="Finished shards are kept: run the same command again, with fewer --workers",
            )
        self.suspects.add(index)
        self.queue.put_back(index)
        self.task.warn(f"{what}; its shard goes to the {len(self.workers)} left")
        for other in [other for other in self.workers if other.future is None]:
            self._give(other)


# ------------------------------------------------------------------------------------------ inside a worker process


@dataclass
class _Inside:
    """What a worker process keeps from one shard to the next."""

    maker: ShardMaker
    counts: MutableSequence[int]

    def make(self, index: int) -> bool:
        """Make one shard; see `make_shard`."""
        if self.counts[_STOP]:  # told before this process had begun, when it could not be ended yet
            return False
        return self.maker.make(index, self._count)

    def _count(self, failed: bool) -> None:
        self.counts[_IMAGES] += 1
        self.counts[_FAILED] += failed


_INSIDE: list[_Inside] = []
"""A process pool leaves a worker no place but its module to keep anything in; empty in every other process."""


def _begin(
    parent: int,
    gpu: str | None,
    ops: FileOps,
    plan: ShardPlan,
    predictor: Predictor,
    counts: MutableSequence[int],
) -> None:
    # Ctrl-C reaches every process of the terminal; the parent ends this one when it has said so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()
    use_gpu(gpu)
    counts[_PROCESS] = os.getpid()
    _INSIDE.append(_Inside(ShardMaker(ops, plan, predictor), counts))


def _make(index: int) -> bool:
    try:
        return _INSIDE[0].make(index)
    except Exception as error:
        raise portable(error) from None


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
