"""Which shards a process is still to make, while other processes, on this machine or another, make them too.

There are no locks: a shard that is on the disk is done, whoever made it. Two processes that walk over the same plan in the
same order would make every shard twice, so one that finds a shard already there when it has finished it goes on at a random
place.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from weaksam_cli.artifacts.shards import ShardPlan
from weaksam_cli.console import Console, duration
from weaksam_cli.errors import UserError

_LISTING_FACTOR = 20
"""A listing of the folder is trusted for this many times as long as it took: listings cost 5 % of the time at most."""


class Share(Protocol):
    """Some of the shards of a plan."""

    def owns(self, index: int) -> bool:
        """Is shard `index` one of them?"""
        ...


@dataclass(frozen=True)
class Listed:
    """Shards by their indexes: what one job of several makes."""

    indexes: frozenset[int]

    def owns(self, index: int) -> bool:
        """See `Share`."""
        return index in self.indexes


@dataclass(frozen=True)
class Part:
    """What one command makes of a plan: shards with index % count == number - 1.

    Attributes:
        number: counted from 1.
        count: how many parts there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """`2/3` as the second of three parts.

        Raises:
            UserError: for anything but i/n with 1 <= i <= n.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
        number, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= count:
            raise UserError(
                f"expected i/n with i from 1 to n, got {text!r}",
                where="--shard",
                remedy="Three machines take --shard 1/3, --shard 2/3 and --shard 3/3",
            )
        return cls(number, count)

    def owns(self, index: int) -> bool:
        """Does shard `index` belong to this part?"""
        return index % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


class UnfinishedError(Exception):
    """With `--shard` this command did its part, and parts of others are missing: no artifact and no receipt are written.

    It is an outcome and no fault: `run_steps` says how far the whole is and goes on.

    Attributes:
        part: that is done.
        images: images that this command computed.
        seconds: how long that took.
        shards: number of shards of the whole.
        missing: part -> number of its shards that are missing.
    """

    def __init__(
        self, part: Part, images: int, seconds: float, plan: ShardPlan, missing: Sequence[int]
    ) -> None:
        self.part, self.images, self.seconds = part, images, seconds
        self.shards = len(plan)
        self.missing = Counter(index % part.count + 1 for index in missing)
        super().__init__(f"part {part} of {plan.target} is done, {len(missing)} shards are missing")

    def report(self, name: str, console: Console) -> None:
        """Say what is done and what is missing."""
        done = self.shards - self.missing.total()
        parts = {f"{number}/{self.part.count}": count for number, count in sorted(self.missing.items())}
        listed = ", ".join(f"{part} ({count} shards)" for part, count in list(parts.items())[:8])
        more = f" and {len(parts) - 8} more" if len(parts) > 8 else ""
        console.info(
            f"{name}: part {self.part} is done ({self.images} images, {duration(self.seconds)}); {done} of {self.shards} "
            f"shards of the whole are, still missing: {listed}{more}. The same command without --shard does the rest",
            artifact=name,
            state="partial",
            shard=str(self.part),
            images=self.images,
            shards_done=done,
            shards=self.shards,
            missing=parts,
        )


class ShardQueue:
    """Shards that are still to be made here, in the order in which they will be.

    Args:
        plan: all shards.
        part: those that are to be made here; None for all.
        on_skipped: called with the number of images of a shard that turned out to be done by another process.
    """

    def __init__(self, plan: ShardPlan, part: Share | None, on_skipped: Callable[[int], None]) -> None:
        self._plan = plan
        self._on_skipped = on_skipped
        self._pending: dict[int, None] = {}
        self._known: set[int] = set()
        self._list()
        self._pending = dict.fromkeys(
            index
            for index in range(len(plan))
            if index not in self._known and (part is None or part.owns(index))
        )

    def __len__(self) -> int:
        return len(self._pending)

    def peek(self) -> int | None:
        """The shard that comes next, or None."""
        return next(iter(self._pending), None)

    def take(self) -> int | None:
        """The shard to be made now; None when there is nothing left."""
        if time.monotonic() >= self._trusted_until:
            self._list()
        index = self.peek()
        if index is not None:
            del self._pending[index]
        return index

    def put_back(self, index: int) -> None:
        """The shard was not made after all."""
        self._pending[index] = None

    def jump(self) -> None:
        """Go on at a random place: another process is working along the same line."""
        if len(self._pending) > 1:
            order = list(self._pending)
            start = secrets.randbelow(len(order))
            self._pending = dict.fromkeys(order[start:] + order[:start])

    def _list(self) -> None:
        start = time.monotonic()
        found = self._plan.done_indexes()
        removed = not self._known <= found
        for index in [index for index in self._pending if index in found or removed]:
            # Shards vanish when another process has merged them: then there is nothing left to do.
            del self._pending[index]
            self._on_skipped(len(self._plan.images(index)))
        self._known = found
        now = time.monotonic()
        self._trusted_until = now + _LISTING_FACTOR * (now - start)
