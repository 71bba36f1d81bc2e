"""Gradients of one training in several processes: their mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from weaksam_cli.errors import UserError

_BUCKET: Final = 8_000_000
"""Numbers that travel together, 32 MB of them."""


def average_gradients(parameters: Sequence[nn.Parameter], processes: int) -> None:
    """Replace each gradient by its mean over the processes; one that a process does not have counts as 0 there.

    A parameter that has a gradient nowhere keeps none, so optimisers pass over it as they do in a single process.

    Args:
        parameters: the same in every process.
        processes: how many there are in torch.distributed's default group.

    Raises:
        UserError: another process has ended.
    """
    has_gradient = torch.tensor([item.grad is not None for item in parameters], dtype=torch.int32)
    _add_up(has_gradient)
    wanted = [item for item, count in zip(parameters, has_gradient.tolist(), strict=True) if count]
    for bucket in _buckets(wanted):
        own = [torch.zeros_like(item) if item.grad is None else item.grad for item in bucket]
        flat = torch.cat([gradient.reshape(-1) for gradient in own])
        _add_up(flat)
        flat /= processes
        sizes = [gradient.numel() for gradient in own]
        for item, mean in zip(bucket, flat.split(sizes), strict=True):
            item.grad = mean.view_as(item)


def _add_up(values: Tensor) -> None:
    """In place, over the processes."""
    try:
        torch.distributed.all_reduce(values)
    except RuntimeError as error:  # gloo has no other
        what = "another process of this training has ended"
        remedy = "See what it said; the same command goes on from the last checkpoint"
        raise UserError(what, where="torch.distributed", remedy=remedy) from error


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one type, on one device, that fit together."""
    bucket: list[nn.Parameter] = []
    for item in parameters:
        if bucket and (
            _kind(item) != _kind(bucket[0]) or sum(map(Tensor.numel, bucket)) + item.numel() > _BUCKET
        ):
            yield bucket
            bucket = []
        bucket.append(item)
    if bucket:
        yield bucket


def _kind(parameter: Tensor) -> tuple[torch.dtype, torch.device]:
    return parameter.dtype, parameter.device
