"""An artifact gets its name, unless another command has put one of another recipe there meanwhile.

There are no locks, which lie on network file systems: what stands in the place is looked at just before it is replaced. The
receipt follows within milliseconds, and only while the file is still the one that it is about.
"""

from __future__ import annotations

import time
from pathlib import Path

from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts import receipt as receipts
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.errors import UserError

_PATIENCE = 2.0
"""Seconds between an artifact and its receipt, at most."""


class Publisher(FileOps):
    """Writes the artifact of a step and its receipt.

    Args:
        inner: what each operation is told to as well.
        target: the artifact.
        key: of the work.
        overwrite: replace whatever is there.

    Attributes:
        sha256: of the artifact that was published here; None before.
    """

    def __init__(self, inner: FileOps, target: Path, key: str, overwrite: bool) -> None:
        self._inner, self._target, self._key, self._overwrite = inner, target, key, overwrite
        self._before = receipts.stamp(target), _stamp(target)
        self._published: tuple[int, int] | None = None
        self.sha256: str | None = None

    def before(self, operation: str, path: Path) -> None:
        """Look at what stands in the place, just before it would be replaced.

        Raises:
            UserError: the work of another command.
        """
        self._inner.before(operation, path)
        if operation == "replace" and path == self._target and not self._overwrite:
            self._refuse_other_work()
        if operation == "replace" and path == receipts.receipt_path(self._target):
            self._refuse_other_file()

    def _publish(self, temporary: Path, path: Path) -> None:
        if path == self._target:
            self.sha256, self._published = digest.of_file(temporary), _stamp(temporary)
        super()._publish(temporary, path)

    def _refuse_other_work(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while receipts.stamp(self._target) == self._before[0]:
            # A file without its receipt is being written by another command, or was left by one that is dead.
            if _stamp(self._target) == self._before[1] or time.monotonic() > deadline:
                return
            time.sleep(_PATIENCE / 20)
        receipt = receipts.read_receipt(self._target)
        if receipt is not None and receipt.key != self._key:
            raise self._lost(f"made it with recipe {receipt.identity.recipe_name!r}")

    def _refuse_other_file(self) -> None:
        is_ours = self._published in (None, _stamp(self._target))
        if not is_ours and digest.of_file(self._target) != self.sha256:
            raise self._lost("replaced it")

    def _lost(self, what: str) -> UserError:
        return UserError(
            f"another command {what} meanwhile",
            where=str(self._target),
            remedy="Give --overwrite to replace it, or --variant NAME to keep both",
        )


def _stamp(path: Path) -> tuple[int, int] | None:
    """What tells one file from the next in its place; it stays when the file gets another name."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
