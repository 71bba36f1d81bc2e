"""The processes of one command: torchrun starts them, here or on several machines, or `--gpus N` does.

The first one runs the command: it decides what is fresh, writes and speaks. The others wait beside it, and take part where a
training is made, each with its share of every batch.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.console import Console, Mode
from weaksam_cli.errors import ExitCode, UserError

_VARIABLES: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process."""
_PATIENCE: Final = timedelta(days=30)
"""The others wait for a stage that the first one makes alone."""
_LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Processes:
    """Those of this command, and which of them this one is.

    Attributes:
        rank: of this one; 0 is the first.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that decides, writes and speaks."""
        return self.rank == 0

    def share(self, size: int) -> range:
        """The places in a batch of `size` images that are this process's.

        Raises:
            UserError: they cannot be shared evenly.
        """
        own, rest = divmod(size, self.count)
        if rest or not own:
            raise UserError(
                f"a batch of {size} cannot be shared by {self.count} processes",
                where="schedule.batch_size",
                remedy="Give as many images to each: a multiple of --gpus, or fewer processes",
            )
        return range(self.rank * own, (self.rank + 1) * own)

    def tell(self, *, joint: bool) -> None:
        """The first process tells the others whether work follows that all take part in."""
        if self.count > 1:
            self._broadcast(joint)

    def told(self) -> bool:
        """What the first process tells: waits for it, and ends where that has ended: it has said why."""
        try:
            return self._broadcast(False)
        except RuntimeError:  # gloo has no other
            sys.exit(ExitCode.USER)

    def meet(self) -> None:
        """Wait until all have come so far."""
        if self.count > 1:
            self._broadcast(False)

    def _broadcast(self, value: bool) -> bool:
        import torch

        word = torch.tensor([value])
        torch.distributed.broadcast(word, 0)
        return bool(word)


ALONE: Final = Processes()


def is_started(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, or `start`, made this process as one of several."""
    return all(name in environment for name in _VARIABLES) and environment["WORLD_SIZE"] != "1"


def join(device: str) -> Processes:
    """Meet the other processes, once; a process that nobody started beside others is alone.

    Args:
        device: that was asked for; on `cpu` gradients travel by gloo, else by nccl.
    """
    if not is_started():
        return ALONE
    import torch

    if not torch.distributed.is_initialized():
        on_gpu = device != "cpu" and torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    return Processes(torch.distributed.get_rank(), torch.distributed.get_world_size())


def device_of(device: str, processes: Processes) -> str:
    """The device of a process: of several that are to use CUDA, each has the GPU of its place on its machine.

    Raises:
        UserError: one GPU was asked for by number.
    """
    if processes.count == 1 or device == "cpu":
        return device
    if ":" in device:
        remedy = "Use --device cuda, or CUDA_VISIBLE_DEVICES to choose GPUs"
        raise UserError(f"{processes.count} processes cannot share {device}", where="--device", remedy=remedy)
    return device if processes.leads else f"cuda:{os.environ['LOCAL_RANK']}"


class Unwritten(FileOps):
    """Writes nothing: the first process writes what all of them make."""

    def build_atomically(self, path: Path, fill: Callable[[Path], None]) -> None:
        """Nothing."""


def silent() -> Console:
    """For the other processes: the first one speaks."""
    return Console(Mode.QUIET, io.StringIO(), io.StringIO())


def start(count: int, arguments: Sequence[str]) -> int:
    """Run the command in so many processes on this machine, as torchrun does on several; its exit code.

    When one fails the others are stopped. SIGINT and SIGTERM reach all of them.

    Args:
        count: at least 2.
        arguments: of the command line.
    """
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    made: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-m", "weaksam_cli", *arguments]
            made.append(subprocess.Popen(command, env={**os.environ, **common, **own}))
        return _first_failure(made)
    finally:
        _stop(made)


def _first_failure(made: Sequence[subprocess.Popen[bytes]]) -> int:
    """The exit code of the first that fails; 0 when all have ended well."""
    while True:
        codes = [process.poll() for process in made]
        failed = [code for code in codes if code]
        if failed or None not in codes:
            time.sleep(
                _LOOK_SECONDS if failed else 0
            )  # the first process, where the others end because it has
            return next((128 - code if code < 0 else code for process in made if (code := process.poll())), 0)
        time.sleep(_LOOK_SECONDS)


def _stop(made: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in made:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
    for process in made:
        process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
