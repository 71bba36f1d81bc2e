"""Entry point of `weaksam` and `python -m weaksam_cli`."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line.

    Numeric libraries get one thread a process unless the user says otherwise: on shared cores that is faster, and results do
    not depend on the number of cores. Stages that train ask torch for more.
    """
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    from weaksam_cli.cli.app import app

    app(prog_name="weaksam")


if __name__ == "__main__":
    main()
