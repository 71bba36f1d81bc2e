"""Steps that work image by image: in shards, by any number of processes, interrupted and resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from weaksam_cli.artifacts import receipt as receipts
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome, ShardLostError, ShardPlan, merge
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.executors.task import Task, shown
from weaksam_cli.engine.predictors import Predictor
from weaksam_cli.engine.queue import UnfinishedError

SHARD_IMAGES = 8
_MOST_SHARDS, _MOST_IMAGES = 512, 64
"""A shard costs some 40 ms of the CPU whatever it holds, and a folder with a hundred thousand files is slow on every file
system; what is in progress when a process dies is lost, so shards are not larger than they have to be."""
_SPARE_ATTEMPTS = 10
"""Every shard may be found damaged once, and this many times they may vanish, before the folder is declared unfit."""


def shard_size(images: int, least: int = SHARD_IMAGES) -> int:
    """Images a shard: `least`, doubled while there would be more than 512 shards, up to 64."""
    size = least
    while size < _MOST_IMAGES and images > _MOST_SHARDS * size:
        size *= 2
    return size


@dataclass(frozen=True)
class PerImage:
    """Makes an artifact image by image, in shards, with any number of processes: what `Step.run` is for most stages.

    Attributes:
        schema: of the rows.
        image_ids: all images, in order.
        predictor: what computes an image.
        tables: name -> strings stored in the artifact.
        title: shown beside the progress.
        shard_images: images a shard, at least; see `shard_size`.
        device: where the work's model lives (`Context.worker_device`): each GPU is used by one process.
    """

    schema: Schema
    image_ids: Sequence[str]
    predictor: Predictor
    title: str
    tables: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shard_images: int = SHARD_IMAGES
    device: str = "cpu"

    def __call__(self, job: Job) -> Outcome:
        """Run what is missing, then merge; work that another process removed from under us is looked at again.

        Raises:
            UnfinishedError: `--shard` was given, and shards of other parts are missing.
        """
        context, plan, before = job.context, self.plan(job), receipts.stamp(job.path)
        start, computed, lost = time.monotonic(), 0, ""
        for _ in range(len(plan) + _SPARE_ATTEMPTS):
            try:
                with shown(context.console, self.title, plan, context.part) as on_images:
                    computed += context.executor.run(self._task(context, plan, on_images))
                missing = plan.missing() if context.part else []
                if context.part and missing and not self._made_by_others(job, before):
                    raise UnfinishedError(context.part, computed, time.monotonic() - start, plan, missing)
                outcome = merge(context.ops, plan, job.attributes(), self.tables)
                return replace(outcome, computed=computed)
            except ShardLostError as error:
                made, lost = self._made_by_others(job, before), str(error)
                if made is not None:
                    return replace(made, computed=computed)
        raise plan.unfit_place(lost)

    def plan(self, job: Job) -> ShardPlan:
        """The shards of the work, of the size in which it was begun."""
        size = shard_size(len(self.image_ids), self.shard_images)
        is_large = size > self.shard_images and _MOST_IMAGES % size == 0
        key, ids, together = job.identity.key(), tuple(self.image_ids), _MOST_IMAGES if is_large else size
        return ShardPlan(job.path, key, self.schema, ids, size, together).as_begun()

    def _task(self, context: Context, plan: ShardPlan, on_images: Callable[[int, int], None]) -> Task:
        return Task(
            ops=context.ops,
            plan=plan,
            predictor=self.predictor,
            part=context.part,
            on_images=on_images,
            warn=context.console.warn,
            device=self.device,
            workers=context.workers,
        )

    @staticmethod
    def _made_by_others(job: Job, before: tuple[int, int] | None) -> Outcome | None:
        """What another command made of the same work since the receipt had the stamp `before`; None if nothing."""
        if receipts.stamp(job.path) == before:
            return None
        receipt = receipts.read_receipt(job.path)
        if receipt is None or receipt.key != job.identity.key():
            return None
        failed = tuple((item.image, item.reason) for item in receipt.failed)
        return Outcome(receipt.images, failed)


@dataclass(frozen=True)
class ImageByImage:
    """What `Step.run` is for a step whose images are independent of each other.

    Attributes:
        work: how it is done, from what the command was told.
    """

    work: Callable[[Context], PerImage]

    def __call__(self, job: Job) -> Outcome:
        """See `PerImage`."""
        return self.work(job.context)(job)
