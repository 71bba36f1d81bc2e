"""Unpacking archives from anywhere: nothing leaves the folder, no links, no devices, no bombs; whole or not at all."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, Final

from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.console import Console, byte_progress, size
from weaksam_cli.errors import UserError

SUFFIXES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".7z", ".rar")
_MAX_RATIO: Final = 20
"""Images do not shrink: what unpacks to more than this is no archive of images."""
_SLACK: Final = 1000**3
_MAX_MEMBERS: Final = 5_000_000
_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    file: Any


def unpack(archive: Path, folder: Path, console: Console) -> None:
    """Unpack a tar or zip file into a folder that may hold other things already.

    It is unpacked beside the folder first; then each file gets its place. A run that was killed is begun anew.

    Raises:
        UserError: it is damaged or no such archive, has a member that leaves the folder, is a link or a device, stands twice
            or with another size than announced, or unpacks to far more than its size; or the disk is full.
    """
    beside = folder / f".unpacking-{archive.name}"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with _opened(archive) as (members, read):
            total = _check(members, archive)
            if total > (free := shutil.disk_usage(archive.parent).free):
                what = f"{size(total)} are needed to unpack it, {size(free)} are free"
                raise UserError(what, where=str(archive), remedy="Make room")
            with byte_progress(console, f"unpacking {archive.name}", total) as advance:
                for member in members:
                    _write(beside / PurePosixPath(member.name), member, read(member), archive)
                    advance(member.size)
        _move(beside, folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        what = f"the archive is damaged or of a kind that is not read ({error})"
        raise UserError(what, where=str(archive), remedy="Remove it and fetch it again") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[list[_Member], Callable[[_Member], IO[bytes] | None]]]:
    """The files in an archive, and what opens one of them.

    Raises:
        UserError: a member is neither file nor folder.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            infos = [info for info in packed.infolist() if not info.is_dir()]
            odd = next((info.filename for info in infos if (info.external_attr >> 28) not in (0, 8)), None)
            _refuse(odd, "is no plain file", archive)
            yield (
                [_Member(info.filename, info.file_size, info) for info in infos],
                lambda item: packed.open(item.file),
            )
        return
    with tarfile.open(archive) as packed_tar:
        found = [info for info in packed_tar.getmembers() if not info.isdir()]
        odd = next((info.name for info in found if not info.isreg()), None)
        _refuse(odd, "is a link or a device", archive)
        yield (
            [_Member(info.name, info.size, info) for info in found],
            lambda item: packed_tar.extractfile(item.file),
        )


def _check(members: list[_Member], archive: Path) -> int:
    """Bytes of all members, after a look at their names."""
    if len(members) > _MAX_MEMBERS:
        raise UserError(f"the archive has {len(members)} members", where=str(archive))
    seen = set[str]()
    for member in members:
        path = PurePosixPath(member.name)
        leaves = (
            path.is_absolute()
            or ".." in path.parts
            or PureWindowsPath(member.name).drive
            or "\\" in member.name
        )
        _refuse(
            member.name if leaves or not path.parts or "\0" in member.name else None,
            "leaves the folder",
            archive,
        )
        _refuse(member.name if path.as_posix() in seen else None, "stands twice", archive)
        seen.add(path.as_posix())
    total = sum(member.size for member in members)
    packed = archive.stat().st_size
    if total > _MAX_RATIO * packed + _SLACK:
        what = f"{size(packed)} unpack to {size(total)}"
        raise UserError(what, where=str(archive), remedy="This is no archive of images; do not unpack it")
    return total


def _refuse(name: str | None, what: str, archive: Path) -> None:
    if name is not None:
        remedy = "Fetch it again from its publisher, or unpack it yourself if you trust it"
        raise UserError(f"its member {name[:200]!r} {what}", where=str(archive), remedy=remedy)


def _write(path: Path, member: _Member, stream: IO[bytes] | None, archive: Path) -> None:
    """One file, of exactly the size that was announced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with path.open("xb") as out:
        while stream is not None and (block := stream.read(_BLOCK)):
            written += len(block)
            if written > member.size:
                break
            out.write(block)
    if written != member.size:
        _refuse(member.name, f"has not the size {member.size} that it announces", archive)


def _move(beside: Path, folder: Path) -> None:
    """Give every file its place; what lies there already is replaced by the published file."""
    ops = FileOps()
    for path in sorted(beside.rglob("*")):
        target = folder / path.relative_to(beside)
        if path.is_dir():
            ops.make_directory(target)
        else:
            path.replace(target)
