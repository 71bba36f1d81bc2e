"""Make the shards of a plan, in this process or in several: one for each seat.

A worker process that dies (out of memory, killed) leaves its shard to the others; without others, to the next run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.shards import ShardPlan
from weaksam_cli.console import Console
from weaksam_cli.engine.agenda import Agenda, Share
from weaksam_cli.engine.devices import Seat
from weaksam_cli.engine.execution import ImageRunner, Predictor, limit_threads, make_shard
from weaksam_cli.errors import UserError

_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Watch:
    """Who is told what happens.

    Attributes:
        on_images: called with (images done, images failed), as they are done; a worker that died takes its images back.
        warn: called with something that the user should know.
    """

    on_images: Callable[[int, int], None]
    warn: Callable[[str], None]


def show_shards(
    console: Console,
    title: str,
    ops: FileOps,
    plan: ShardPlan,
    predictor: Predictor,
    seats: Sequence[Seat],
    share: Share | None,
) -> int:
    """`run_shards` with its progress shown; says how much was done before."""
    found = plan.done_indexes()
    shards = [index for index in range(len(plan)) if share is None or share.owns(index)]
    total = sum(len(plan.images(index)) for index in shards)
    done = sum(len(plan.images(index)) for index in shards if index in found)
    if done and done < total:
        console.info(f"  resuming: {done} of {total} images are done", resumed=done)
    with console.progress(title, total, done=done) as progress:
        failures = 0

        def on_images(images: int, failed: int) -> None:
            nonlocal failures
            failures += failed
            progress.advance(images, f"{failures} failed" if failures else "")

        watch = Watch(on_images, console.warn)
        return run_shards(ops, plan, predictor, seats=seats, share=share, watch=watch)


def run_shards(
    ops: FileOps,
    plan: ShardPlan,
    predictor: Predictor,
    *,
    seats: Sequence[Seat],
    share: Share | None,
    watch: Watch,
) -> int:
    """Make every shard that is still missing, leaving out those that other commands make meanwhile.

    Args:
        ops: the seam for writing.
        plan: which shards there are.
        predictor: what computes an image.
        seats: a process each; a single one works in this process.
        share: the part of the shards that is to be made here; None for all.
        watch: who is told about progress.

    Returns:
        The number of images that were computed here.

    Raises:
        UserError: a fault that stops the stage, or worker processes that died.
        ShardLostError: another command has merged the shards meanwhile.
    """
    agenda = Agenda(plan, share, lambda images: watch.on_images(images, 0))
    processes = min(len(seats), len(agenda))
    if not processes:
        return 0
    if processes == 1:
        return _run_here(ops, plan, predictor, agenda, watch)
    with _Pool(ops, plan, predictor, agenda, watch) as pool:
        return pool.run(seats[:processes])


def _first_image(plan: ShardPlan, index: int | None) -> str | None:
    return None if index is None else plan.images(index)[0]


def _run_here(ops: FileOps, plan: ShardPlan, predictor: Predictor, agenda: Agenda, watch: Watch) -> int:
    images = 0
    with ImageRunner(predictor.open()) as runner:
        limit_threads()
        while (index := agenda.take()) is not None:
            collided = make_shard(
                ops,
                plan,
                index,
                runner,
                following=lambda: _first_image(plan, agenda.peek()),
                on_image=lambda failed: watch.on_images(1, int(failed)),
            )
            images += len(plan.images(index))
            if collided:
                agenda.jump()
    return images


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection[Any, Any]
    index: int | None = None
    """The shard that it makes; None while it waits."""
    hint: int | None = None
    """The shard that it will most likely make next: it loads the first image of that one ahead."""
    images: int = 0
    """Images of the shard that are done."""


class _Pool:
    """Worker processes, and the shards that each of them makes."""

    def __init__(
        self, ops: FileOps, plan: ShardPlan, predictor: Predictor, agenda: Agenda, watch: Watch
    ) -> None:
        self._ops, self._plan, self._predictor, self._agenda, self._watch = (
            ops,
            plan,
            predictor,
            agenda,
            watch,
        )
        self._workers: list[_Worker] = []
        self._suspects: set[int] = set()
        self._images = 0

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for worker in self._workers:
            if kind is None:
                with contextlib.suppress(OSError):
                    worker.connection.send(None)
            else:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_GRACE_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
            worker.connection.close()

    def run(self, seats: Sequence[Seat]) -> int:
        """Start a worker for each seat and let them work until nothing is left; returns the number of images."""
        for seat in seats:
            self._start(seat)
        for worker in list(self._workers):
            self._give(worker)
        while busy := {worker.connection: worker for worker in self._workers if worker.index is not None}:
            for connection in wait(list(busy)):
                self._hear(busy[connection])  # type: ignore[index]
        return self._images

    def _start(self, seat: Seat) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, os.getpid(), self._ops, self._plan, self._predictor, seat)
        process = context.Process(target=_work_through, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours))

    def _give(self, worker: _Worker) -> None:
        hinted = {other.hint for other in self._workers if other is not worker and other.hint is not None}
        worker.index = self._agenda.take(worker.hint, hinted)
        worker.hint = self._agenda.peek(hinted) if worker.index is not None else None
        worker.images = 0
        if worker.index is None:
            return
        try:
            worker.connection.send((worker.index, _first_image(self._plan, worker.hint)))
        except OSError:
            self._lose(worker)

    def _hear(self, worker: _Worker) -> None:
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            self._lose(worker)
            return
        if kind == "error":
            raise value
        if kind == "image":
            worker.images += 1
            self._watch.on_images(1, int(value))
            return
        if value:
            self._agenda.jump()
        self._images += worker.images
        self._give(worker)

    def _lose(self, worker: _Worker) -> None:
        """A worker died: its shard goes to the others, unless it has killed one before or there are no others."""
        index = worker.index
        worker.process.join(_GRACE_SECONDS)
        worker.connection.close()
        self._workers.remove(worker)
        if index is None:
            return
        self._watch.on_images(-worker.images, 0)
        code = worker.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"code {code}"
        if index in self._suspects or not self._workers:
            raise UserError(
                f"a worker process died ({how}), most likely for lack of memory",
                where=f"{self._plan.target}, images {' '.join(self._plan.images(index)[:2])} ...",
                remedy="Finished shards are kept: run the same command again, with fewer --workers",
            )
        self._suspects.add(index)
        self._agenda.put_back(index)
        self._watch.warn(
            f"a worker process died ({how}), most likely for lack of memory; its work goes to the {len(self._workers)} left"
        )
        for other in [other for other in self._workers if other.index is None]:
            self._give(other)


def _work_through(
    connection: Connection[Any, Any],
    parent: int,
    ops: FileOps,
    plan: ShardPlan,
    predictor: Predictor,
    seat: Seat,
) -> None:
    """A worker process: makes the shards that it is told to, until it is told None."""
    # Ctrl-C reaches every process of the terminal; the parent ends this one when it has said so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()
    try:
        seat.take()
        with ImageRunner(predictor.open()) as runner:
            limit_threads()
            while (task := connection.recv()) is not None:
                index, following = task
                collided = make_shard(
                    ops,
                    plan,
                    index,
                    runner,
                    following=partial(_same, following),
                    on_image=lambda failed: connection.send(("image", failed)),
                )
                connection.send(("shard", collided))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        connection.send(("error", _portable(error)))


def _same(image_id: str | None) -> str | None:
    return image_id


def _portable(error: Exception) -> Exception:
    """The error as it can be sent to another process, with the lines where it arose."""
    if not isinstance(error, UserError):
        error.add_note("".join(traceback.format_exception(error)).rstrip())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error of any library; what it says is kept
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
