"""How long will it take? Measured on an image of median size before the work starts, or read off the last run's shards."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from weaksam_cli.artifacts.shards import ShardPlan
from weaksam_cli.console import Console, duration, size
from weaksam_cli.engine.devices import release_memory
from weaksam_cli.engine.execution import AlreadyOpen, OpenedPredictor, limit_threads
from weaksam_cli.engine.legacy import Job, ShardedMaker
from weaksam_cli.errors import ImageError

_ENOUGH = 3
"""With fewer images than this for each process the work is done almost as soon as it is measured."""
_QUICK_SECONDS = 1.0
"""An image that takes less is measured twice: the first one also loads libraries."""
_CANDIDATES = 3


@dataclass(frozen=True)
class Workload:
    """What is to be done.

    Attributes:
        plan: all shards.
        left: images that this command has still to do.
        processes: how many processes will work.
        resumed: some shards are done already.
    """

    plan: ShardPlan
    left: Sequence[str]
    processes: int
    resumed: bool


def workload(job: Job, maker: ShardedMaker) -> Workload:
    """What of a job is left for this command, after what is on the disk."""
    plan, share = maker.plan(job), job.context.share
    done = plan.done_indexes()
    shards = [
        index for index in range(len(plan)) if index not in done and (share is None or share.owns(index))
    ]
    left = [image_id for index in shards for image_id in plan.images(index)]
    return Workload(plan, left, max(1, min(len(maker.seats(job.context)), len(shards))), bool(done))


def announce(job: Job, maker: ShardedMaker, sizes: Mapping[str, int], recipe: str) -> ShardedMaker:
    """Say how much there is to do and about how long it will take.

    Args:
        job: the artifact to be made.
        maker: what will make it.
        sizes: bytes of each image's file.
        recipe: name of the recipe.

    Returns:
        The maker to go on with: one that works in this process keeps the model that was loaded to measure.
    """
    load = workload(job, maker)
    console, share = job.context.console, job.context.share
    seconds: float | None = None
    pace = load.plan.pace() if load.resumed else None
    if pace is not None:
        seconds = len(load.left) / pace
    elif len(load.left) >= _ENOUGH * load.processes and (share is None or share.part == 1):
        maker, seconds = _measured(maker, load, sizes, console)
        release_memory()
    _say(load, sizes, recipe, seconds, str(share) if share else None, console)
    return maker


def _measured(
    maker: ShardedMaker, load: Workload, sizes: Mapping[str, int], console: Console
) -> tuple[ShardedMaker, float | None]:
    start = time.monotonic()
    opened = maker.predictor.open()
    limit_threads()
    opening = time.monotonic() - start
    one = _measure(opened, around_median(sizes, load.left, _CANDIDATES), console)
    if load.processes == 1:
        maker, opening = replace(maker, predictor=AlreadyOpen(opened)), 0.0
    return maker, None if one is None else opening + one * len(load.left) / load.processes


def _say(
    load: Workload,
    sizes: Mapping[str, int],
    recipe: str,
    seconds: float | None,
    share: str | None,
    console: Console,
) -> None:
    images, whole = len(load.plan.image_ids), sum(sizes.values())
    parts = [f"{images} images ({size(whole)})"]
    if len(load.left) < images:
        parts.append(f"{len(load.left)} left" + (f" in part {share}" if share else ""))
    parts += [f"recipe {recipe}", f"{load.processes} process{'es' if load.processes > 1 else ''}"]
    console.info(
        ", ".join(parts) + (f": about {duration(seconds)}" if seconds is not None else ""),
        images=images,
        bytes=whole,
        left=len(load.left),
        recipe=recipe,
        processes=load.processes,
        seconds=None if seconds is None else round(seconds, 1),
    )


def _measure(opened: OpenedPredictor, candidates: Sequence[str], console: Console) -> float | None:
    """Seconds that one image takes; None when none of the candidates can be done."""
    for image_id in candidates:
        console.info(f"measuring one image ({image_id}) ...", measured=image_id)
        try:
            seconds = _timed(opened, image_id)
            return seconds if seconds >= _QUICK_SECONDS else _timed(opened, image_id)
        except ImageError:
            continue
    return None


def _timed(opened: OpenedPredictor, image_id: str) -> float:
    start = time.monotonic()
    opened(image_id)
    return time.monotonic() - start


def around_median(sizes: Mapping[str, int], image_ids: Sequence[str], count: int) -> list[str]:
    """At most `count` images whose files are nearest to the median size, the median first."""
    order = sorted(image_ids, key=lambda image_id: sizes[image_id])
    middle = len(order) // 2
    positions = sorted(range(len(order)), key=lambda position: abs(position - middle))
    return [order[position] for position in positions[:count]]
