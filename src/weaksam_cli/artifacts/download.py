"""Download of a published file: the one place of the program that touches the network, and only when asked to.

The bytes arrive in `<name>.part`, which an interrupted download leaves and the next one goes on from; the file gets its name
when its size and checksum are right. The transfer is ours: libraries for it (pooch) start from nothing each time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from weaksam_cli.console import Console, byte_progress, size
from weaksam_cli.errors import UserError

if TYPE_CHECKING:
    from requests import Response

_BLOCK = 1 << 16
"""Bytes that are read at once; an interruption loses no more than these."""
_TIMEOUT = (10.0, 60.0)
"""Seconds until a connection stands, and between two blocks."""


@dataclass(frozen=True)
class Download:
    """A published file.

    Attributes:
        name: of the file.
        url: where it is.
        checksum: for people.
        algorithm, digest: what it is compared with: the hexadecimal digest, or its first digits; None when nothing is known.
        size: bytes; None when it is not known.
        command: what fetches it.
        place: how another folder is named.
    """

    name: str
    url: str
    checksum: str
    algorithm: Literal["sha256", "md5"]
    digest: str | None
    size: int | None
    command: str
    place: str


def fetch_file(entry: Download, folder: Path, console: Console, *, unverified: bool = False) -> Path:
    """Download a file that is not there yet.

    Args:
        entry: what to download.
        folder: where to; it is made.
        console: shows the progress.
        unverified: take a file that nothing is known to compare with.

    Returns:
        The file, complete and compared with its checksum.

    Raises:
        UserError: it has no checksum, the server is out of reach or answers something else, the transfer broke off, or what
            came is not the published file, which is then removed.
    """
    if entry.digest is None and not unverified:
        raise UserError(
            "no checksum of this file is known, so what arrives cannot be verified",
            where=entry.name,
            remedy=f"If you trust {urlsplit(entry.url).hostname}: {entry.command} --unverified {entry.name}",
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UserError(
            "cannot be written to", where=str(folder), remedy=f"Name another folder with {entry.place}"
        )
    console.info(f"fetching {entry.name} from {entry.url}", file=entry.name, url=entry.url)
    part = folder / f"{entry.name}.part"
    with locked(part, "another process is fetching this file") as handle:
        _complete(entry, part, handle, console)
        handle.flush()
        os.fsync(handle.fileno())
        if not is_published(entry, part):
            part.unlink()
            kind = "SHA-256" if entry.algorithm == "sha256" else entry.algorithm.upper()
            what = f"what was sent has another {kind} than {entry.checksum}; it was removed"
            remedy = (
                "Try again; if it stays so, something on the way changes the file, or it was published anew"
            )
            raise UserError(what, where=entry.url, remedy=remedy)
        return part.replace(folder / entry.name)


def is_published(entry: Download, path: Path) -> bool:
    """Whether a file has the published size and checksum, as far as they are known."""
    if entry.size not in (None, path.stat().st_size):
        return False
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, lambda: hashlib.new(entry.algorithm, usedforsecurity=False))
    return found.hexdigest().startswith(entry.digest or "")


@contextmanager
def locked(path: Path, otherwise: str) -> Iterator[IO[bytes]]:
    """A file, open for this process alone; it is removed at the end if it is empty.

    Raises:
        UserError: another process has it; `otherwise` says so.
    """
    import fcntl

    with path.open("ab") as handle:
        busy = UserError(otherwise, where=str(path), remedy="Wait for it")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy from error
        # The other process may have finished, and renamed what was opened here, before the lock was free.
        if not path.exists() or path.stat().st_ino != os.fstat(handle.fileno()).st_ino:
            raise busy
        try:
            yield handle
        finally:
            handle.flush()
            if not os.fstat(handle.fileno()).st_size:  # nothing arrived, nothing to go on from
                path.unlink(missing_ok=True)


def _complete(entry: Download, part: Path, handle: IO[bytes], console: Console) -> None:
    """Fill the file up to its end."""
    # Without a checksum, nothing would tell that the two halves are of two different files.
    have = handle.seek(0, os.SEEK_END) if entry.digest else 0
    if entry.size is not None and have > entry.size:
        have = 0
    handle.truncate(have)
    if have and have == entry.size:
        return
    with _request(entry, have, part) as response:
        if response is None:  # it was complete, and only the server knew
            return
        have = have if response.status_code == HTTPStatus.PARTIAL_CONTENT else 0
        handle.truncate(have)
        total = _announced(entry, response, have)
        needed, free = (total or 0) - have, shutil.disk_usage(part.parent).free
        if free < needed:
            what = f"{size(needed)} are needed, {size(free)} are free"
            remedy = f"Make room, or name another folder with {entry.place}"
            raise UserError(what, where=str(part.parent), remedy=remedy)
        if have:
            console.info(f"going on after {size(have)} of {entry.name}", resumed=have)
        with byte_progress(console, entry.name, total or 0, have) as advance:
            _receive(response, handle, entry.url, total, advance)


@contextmanager
def _request(entry: Download, have: int, part: Path) -> Iterator[Response | None]:
    """The server's answer with the bytes after the first `have`, or with all; None when there are none after these."""
    import requests

    url = entry.url
    # A compressed answer would have other offsets.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    except requests.RequestException as error:
        raise UserError(
            f"cannot reach {urlsplit(url).hostname} ({type(error).__name__})",
            where=entry.command,
            remedy=f"Without a network here, get {url} elsewhere and put it into {part.parent}",
        ) from error
    with response:
        sent = response.headers.get("Content-Range", "")
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and sent == f"bytes */{have}":
            yield None
            return
        resumed = response.status_code == HTTPStatus.PARTIAL_CONTENT
        if not response.ok or (resumed and not sent.startswith(f"bytes {have}-")):
            raise UserError(
                f"the server answers {response.status_code} {response.reason} {sent}".strip(),
                where=url,
                remedy=f"Try again later, or remove {part}" if have else "Try again later, or get it by hand",
            )
        yield response


def _announced(entry: Download, response: Response, have: int) -> int | None:
    """Bytes of the whole file, as the catalogue and the server say."""
    length = response.headers.get("Content-Length", "")
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    announced = have + int(length) if length.isdigit() and not encoded else None
    if None not in (announced, entry.size) and announced != entry.size:
        raise UserError(
            f"the server offers a file of {announced} bytes, expected {entry.size}",
            where=entry.url,
            remedy="It was published anew, or this is no longer its address",
        )
    return entry.size or announced


def _receive(
    response: Response, handle: IO[bytes], url: str, total: int | None, advance: Callable[[int], None]
) -> None:
    """Append what arrives, up to the end.

    Raises:
        UserError: it ends before, or does not end there.
    """
    import requests

    fault: Exception | None = None
    try:
        for block in response.iter_content(_BLOCK):
            handle.write(block)
            advance(len(block))
            if total is not None and handle.tell() > total:
                handle.truncate(0)
                raise UserError(f"the server sends more than the {total} bytes of the file", where=url)
    except requests.RequestException as error:
        fault = error
    have = handle.tell()
    if fault or (total is not None and have < total):
        of_total = f" of {size(total)}" if total is not None else ""
        raise UserError(
            f"the transfer broke off after {size(have)}{of_total}",
            where=url,
            remedy="The same command goes on from there",
        ) from fault
