"""Print a finished run as Markdown: the time of each step, and every figure of `eval`.

python benchmarks/run_table.py runs/voc07-mini
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from weaksam_cli.artifacts.receipt import RECEIPT_SUFFIX, read_receipt
from weaksam_cli.eval.results import read_results


def times(run: Path) -> list[tuple[str, str, float]]:
    """(artifact, finished at, seconds) of every artifact, in the order of their making."""
    rows = []
    for path in run.rglob(f"*{RECEIPT_SUFFIX}"):
        artifact = path.with_name(path.name.removesuffix(RECEIPT_SUFFIX))
        record = read_receipt(artifact)
        if record is not None:
            rows.append((artifact.relative_to(run).as_posix(), record.finished_at, record.wall_seconds))
    return sorted(rows, key=lambda row: row[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run: Path = parser.parse_args().run
    write = sys.stdout.write
    write("| artifact | seconds |\n| --- | ---: |\n")
    rows = times(run)
    for name, _, seconds in rows:
        write(f"| {name} | {seconds:.0f} |\n")
    write(f"| sum | {sum(row[2] for row in rows):.0f} |\n\n")
    for path in sorted((run / "eval").glob("*.json")):
        if path.name.endswith(RECEIPT_SUFFIX):
            continue
        found = read_results(path)
        write(
            f"**{found.split}** ({found.images} images)\n\n| artifact | metric | value |\n| --- | --- | ---: |\n"
        )
        for item in found.metrics:
            write(f"| {item.source} | {item.name} | {item.text} |\n")
        write("\n")


if __name__ == "__main__":
    main()
