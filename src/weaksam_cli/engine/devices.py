"""Which worker process computes where: a process for each GPU, or any number of them on the CPU."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Seat:
    """Where one worker process computes.

    Attributes:
        gpu: the one entry of `CUDA_VISIBLE_DEVICES` that it gets; None leaves the variable as it is.
    """

    gpu: str | None = None

    def take(self) -> None:
        """Make this process see its GPU only; to be called before CUDA is initialised in it."""
        if self.gpu is not None:
            os.environ[VISIBLE] = self.gpu


def assign_seats(device: str, workers: int, gpus: Sequence[str]) -> tuple[Seat, ...]:
    """The worker processes of a stage.

    Args:
        device: where the stage's model lives: `cpu`; `cuda` for every visible GPU; `cuda:N` for that one only.
        workers: most processes that the user wants.
        gpus: the visible GPUs as `CUDA_VISIBLE_DEVICES` names them, see `visible_gpus`.

    Returns:
        A seat for each process, at least one. On the CPU there are as many as wanted; a GPU has one process.
    """
    if device == "cpu":
        return (Seat(),) * max(workers, 1)
    if device == "cuda" and min(workers, len(gpus)) > 1:
        return tuple(Seat(gpu) for gpu in gpus[:workers])
    return (Seat(),)


def visible_gpus(variable: str | None, count: int) -> list[str]:
    """Names of the GPUs that this process may use.

    Args:
        variable: value of `CUDA_VISIBLE_DEVICES`; None where it is not set. Entries are indexes, GPU or MIG identifiers.
        count: how many GPUs CUDA says there are; with the variable set it has counted valid entries only.
    """
    if variable is None:
        return [str(index) for index in range(count)]
    return [entry.strip() for entry in variable.split(",")][:count]


def gpus_for(device: str) -> list[str]:
    """The GPUs of this machine that `device` stands for; torch is asked for `cuda` alone."""
    if device != "cuda":
        return []
    import torch

    return visible_gpus(os.environ.get(VISIBLE), torch.cuda.device_count())


def release_memory() -> None:
    """Give back the GPU memory of models that this process no longer holds: its workers need it."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        gc.collect()
        sys.modules["torch"].cuda.empty_cache()
