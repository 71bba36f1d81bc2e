"""Feed every reader hostile input: `make fuzz`, or `python -m tests.fuzz -n 10000`.

One case again, with all that it says: `python -m tests.fuzz --reader coco --case 1234 --keep FOLDER`.
"""

from __future__ import annotations

import argparse
import gc
import os
import shlex
import shutil
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

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.fuzz.cases import Tried, run_unchanged, try_case, work_folder
from tests.fuzz.corpus import make_corpus
from tests.fuzz.judge import Finding
from tests.fuzz.readers import READERS
from weaksam_cli.console import Console, Mode, format_table, one_line

KINDS = ("traceback", "hang", "memory", "touched", "message")
_SHOWN = 6000
_BIG = 100_000_000

Result = tuple[str, int, float, list[Finding]]
"""Reader, number, seconds, what is wrong."""


def main() -> None:
    """Run cases; print a table by reader, and every finding with the first cases that show it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("-n", type=int, default=10_000, help="cases, shared among the readers")
    parser.add_argument("-j", type=int, default=os.cpu_count() or 1, help="cases at once")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each reader")
    parser.add_argument("--reader", choices=READERS, action="append", help="only this one (repeatable)")
    parser.add_argument("--case", type=int, help="only this one, and show what it says")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs of the cases that fail")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # about what mutations make
    console = Console(Mode.HUMAN)
    with tempfile.TemporaryDirectory(prefix="weaksam-fuzz-") as name:
        folder = Path(name)
        corpus = make_corpus(folder / "corpus")
        for _ in run_unchanged(corpus, folder / "unchanged"):
            pass
        gc.freeze()  # what is shared with the children is not written to
        names = options.reader or [*READERS]
        numbers = range(options.first, options.first + -(-options.n // len(names)))
        cases = [(name, number) for number in numbers for name in names][: options.n]
        run = partial(_run, corpus=corpus, place=folder, keep=options.keep)
        start = time.monotonic()
        if options.case is not None:
            results = [run((names[0], options.case), console=console)]
        else:
            with ProcessPoolExecutor(options.j, get_context("fork")) as pool:
                results = [*_shown(pool.map(run, cases, chunksize=4), len(cases), console)]
    for line in _report(results, time.monotonic() - start).splitlines():
        console.result(line)
    sys.exit(any(found for *_, found in results))


def _run(
    case: tuple[str, int], corpus: Path, place: Path, keep: Path | None, console: Console | None = None
) -> Result:
    name, number = case
    start, folder = time.monotonic(), place / f"{name}-{number}"
    folder.mkdir()
    tried = try_case(corpus, name, number, folder)
    seconds = time.monotonic() - start
    text = f"python -m tests.fuzz --reader {name} --case {number}\n{_told(tried)}"
    if console:
        for line in text.splitlines():
            console.result(line)
    if keep and (tried.found or console):
        target = keep / folder.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(work_folder(folder), target / "work", symlinks=True, ignore=_not_ordinary)
        (target / "what.txt").write_text(text, errors="backslashreplace")
    shutil.rmtree(folder)
    return name, number, seconds, [*tried.found]


def _told(tried: Tried) -> str:
    """What was run, how it ended, and what is wrong with that."""
    lines = []
    for command, ended in tried.commands:
        lines += [
            one_line(f"$ weaksam {shlex.join(command)}"[:_SHOWN]),
            ended.err.decode("utf-8", "replace")[-_SHOWN:],
            f"exit {ended.code}, {ended.seconds:.1f} s, {ended.memory / 1e6:.0f} MB",
        ]
    return "\n".join(
        [*lines, *(f"FOUND {finding.kind}: {one_line(finding.what)}" for finding in tried.found)]
    )


def _not_ordinary(folder: str, names: list[str]) -> list[str]:
    """Pipes, and files that are too large to keep."""
    paths = [Path(folder) / name for name in names]
    return [path.name for path in paths if path.is_fifo() or (path.is_file() and path.stat().st_size > _BIG)]


def _shown(results: Iterable[Result], total: int, console: Console) -> Iterator[Result]:
    with console.progress("fuzzing", total, "cases") as progress:
        for result in results:
            progress.advance()
            yield result


def _report(results: list[Result], seconds: float) -> str:
    tried, wrong = Counter(name for name, *_ in results), defaultdict[str, Counter[str]](Counter)
    examples = defaultdict[Finding, list[str]](list)
    for name, number, _, found in results:
        wrong[name].update({finding.kind for finding in found})
        for finding in set(found):
            examples[finding].append(f"{name} {number}")
    wrong["sum"], tried["sum"] = sum(wrong.values(), Counter()), len(results)
    rows = [[name, str(count), *(str(wrong[name][kind]) for kind in KINDS)] for name, count in tried.items()]
    name, number, longest, _ = max(results, key=lambda result: result[2])
    return "\n".join([
        format_table(["reader", "tried", *KINDS], *rows),
        f"{seconds / 60:.0f} min, {seconds / len(results):.2f} s a case; the longest: {name} {number}, {longest:.0f} s",
        *(
            f"{finding.kind}: {one_line(finding.what)}: {len(cases)} cases, such as {', '.join(cases[:3])}"
            for finding, cases in sorted(examples.items(), key=str)
        ),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
