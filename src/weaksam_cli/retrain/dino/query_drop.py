"""Query drop: queries whose classification loss is suspiciously large do not teach (supplement section 3; spec 06 B.4).

A query that the matching gave a wrong pseudo box keeps a large loss. The paper ranks the queries of a batch by their binary
cross-entropy, normalised, and drops those beyond a percentile. Released, all of it is commented out, so the definition here
follows the text: foreground (things) and background queries are normalised separately, each to [0, 1] over the batch; of a
group G, `(100 - tau) * |G| // 100` queries are dropped, those that come first when the values fall.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Mode = Literal["off", "things", "background", "both"]
Gather = Callable[[Tensor], Tensor]
"""From a table (n, columns) of this process to those of all processes, one below the other, its own rows first."""
_EPSILON: Final = 1e-8


def query_costs(logits: Tensor, classes: Tensor) -> Tensor:
    """Binary cross-entropy of each query, summed over the classes, natural logarithm: float (n,), without gradient.

    Args:
        logits: float (n, C).
        classes: int64 (n,), what each query is to be; C is background.
    """
    wanted = F.one_hot(classes, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits.detach(), wanted, reduction="none").sum(dim=1)


def normalised_costs(costs: Tensor, foreground: Tensor) -> Tensor:
    """Costs (n,) to [0, 1] between the least and the largest of their group; `foreground` bool (n,) tells the groups."""
    found = torch.zeros_like(costs)
    for group in (foreground, ~foreground):
        least = costs.masked_fill(~group, torch.inf).amin() if len(costs) else costs.sum()
        largest = costs.masked_fill(~group, -torch.inf).amax() if len(costs) else costs.sum()
        found = torch.where(group, (costs - least) / (largest - least + _EPSILON), found)
    return found


def dropped_queries(costs: Tensor, foreground: Tensor, mode: Mode, tau: int) -> Tensor:
    """Which queries of a batch are dropped: bool (n,).

    Only costs strictly above the one at the cut are dropped, so of equal ones at the cut none is.

    Args:
        costs: float (n,), see `query_costs`.
        foreground: bool (n,), the queries that are matched with an object.
        mode: the group: `things` foreground, `background` the others, `both` all by their separately normalised costs.
        tau: percentile, 1 to 100; 100 drops nothing.
    """
    group = {
        "off": torch.zeros_like(foreground),
        "things": foreground,
        "background": ~foreground,
        "both": torch.ones_like(foreground),
    }[mode]
    if not len(costs):
        return group
    values = normalised_costs(costs, foreground).masked_fill(~group, -torch.inf)
    count = (100 - tau) * group.sum() // 100
    # Indexing with a tensor of the device: no count has to come to the processor.
    cut = values.sort(descending=True).values.gather(0, count.clamp(max=len(costs) - 1)[None])
    return group & (values > cut)


def dropped_of_batch(
    logits: Tensor, classes: Tensor, mode: Mode, tau: int, gather: Gather | None = None
) -> Tensor:
    """Which queries of this process are dropped: bool (n,); with `gather` the batch is that of all processes.

    Args:
        logits: float (n, C), all queries of one decoder layer.
        classes: int64 (n,); C is background.
        mode, tau: see `dropped_queries`.
        gather: see `gathered`.
    """
    costs, foreground = query_costs(logits, classes), classes < logits.shape[1]
    if gather is not None:
        table = gather(torch.stack([costs, foreground.to(costs.dtype)], dim=1))
        costs, foreground = table[:, 0], table[:, 1] > 0
    return dropped_queries(costs, foreground, mode, tau)[: len(logits)]


def gathered(table: Tensor) -> Tensor:
    """The rows of all processes of torch.distributed, this one's first; the table itself where it is not initialised.

    Args:
        table: float (n, columns), without gradient; n may differ between the processes.
    """
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return table
    processes, own = distributed.get_world_size(), distributed.get_rank()
    counts = [torch.zeros(1, dtype=torch.int64, device=table.device) for _ in range(processes)]
    distributed.all_gather(counts, torch.full_like(counts[0], len(table)))
    longest = max(int(count) for count in counts)
    padded = F.pad(table, (0, 0, 0, longest - len(table)))
    tables = [torch.empty_like(padded) for _ in range(processes)]
    distributed.all_gather(tables, padded)
    rows = [found[: int(count)] for found, count in zip(tables, counts, strict=True)]
    return torch.cat([rows[own], *rows[:own], *rows[own + 1 :]])
