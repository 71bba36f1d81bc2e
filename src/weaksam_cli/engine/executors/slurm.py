"""Slurm: an array of jobs makes the missing shards, each its own, in the folder that all machines share.

A job that is preempted, or whose time is over, is put into the queue again and goes on with what is missing of its shards.
The command only waits and looks at the folder: when it is killed, the array goes on, and the same command finds it again.
What jobs leave that died for good is made by another array.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from weaksam_cli.artifacts.shards import ShardLostError
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.devices import gpus_for, worker_gpus
from weaksam_cli.engine.executors.local import run_shards
from weaksam_cli.engine.executors.task import Task
from weaksam_cli.engine.executors.worker import Work, missing_package, portable
from weaksam_cli.engine.queue import Listed
from weaksam_cli.errors import UserError

_LOOK_SECONDS = {"slurm": 10.0, "local": 0.2}
"""Between two looks at the folder and at the jobs, and between two words of a job of how much is left."""
_LEFT = ".left"
_USUAL_JOBS = 16
_SAID = 300
"""Characters of what a job said last, in a message."""


class Options(RecipeModel):
    """Settings of the executor, each job's unless it says otherwise; `--workers` says how many jobs there are (16).

    Attributes:
        cluster: `local` runs the jobs as processes of this machine, to try things out.
        partition, account, qos, constraint: as `sbatch` takes them.
        minutes: after which Slurm ends a job, which is then put into the queue again.
        requeues: how often a job is put into the queue again because its time is over; preemption does not count.
        cpus: cores, and without GPUs the number of its processes.
        gpus: GPUs, each of which is used by one process; 0 computes on the CPU.
        memory_gb: memory.
        setup: lines of the shell before a job begins, such as `module load cuda`.
    """

    cluster: Literal["slurm", "local"] = "slurm"
    partition: Annotated[str, Field(max_length=200)] | None = None
    account: Annotated[str, Field(max_length=200)] | None = None
    qos: Annotated[str, Field(max_length=200)] | None = None
    constraint: Annotated[str, Field(max_length=200)] | None = None
    minutes: Annotated[int, Field(ge=1, le=60 * 24 * 365)] = 240
    requeues: Annotated[int, Field(ge=0, le=1000)] = 20
    cpus: Annotated[int, Field(ge=1, le=1024)] = 4
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    memory_gb: Annotated[float, Field(gt=0, le=1e5)] | None = None
    setup: tuple[str, ...] = ()


@dataclass(frozen=True)
class SlurmExecutor:
    """Arrays of Slurm jobs.

    Attributes:
        options: see `Options`.
        workers: most jobs; 0 for the usual number.
    """

    options: Options
    workers: int = 0

    def device(self, asked: str) -> str:
        """See `Executor`; `auto` is `cuda` where the jobs have GPUs."""
        if asked.startswith("cuda") and not self.options.gpus:
            raise UserError(
                "the jobs have no GPUs", where=f"--device {asked}", remedy="Give --executor-set gpus=1"
            )
        return ("cuda" if self.options.gpus else "cpu") if asked == "auto" else asked

    def run(self, task: Task) -> int:
        """See `Executor`."""
        images, before = 0, -1
        while missing := _missing(task):
            if len(missing) == before:
                raise UserError(
                    f"the jobs end before they have made a shard: {self._last_words(task)}",
                    where=str(_folder(task)),
                    remedy="Their logs are there; finished shards are kept",
                )
            if before >= 0:
                task.warn(
                    f"jobs ended for good before their work was done; another array makes {len(missing)} shards"
                )
            before = len(missing)
            images += _Array(task, self.options, self.workers or _USUAL_JOBS).run(missing)
        with contextlib.suppress(OSError):
            shutil.rmtree(_folder(task))
            _folder(task).parent.rmdir()
        return images

    @staticmethod
    def _last_words(task: Task) -> str:
        logs = sorted(_folder(task).glob("*.err"), key=lambda path: path.stat().st_mtime)
        return logs[-1].read_text(errors="replace")[-_SAID:].strip() if logs else "they said nothing"


def executor(options: Options, workers: int) -> SlurmExecutor:
    """The executor; see `SlurmExecutor`."""
    return SlurmExecutor(options, workers)


def _folder(task: Task) -> Path:
    """Where jobs find their work and leave their logs: beside the artifact, of this work alone."""
    target = task.plan.target
    return target.with_name(f"{target.name}.slurm") / task.plan.directory.name


def _missing(task: Task) -> list[int]:
    part = task.part
    return [index for index in task.plan.missing() if part is None or part.owns(index)]


@dataclass
class _Left:
    """How many images a job has still to make: it says so in a file, at most every so many seconds."""

    work: Work
    path: Path
    images: int
    seconds: float
    told: float = -math.inf

    @classmethod
    def of(cls, share: Listed, work: Work, folder: Path, seconds: float = 0.0) -> _Left:
        """What is left of a share, which is told at once."""
        plan, indexes = work.plan, share.indexes
        images = sum(len(plan.images(index)) for index in indexes - plan.done_indexes())
        left = cls(work, folder / f"{min(indexes)}{_LEFT}", images, seconds)
        left(0, 0)
        return left

    def __call__(self, images: int, failed: int) -> None:
        """See `Task.on_images`."""
        self.images -= images
        if self.images <= 0 or time.monotonic() - self.told >= self.seconds:
            self.told = time.monotonic()
            self.work.ops.write_atomically(self.path, str(self.images).encode())


def _left(folder: Path) -> int:
    """Images that all jobs of an array have still to make, as far as they have said."""
    images = 0
    for path in folder.glob(f"*{_LEFT}"):
        with contextlib.suppress(OSError):  # another command has ended the array
            images += int(path.read_bytes())
    return images


# ------------------------------------------------------------------------------------------------- in the command


@dataclass
class _Array:
    """One array of jobs, as the command sees it."""

    task: Task
    options: Options
    most: int
    jobs: Sequence[Any] = field(default_factory=list)

    def run(self, missing: Sequence[int]) -> int:
        """Submit it, or find the one that is at work; wait until all is made, or all jobs have ended.

        Returns:
            The number of images that were made meanwhile.
        """
        plan, images, shown = self.task.plan, 0, 0
        self.jobs = self._found() or self._submit(missing)
        waiting, everything = set(missing), sum(len(plan.images(index)) for index in missing)
        try:
            while waiting:
                ended = [job for job in self.jobs if job.done()]
                done = waiting & plan.done_indexes()
                waiting -= done
                images += sum(len(plan.images(index)) for index in done)
                now = max(images, everything - _left(_folder(self.task))) if waiting else images
                if now != shown:
                    self.task.on_images(now - shown, 0)
                shown = now
                self._raise_faults(ended)
                if len(ended) == len(self.jobs):
                    break
                time.sleep(_LOOK_SECONDS[self.options.cluster])
        except BaseException:
            self._cancel()
            raise
        self._note([])
        self.task.on_images(images - shown, 0)
        return images

    def _submit(self, missing: Sequence[int]) -> Sequence[Any]:
        try:
            import cloudpickle
            import submitit
        except ImportError:
            raise missing_package("submitit", "slurm") from None
        folder, options, task = _folder(self.task), self.options, self.task
        task.ops.make_directory(folder)
        path, work = folder / "work.pickle", Work(task.ops, task.plan, task.predictor)
        task.ops.write_atomically(path, cloudpickle.dumps(work))
        count = min(self.most, len(missing))
        shares = [Listed(frozenset(missing[number::count])) for number in range(count)]
        for before in folder.glob(f"*{_LEFT}"):
            task.ops.remove(before)
        for share in shares:
            _Left.of(share, work, folder)
        slurm = {name: getattr(options, name) for name in ("partition", "account", "qos", "constraint")}
        try:
            queue = submitit.AutoExecutor(
                folder=folder, cluster=options.cluster, slurm_max_num_timeout=options.requeues
            )
            queue.update_parameters(
                name=f"weaksam-{task.plan.target.stem}",
                timeout_min=options.minutes,
                cpus_per_task=options.cpus,
                gpus_per_node=options.gpus or None,
                mem_gb=options.memory_gb,
                slurm_setup=list(options.setup) or None,
                slurm_additional_parameters={"requeue": True},
                **{f"slurm_{name}": value for name, value in slurm.items()},
            )
            job = SlurmJob(path, task.device, options.cpus, _LOOK_SECONDS[options.cluster])
            jobs: list[Any] = queue.map_array(job, shares)
        except (RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
            raise UserError(
                f"the jobs cannot be submitted: {error}",
                where="--executor slurm",
                remedy="Give the command on a machine of the cluster (sbatch and srun are there)",
            ) from error
        self.jobs = jobs
        self._note([job.job_id for job in jobs])
        return jobs

    def _note(self, jobs: list[str]) -> None:
        self.task.ops.write_atomically(
            _folder(self.task) / "jobs.json", TypeAdapter(list[str]).dump_json(jobs)
        )

    def _found(self) -> Sequence[Any]:
        """The array that a command submitted which is no more."""
        note = _folder(self.task) / "jobs.json"
        if self.options.cluster != "slurm" or not note.is_file():
            return []
        import submitit

        names = TypeAdapter(list[str]).validate_json(note.read_bytes())
        found: list[Any] = [submitit.SlurmJob(folder=note.parent, job_id=name) for name in names]
        at_work = [job for job in found if not job.done(force_check=True)]
        if at_work:
            self.task.warn(
                f"{len(at_work)} jobs are at work already, which a command before this one submitted"
            )
        return at_work

    @staticmethod
    def _raise_faults(ended: Sequence[Any]) -> None:
        """An error that stopped a job stops the stage; a job that died without a word has none."""
        for job in ended:
            if job.paths.result_pickle.exists():
                outcome, result = job._get_outcome_and_result()
                if isinstance(result, Exception):
                    raise result
                if outcome == "error" and "UncompletedJobError" not in str(result):
                    raise RuntimeError(str(result))

    def _cancel(self) -> None:
        for job in self.jobs:
            with contextlib.suppress(Exception):  # it has ended, or Slurm is gone
                job.cancel(check=False)
        with contextlib.suppress(OSError):
            self._note([])


# ------------------------------------------------------------------------------------------------------- in a job


@dataclass(frozen=True)
class SlurmJob:
    """What a job of an array does; called with its shards.

    Attributes:
        work: the file that holds what is to be done.
        device: see `Task`.
        processes: most of them.
        seconds: between two words of how much is left.
    """

    work: Path
    device: str
    processes: int
    seconds: float

    def __call__(self, share: Listed) -> Exception | None:
        """Make them; the error that stopped it is the result."""
        try:
            work: Work = pickle.loads(self.work.read_bytes())
            work.begin()
            left = _Left.of(share, work, self.work.parent, self.seconds)
            task = Task(work.ops, work.plan, work.predictor, share, left, warnings.warn)
            run_shards(task, worker_gpus(self.device, self.processes, gpus_for(self.device)))
        except ShardLostError:
            return None  # the command looks at what is there
        except Exception as error:
            return portable(error)
        return None

    def checkpoint(self, share: Listed) -> Any:
        """What is to be done when it is started again: the same, of which the folder knows how much is done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, share)
