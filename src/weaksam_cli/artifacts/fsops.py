"""The one seam through which the program changes the file system.

Every artifact, shard, receipt and checkpoint is written by these few operations, so a test can make the k-th of them fail,
for every k, and look at what is left.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

TEMPORARY: Final = re.compile(r"\..+\.([0-9a-f]{8})-([0-9]{1,7})-[0-9a-f]{8}\.tmp")
"""Names of temporary files (`FileOps.temporary_name`): the machine, the process, a random word."""
_FOREIGN_SECONDS = 24 * 3600
"""A temporary file of another machine that nobody has written to for this long was left by a dead process."""


class FileOps:
    """Write, fsync, rename, and nothing that leaves half a file under its final name."""

    def before(self, operation: str, path: Path) -> None:
        """Called before each operation; a subclass raises here to simulate a fault of the disk."""

    def make_directory(self, path: Path) -> None:
        """Create `path` and its parents."""
        if not path.is_dir():
            self.before("mkdir", path)
            path.mkdir(parents=True, exist_ok=True)

    def temporary_name(self, path: Path) -> Path:
        """A name beside `path` that no other process uses."""
        owner = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
        return path.with_name(f".{path.name}.{owner}.tmp")

    def write_atomically(self, path: Path, data: bytes) -> None:
        """Put `data` under the name `path`: readers see all of it or what stood there before."""

        def fill(temporary: Path) -> None:
            self.before("write", temporary)
            with temporary.open("xb") as file:
                file.write(data)

        self.build_atomically(path, fill)

    def build_atomically(self, path: Path, fill: Callable[[Path], None]) -> None:
        """Let `fill` write a temporary file, then sync it to disk and give it the name `path`."""
        self.make_directory(path.parent)
        temporary = self.temporary_name(path)
        try:
            fill(temporary)
            self.sync_file(temporary)
            self.before("replace", path)
            self._publish(temporary, path)
            self.sync_directory(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def link_atomically(self, path: Path, target: Path) -> None:
        """Put a symbolic link to `target` under the name `path`."""
        self.make_directory(path.parent)
        temporary = self.temporary_name(path)
        try:
            self.before("symlink", temporary)
            temporary.symlink_to(target)
            self.before("replace", path)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def _publish(self, temporary: Path, path: Path) -> None:
        """Give a file its name; a name that another process took in the meantime is looked at once more."""
        if os.path.lexists(path):
            temporary.replace(path)
            return
        try:
            os.link(temporary, path)
        except FileExistsError:
            self.before("replace", path)
            temporary.replace(path)
        except OSError:  # file systems without hard links
            temporary.replace(path)
        else:
            temporary.unlink()

    def sync_file(self, path: Path) -> None:
        """Wait until the contents of `path` are on the disk."""
        self.before("fsync", path)
        with path.open("rb") as handle:
            os.fsync(handle.fileno())

    def sync_directory(self, path: Path) -> None:
        """Wait until the names in `path` are on the disk; file systems that cannot are left alone."""
        self.before("fsync-directory", path)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file that may be gone already."""
        self.before("remove", path)
        path.unlink(missing_ok=True)

    def remove_stale_temporaries(self, directory: Path) -> list[Path]:
        """Remove temporary files that processes which are no longer running left in `directory`.

        Of another machine's processes nothing is known: their files go when nobody has written to them for a day.
        """
        removed = []
        for path in directory.iterdir() if directory.is_dir() else ():
            if _is_stale(path):
                self.remove(path)
                removed.append(path)
        return removed


def _host() -> str:
    """A short word for this machine: process numbers mean something on one machine only."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_stale(path: Path) -> bool:
    name = TEMPORARY.fullmatch(path.name)
    if name is None:
        return False
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode):
        return False
    if name[1] == _host():
        return not _is_running(int(name[2]))
    return time.time() - found.st_mtime > _FOREIGN_SECONDS


def _is_running(process: int) -> bool:
    if process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
