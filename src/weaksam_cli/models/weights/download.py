"""Download of a published weights file: the one place of the program that touches the network, and only when asked to.

The bytes arrive in `<name>.part`, which an interrupted download leaves and the next one goes on from; the file gets its name
when its size and SHA-256 are right. `pooch` decides what is fetched and compares the SHA-256; the transfer is ours, because
pooch's own starts from nothing each time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from weaksam_cli.artifacts import digest
from weaksam_cli.console import Console, size
from weaksam_cli.errors import UserError
from weaksam_cli.models.weights.catalogue import WeightsFile
from weaksam_cli.models.weights.check import byte_progress

if TYPE_CHECKING:
    from requests import Response

PART_SUFFIX = ".part"
_BLOCK = 1 << 16
"""Bytes that are read at once; an interruption loses no more than these."""
_TIMEOUT = (10.0, 60.0)
"""Seconds until a connection stands, and between two blocks."""


def fetch_file(entry: WeightsFile, folder: Path, console: Console, *, unverified: bool = False) -> Path:
    """Download a file that is not there yet.

    Args:
        entry: what to download.
        folder: where to; it is made.
        console: shows the progress.
        unverified: take a file that nothing is known to compare with.

    Returns:
        The file, complete and compared with its checksum.

    Raises:
        UserError: it has no address or no checksum, the server is out of reach or answers something else, the transfer broke
            off, or what came is not the published file, which is then removed.
    """
    if entry.url is None:
        raise UserError(
            "only a browser gets this file", where=entry.name, remedy=f"Put it into {folder}: {entry.origin}"
        )
    if not entry.pinned and not unverified:
        raise UserError(
            "no checksum of this file is known, so what arrives cannot be verified",
            where=entry.name,
            remedy=f"If you trust {urlsplit(entry.url).hostname}: weaksam weights fetch --unverified {entry.name}",
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UserError(
            "cannot be written to", where=str(folder), remedy="Name another folder with --weights-dir"
        )
    console.info(f"fetching {entry.name} from {entry.url}", file=entry.name, url=entry.url)
    return _retrieve(entry, entry.url, folder, console)


def _retrieve(entry: WeightsFile, url: str, folder: Path, console: Console) -> Path:
    import pooch

    # pooch speaks through a logger of its own; here everything goes through `console`.
    pooch.get_logger().setLevel("ERROR")
    try:
        found = pooch.retrieve(
            url,
            known_hash=f"sha256:{entry.sha256}" if entry.sha256 else None,
            fname=entry.name,
            path=folder,
            downloader=_ResumingDownload(entry, folder / f"{entry.name}{PART_SUFFIX}", console),
        )
    except ValueError as error:
        raise _not_the_published(entry, url) from error
    return Path(found)


def _not_the_published(entry: WeightsFile, url: str) -> UserError:
    return UserError(
        f"what was sent has another SHA-256 than {entry.sha256 or entry.sha256_prefix}; it was removed",
        where=url,
        remedy="Try again; if it stays so, something between here and there changes the file, or it was published anew",
    )


@dataclass(frozen=True)
class _ResumingDownload:
    """What `pooch` calls to download: the transfer, with what an earlier one left.

    Attributes:
        entry: what is downloaded.
        part: the file that grows.
        console: shows the progress.
    """

    entry: WeightsFile
    part: Path
    console: Console

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Put the whole of `url` under the name `output_file`."""
        with _locked(self.part) as handle:
            self._complete(url, handle)
            handle.flush()
            os.fsync(handle.fileno())
            if self.entry.sha256_prefix and not self.entry.has_digest(digest.of_file(self.part)):
                self.part.unlink()
                raise _not_the_published(self.entry, url)
            self.part.replace(output_file)

    def _complete(self, url: str, handle: IO[bytes]) -> None:
        """Fill the file up to its end."""
        # Without a checksum, nothing would tell that the two halves are of two different files.
        have = handle.seek(0, os.SEEK_END) if self.entry.pinned else 0
        if self.entry.size is not None and have >= self.entry.size:
            have = have if have == self.entry.size else 0
        handle.truncate(have)
        if have and have == self.entry.size:
            return
        with _request(url, have, self.part) as response:
            if response is None:  # it was complete, and only the server knew
                return
            have = have if response.status_code == HTTPStatus.PARTIAL_CONTENT else 0
            handle.truncate(have)
            total = self._announced(response, url, have)
            _require_space(self.part.parent, (total or 0) - have)
            have = self._receive(response, handle, url, have, total)
        if total is not None and have < total:
            raise _broken_off(url, have, total)

    def _announced(self, response: Response, url: str, have: int) -> int | None:
        """Bytes of the whole file, as the catalogue and the server say."""
        length = response.headers.get("Content-Length", "")
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        announced = have + int(length) if length.isdigit() and not encoded else None
        if None not in (announced, self.entry.size) and announced != self.entry.size:
            raise UserError(
                f"the server offers a file of {announced} bytes, expected {self.entry.size}",
                where=url,
                remedy="It was published anew, or this is no longer its address",
            )
        return self.entry.size or announced

    def _receive(self, response: Response, handle: IO[bytes], url: str, have: int, total: int | None) -> int:
        """Append what arrives; returns how many bytes there are then."""
        import requests

        if have:
            self.console.info(f"going on after {size(have)} of {self.entry.name}", resumed=have)
        with byte_progress(self.console, self.entry.name, total or 0, have) as advance:
            try:
                for block in response.iter_content(_BLOCK):
                    handle.write(block)
                    have += len(block)
                    advance(len(block))
            except requests.RequestException as error:
                raise _broken_off(url, have, total) from error
        return have


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """The unfinished file, open for this process alone."""
    import fcntl

    with part.open("ab") as handle:
        busy = UserError("another process is fetching this file", where=str(part), remedy="Wait for it")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy from error
        # The other process may have finished, and renamed what was opened here, before the lock was free.
        if not part.exists() or part.stat().st_ino != os.fstat(handle.fileno()).st_ino:
            raise busy
        try:
            yield handle
        finally:
            handle.flush()
            if not os.fstat(handle.fileno()).st_size:  # nothing arrived, nothing to go on from
                part.unlink(missing_ok=True)


@contextmanager
def _request(url: str, have: int, part: Path) -> Iterator[Response | None]:
    """The server's answer with the bytes after the first `have`, or with all; None when there are none after these."""
    import requests

    # A compressed answer would have other offsets.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    except requests.RequestException as error:
        raise UserError(
            f"cannot reach {urlsplit(url).hostname} ({type(error).__name__})",
            where="weaksam weights fetch",
            remedy=f"Without a network here, get {url} elsewhere and put it into {part.parent}",
        ) from error
    with response:
        content_range = response.headers.get("Content-Range", "")
        if (
            response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            and content_range == f"bytes */{have}"
        ):
            yield None
            return
        resumed = response.status_code == HTTPStatus.PARTIAL_CONTENT
        if not response.ok or (resumed and not content_range.startswith(f"bytes {have}-")):
            raise UserError(
                f"the server answers {response.status_code} {response.reason} {content_range}".strip(),
                where=url,
                remedy=f"Try again later, or remove {part}" if have else "Try again later, or get it by hand",
            )
        yield response


def _broken_off(url: str, have: int, total: int | None) -> UserError:
    of_total = f" of {size(total)}" if total is not None else ""
    return UserError(
        f"the transfer broke off after {size(have)}{of_total}",
        where=url,
        remedy="The same command goes on from there",
    )


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{size(needed)} are needed, {size(free)} are free",
            where=str(folder),
            remedy="Make room, or name another folder with --weights-dir",
        )
