"""Which worker process computes where: a process for each GPU, or any number of them on the CPU."""

from __future__ import annotations

import os
from collections.abc import Sequence

from weaksam_cli.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def use_gpu(gpu: str | None) -> None:
    """Make this process see one GPU only (None: leave it as it is); to be called before CUDA is initialised in it."""
    if gpu is not None:
        os.environ[VISIBLE] = gpu


def torch_device(asked: str) -> str:
    """`cuda` where this machine has one and `auto` was asked for, else `cpu`; any other device as it was asked for.

    Raises:
        UserError: for CUDA where there is none.
    """
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            "there is no CUDA device on this machine", where="--device", remedy="Use --device cpu"
        )
    return asked


def worker_gpus(device: str, workers: int, gpus: Sequence[str]) -> tuple[str | None, ...]:
    """The GPU of each worker process of a stage.

    Args:
        device: where the stage's model lives: `cpu`; `cuda` for every visible GPU; `cuda:N` for that one only.
        workers: most processes that the user wants.
        gpus: the visible GPUs as `CUDA_VISIBLE_DEVICES` names them, see `visible_gpus`.

    Returns:
        An entry for each process, at least one; None where it sees what this process sees. On the CPU there are as many as
        wanted; a GPU has one process.
    """
    if device == "cpu":
        return (None,) * max(workers, 1)
    if device == "cuda" and min(workers, len(gpus)) > 1:
        return tuple(gpus[:workers])
    return (None,)


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
