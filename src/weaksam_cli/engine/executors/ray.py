"""Ray: an actor for each core or GPU of a cluster makes shards, and writes them to the folder that all machines share.

Neither images nor shards pass through Ray: a worker is told the number of a shard, and answers how many images are done.
What is done is on the disk: a cluster, node, worker or command that dies costs the shards in progress.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.executors.task import Task
from weaksam_cli.engine.executors.worker import ShardMaker, Work, missing_package, portable
from weaksam_cli.engine.predictors import available_cores
from weaksam_cli.engine.queue import ShardQueue
from weaksam_cli.errors import UserError

_WAIT_SECONDS = 1.0
_PATIENCE_SECONDS = 60.0
"""After so long without a worker at work the user is told what is waited for."""
_MOST_LOSSES = 3
"""A shard in whose progress so many workers died has killed them: nodes that are taken away rarely meet one thrice."""
_FOREVER = -1
_ASIDE = "aside"
"""Ray's name for the thread of a worker that answers while another makes a shard."""


class Options(RecipeModel):
    """Settings of the executor.

    Attributes:
        address: of the cluster: `ray://HOST:10001`, `HOST:6379`, or `auto` for one that runs on this machine; None takes
            RAY_ADDRESS, and without it a cluster of this machine is started for the command.
        cpus: cores that each worker is given.
        gpus: GPUs that each worker is given when its network lives on one: with 0.5, two share one.
        memory_gb: memory that is reserved for each worker; None reserves none.
    """

    address: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    cpus: Annotated[float, Field(gt=0, le=1024)] = 1
    gpus: Annotated[float, Field(gt=0, le=64)] = 1
    memory_gb: Annotated[float, Field(gt=0, le=1e5)] | None = None


@dataclass(frozen=True)
class RayExecutor:
    """Workers of a Ray cluster.

    Attributes:
        options: see `Options`.
        workers: most actors; 0 for as many as the cluster has cores or GPUs for.
    """

    options: Options
    workers: int = 0

    def device(self, asked: str) -> str:
        """See `Executor`; `auto` is `cuda` where the cluster has GPUs."""
        if asked.startswith("cuda:"):
            raise UserError(
                f"{asked} names a GPU of one machine, and Ray hands out those of many",
                where="--device",
                remedy="Use --device cuda",
            )
        if asked == "auto":
            return "cuda" if self._connect().cluster_resources().get("GPU", 0) >= self.options.gpus else "cpu"
        return asked

    def run(self, task: Task) -> int:
        """See `Executor`."""
        queue = ShardQueue(task.plan, task.part, lambda images: task.on_images(images, 0))
        if not len(queue):
            return 0
        ray = self._connect()
        resources = self._resources(task.device)
        count = min(self.workers or _places(ray, resources), len(queue))
        with _Actors(ray, task, queue, resources, count) as actors:
            return actors.run()

    def _connect(self) -> ModuleType:
        try:
            import ray
        except ImportError:
            raise missing_package("Ray", "ray") from None
        if ray.is_initialized():
            return ray
        address, quiet = self.options.address or os.environ.get("RAY_ADDRESS"), logging.ERROR
        try:
            with _own_signals():
                if address:
                    ray.init(address, logging_level=quiet, log_to_driver=False)
                else:
                    cores = int(self.workers * self.options.cpus) or available_cores()
                    ray.init(
                        "local",
                        num_cpus=cores,
                        include_dashboard=False,
                        logging_level=quiet,
                        log_to_driver=False,
                    )
        except (ConnectionError, ValueError, TimeoutError, RuntimeError) as error:
            raise UserError(
                f"cannot be reached: {error}",
                where=f"Ray cluster {address or 'of this machine'}",
                remedy="See that it runs (ray status), or leave the address out: then one is started on this machine",
            ) from error
        return ray

    def _resources(self, device: str) -> dict[str, float]:
        memory = self.options.memory_gb
        return {
            "num_cpus": self.options.cpus,
            "num_gpus": 0 if device == "cpu" else self.options.gpus,
            **({"memory": memory * 1e9} if memory else {}),
        }


def executor(options: Options, workers: int) -> RayExecutor:
    """The executor; see `RayExecutor`."""
    return RayExecutor(options, workers)


def _places(ray: ModuleType, resources: dict[str, float]) -> int:
    """How many workers the cluster has room for now; at least one, which may wait for a machine to come."""
    total = ray.cluster_resources()
    kind, asked = ("GPU", "num_gpus") if resources["num_gpus"] else ("CPU", "num_cpus")
    return max(1, int(total.get(kind, 0) / resources[asked]))


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray sets a handler of SIGTERM of its own; how this program ends is its own affair."""
    try:
        before = signal.getsignal(signal.SIGTERM)
        yield
        signal.signal(signal.SIGTERM, before)
    except ValueError as error:  # not in the main thread, where no handler can be set
        if "main thread" not in str(error):
            raise


# ------------------------------------------------------------------------------------------------- in the command


@dataclass(eq=False)
class _Actor:
    """A worker as the command sees it.

    Attributes:
        handle: Ray's.
        index: the shard that it makes; None while it begins or waits.
        answer: to what it was asked last; None while it is asked nothing.
        begin_at: when it is to be asked whether it has begun; None once it has.
        so_far: the answer to how much of its shard is done; None while it is not asked.
        shown: images of its shard that are shown as done, and as failed.
    """

    handle: Any
    index: int | None = None
    answer: Any = None
    begin_at: float | None = 0.0
    so_far: Any = None
    shown: tuple[int, int] = (0, 0)


@dataclass
class _Actors:
    """Actors, and the shards that each of them makes."""

    ray: ModuleType
    task: Task
    queue: ShardQueue
    resources: dict[str, float]
    count: int
    actors: list[_Actor] = field(default_factory=list)
    losses: Counter[int] = field(default_factory=Counter)
    ask_at: float = 0.0

    def __enter__(self) -> _Actors:
        task = self.task
        self.work = self.ray.put(Work(task.ops, task.plan, task.predictor))
        options = self.resources | {"max_restarts": _FOREVER, "max_task_retries": 0}
        kind = self.ray.remote(**options, concurrency_groups={_ASIDE: 1})(RayWorker)
        self.actors = [_Actor(kind.remote()) for _ in range(self.count)]
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for actor in self.actors:
            self.ray.kill(actor.handle)

    def run(self) -> int:
        """Let the actors work until nothing is left; returns the number of images."""
        images, last = 0, time.monotonic()
        while self._busy() or self.queue.peek() is not None:
            now = time.monotonic()
            for actor in self.actors:
                if actor.answer is None and actor.begin_at is not None and actor.begin_at <= now:
                    actor.answer = actor.handle.begin.remote(self.work)
            asked = {actor.answer: actor for actor in self.actors if actor.answer is not None}
            if not asked:
                time.sleep(_WAIT_SECONDS)
                continue
            done, _ = self.ray.wait(list(asked), timeout=_WAIT_SECONDS)
            for answer in done:
                images += self._finish(asked[answer])
            self._show()
            last = time.monotonic() if self._busy() else last
            if time.monotonic() - last > _PATIENCE_SECONDS:
                last = time.monotonic()
                self.task.warn(
                    f"no worker has a place in the Ray cluster yet; each asks for {self._asked_for()}"
                )
        return images

    def _show(self) -> None:
        """Show the images of unfinished shards that are done, as far as the actors have said, and ask them again."""
        asked = {actor.so_far: actor for actor in self.actors if actor.so_far is not None}
        done, _ = self.ray.wait(list(asked), num_returns=len(asked), timeout=0) if asked else ([], [])
        for answer in done:
            actor = asked[answer]
            with suppress(self.ray.exceptions.RayError):  # it has died, as what it makes will say
                index, *counted = self.ray.get(answer)
                if index == actor.index and index is not None:
                    self._count(actor, *counted)
            actor.so_far = None
        if time.monotonic() >= self.ask_at:
            self.ask_at = time.monotonic() + _WAIT_SECONDS
            for actor in [actor for actor in self.actors if actor.index is not None and actor.so_far is None]:
                actor.so_far = actor.handle.so_far.options(concurrency_group=_ASIDE).remote()

    def _count(self, actor: _Actor, images: int, failed: int) -> None:
        self.task.on_images(images - actor.shown[0], failed - actor.shown[1])
        actor.shown = images, failed

    def _busy(self) -> bool:
        return any(actor.index is not None for actor in self.actors)

    def _asked_for(self) -> str:
        given = [f"{value:g} {name.removeprefix('num_')}" for name, value in self.resources.items() if value]
        return " and ".join(given)

    def _finish(self, actor: _Actor) -> int:
        try:
            found: Made | Exception | None = self.ray.get(actor.answer)
        except self.ray.exceptions.RayTaskError as error:  # what was sent cannot be read there
            raise RuntimeError(str(error)) from None
        except self.ray.exceptions.RayError as error:
            self._lose(actor, error)
            return 0
        if isinstance(found, Exception):
            raise found
        if found is None:
            self._again(actor)
            return 0
        if actor.index is not None:
            self._count(actor, found.images, found.failed)
        actor.begin_at = None
        if found.collided:
            self.queue.jump()
        self._give(actor)
        return found.images

    def _give(self, actor: _Actor) -> None:
        actor.index, actor.shown = self.queue.take(), (0, 0)
        actor.answer = None if actor.index is None else actor.handle.make.remote(actor.index)

    def _again(self, actor: _Actor) -> None:
        """It was started anew, and begins anew; others make its shard."""
        if actor.index is not None:
            self.queue.put_back(actor.index)
            self._count(actor, 0, 0)
        actor.index, actor.answer, actor.begin_at = None, None, time.monotonic() + _WAIT_SECONDS
        for idle in [other for other in self.actors if other.answer is None and other.begin_at is None]:
            self._give(idle)

    def _lose(self, actor: _Actor, error: Exception) -> None:
        """A worker died, or its machine: Ray starts it anew where there is room.

        Raises:
            UserError: it cannot begin and there are no others, or its shard has killed others before.
        """
        index, gone = actor.index, isinstance(error, self.ray.exceptions.ActorDiedError)
        if index is not None:
            self.losses[index] += 1
            self.task.warn("a worker died, or its machine; its shard is made anew")
        self._again(actor)
        if index is not None and self.losses[index] == _MOST_LOSSES:
            images = self.task.plan.images(index)
            raise UserError(
                f"{_MOST_LOSSES} workers died of one shard, most likely for lack of memory",
                where=f"{self.task.plan.target}, images {' '.join(images[:2])} ...",
                remedy="Finished shards are kept: run the same command again, with --executor-set memory_gb=N",
            ) from None
        if gone:
            self.actors.remove(actor)
        if not self.actors:
            raise UserError(
                f"no worker can begin: {error}",
                where="Ray",
                remedy="Is weaksam-cli installed on every machine of the cluster, in the same version?",
            ) from None


# --------------------------------------------------------------------------------------------------- in an actor


@dataclass(frozen=True)
class Made:
    """The receipt of a shard, all that travels back; that of no shard says that the worker has begun.

    Attributes:
        images: that it holds, those that failed among them.
        failed: how many failed.
        collided: another process had written it meanwhile.
    """

    images: int = 0
    failed: int = 0
    collided: bool = False


class RayWorker:
    """What an actor is."""

    def __init__(self) -> None:
        self._maker: ShardMaker | None = None
        self._so_far: tuple[int | None, int, int] = None, 0, 0

    def begin(self, work: Work) -> Made | Exception:
        """Learn what is to be done; an error of this machine's is the answer, too."""
        try:
            self._maker = work.begin()
        except UserError as error:
            return error
        return Made()

    def make(self, index: int) -> Made | Exception | None:
        """Make a shard; the error that stopped it is the answer, too. None: it was started anew and has not begun."""
        if self._maker is None:
            return None
        self._so_far = index, 0, 0

        def count(failed: bool) -> None:
            _, images, failures = self._so_far
            self._so_far = index, images + 1, failures + failed

        try:
            collided = self._maker.make(index, count)
        except Exception as error:
            return portable(error)
        return Made(len(self._maker.plan.images(index)), self._so_far[2], collided)

    def so_far(self) -> tuple[int | None, int, int]:
        """The shard that it makes, and how many of its images are done, and failed."""
        return self._so_far
