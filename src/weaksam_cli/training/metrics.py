"""The losses of a training as `metrics.json`: a JSON object a line, as detectron2 writes it and its tools read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from weaksam_cli.errors import UserError

METRICS_FILE: Final = "metrics.json"
"""Beside the model."""
PERIOD: Final = 20
"""Iterations over which losses are averaged; detectron2's."""


Row = dict[str, float]
"""`iteration`, `lr`, `total_loss`, each loss by its name, and other figures that a step told."""


@contextmanager
def tensorboard_rows(folder: Path | None) -> Iterator[Callable[[Row], None]]:
    """What writes a row into a folder of TensorBoard at once; it does nothing where there is no folder.

    Raises:
        UserError: TensorBoard is not installed, or the folder cannot be written.
    """
    if folder is None:
        yield lambda _: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder))
    except ImportError as error:
        remedy = "pip install tensorboard, or leave --tensorboard out: metrics.json has the same figures"
        raise UserError("TensorBoard is not installed", where="--tensorboard", remedy=remedy) from error
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(folder)) from error

    def write(row: Row) -> None:
        for name, value in row.items():
            if name != "iteration":
                writer.add_scalar(name, value, int(row["iteration"]))
        writer.flush()

    with writer:
        yield write


@dataclass
class LossLog:
    """Means of the losses; a checkpoint keeps it, so that a training that was stopped has the same lines in the end.

    Attributes:
        show: called with each new row.
        rows: one for each `PERIOD` iterations.
        sums: of the iterations since the last row.
        count: how many these are.
    """

    show: Callable[[Row], None] = lambda _: None
    rows: list[Row] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def record(
        self,
        iteration: int,
        losses: Mapping[str, float],
        rate: float,
        *,
        last: bool,
        figures: Mapping[str, float] | None = None,
    ) -> None:
        """An iteration, counted from 1, is done; a row is added after every period and with the last one.

        `figures` are what is no loss, and so no part of the total.
        """
        for name, value in (("total_loss", sum(losses.values())), *losses.items(), *(figures or {}).items()):
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if iteration % PERIOD == 0 or last:
            means = {name: float(f"{value / self.count:.6g}") for name, value in self.sums.items()}
            self.rows.append({"iteration": iteration, "lr": float(f"{rate:.6g}"), **means})
            self.sums, self.count = {}, 0
            self.show(self.rows[-1])

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint keeps."""
        return {"rows": self.rows, "sums": self.sums, "count": self.count}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from what `state_dict` gave."""
        self.__dict__.update(state)

    def to_bytes(self) -> bytes:
        """The file."""
        return "".join(f"{json.dumps(row)}\n" for row in self.rows).encode()
