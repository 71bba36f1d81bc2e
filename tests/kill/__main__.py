"""SIGKILL at every file operation of every stage, then at random moments: `make kill`, or `python -m tests.kill -n 1000`."""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.fuzz.process import end_group, program, start_forked
from tests.kill.stages import Finished, Stage, finish, kill_at, prepare, run_child
from weaksam_cli.console import Console, Mode, format_table

_TWO_WORKERS = 0.05
_TRIES, _SOONER = 8, 0.7
"""A command that was faster than its moment is killed sooner the next time."""
_START_OF_WORKERS = 8.0
"""Seconds that two processes take to import what they need."""

Job = tuple[Stage, float, int, int | None]
"""A stage, its seconds, the number of the trial, and the file operation to be killed at; None: random moments."""
Result = tuple[str, int, Finished]
"""Name of the stage, kills, what was found."""


def main() -> None:
    """Kill, finish, compare; print a table by stage, and every fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("-n", type=int, default=1000, help="kills at random moments, at least")
    parser.add_argument("--random", action="store_true", help="at random moments only")
    parser.add_argument("-j", type=int, default=os.cpu_count() or 1, help="trials at once")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    console, begin = Console(Mode.HUMAN), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="weaksam-kill-") as name:
        folder = Path(name)
        stages = prepare(folder)
        gc.freeze()  # what is shared with the children is not written to
        timed = [(stage, _seconds(stage, folder)) for stage in stages]
        every = [
            (stage, seconds, k, k)
            for stage, seconds in timed
            for k in range(0 if options.random else stage.operations)
        ]
        with ProcessPoolExecutor(options.j, get_context("fork")) as pool:
            run = partial(_trial, folder=folder)
            operations = [] if options.random else [*_shown(pool.map(run, every), len(every), console)]
            moments: list[Result] = []
            with console.progress("killing", options.n, "random moments") as progress:
                while (missing := options.n - sum(kills for _, kills, _ in moments)) > 0:
                    numbers = range(len(moments), len(moments) + max(options.j, missing // 3))
                    jobs: list[Job] = [(*timed[number % len(timed)], number, None) for number in numbers]
                    for result in pool.map(run, jobs):
                        moments.append(result)
                        progress.advance(result[1])
    for line in _report(operations, moments).splitlines():
        console.result(line)
    console.result(f"{(time.monotonic() - begin) / 60:.0f} min")
    sys.exit(any(finished != Finished([], [], [], "") for *_, finished in (*operations, *moments)))


def _seconds(stage: Stage, folder: Path) -> float:
    """What the command takes in a child."""
    work, log = _laid_out(stage, folder / "timed")
    start = time.monotonic()
    assert run_child(partial(program, stage.arguments()), work, log) == 0, (log / "err-0").read_text()
    seconds = time.monotonic() - start
    shutil.rmtree(folder / "timed")
    return seconds


def _laid_out(stage: Stage, place: Path) -> tuple[Path, Path]:
    log = place / "log"
    log.mkdir(parents=True)
    return shutil.copytree(stage.before, place / "work"), log


def _trial(job: Job, folder: Path) -> Result:
    stage, seconds, number, k = job
    place = folder / f"{stage.name}-{number}-{k}"
    work, log = _laid_out(stage, place)
    rng, kills, workers = Random(f"{stage.name} {number}"), 0, 1
    if k is not None:
        kills = int(kill_at(stage, k, work, log) == -signal.SIGKILL)
    else:
        workers = 1 + (rng.random() < _TWO_WORKERS)
        seconds += _START_OF_WORKERS * (workers - 1)
        wanted = rng.choice((1, 2, 3))
        for _ in range(_TRIES):
            child = start_forked(partial(program, stage.arguments(workers)), work, log)
            time.sleep(rng.uniform(0, seconds))
            status, _ = end_group(child, kill=True)
            kills += os.waitstatus_to_exitcode(status) == -signal.SIGKILL
            if kills == wanted or (kills and os.waitstatus_to_exitcode(status) == 0):
                break
            if not kills:  # it had come to its end: once more, and sooner
                shutil.rmtree(place)
                work, log = _laid_out(stage, place)
                seconds *= _SOONER
    finished = finish(stage, work, log, workers)
    shutil.rmtree(place)
    return stage.name, kills, finished


def _shown(results: Iterable[Result], total: int, console: Console) -> Iterator[Result]:
    with console.progress("killing", total, "trials") as progress:
        for result in results:
            progress.advance()
            yield result


def _report(every: list[Result], random: list[Result]) -> str:
    counts = defaultdict[str, Counter[str]](Counter)
    for column, results in (("operations", every), ("random", random)):
        for name, kills, found in results:
            wrong = {"changed": found.changed, "left": found.left, "half": found.half, "errors": found.error}
            counts[name].update({column: kills} | {what: bool(value) for what, value in wrong.items()})
    counts["sum"] = sum(counts.values(), Counter())
    columns = ("operations", "random", "changed", "left", "half", "errors")
    header = (
        "stage",
        "kills at operations",
        "at random",
        "lost or changed",
        "left over",
        "half, certified",
        "errors",
    )
    rows = [[name, *(str(count[column]) for column in columns)] for name, count in counts.items()]
    faults = [f"{name}: {found}" for name, _, found in (*every, *random) if found != Finished([], [], [], "")]
    return "\n".join([format_table(header, *rows), *faults])


if __name__ == "__main__":
    main()
