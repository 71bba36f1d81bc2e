"""Unpacking published archives: nothing leaves the folder, no links, no devices, no bombs; whole or not at all."""

from __future__ import annotations

import errno
import filecmp
import os
import shlex
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, Final

from weaksam_cli.artifacts.download import locked
from weaksam_cli.console import Console, byte_progress, size
from weaksam_cli.core.names import first_few
from weaksam_cli.errors import UserError

_TAR: Final = "mkdir -p {folder} && tar -xf {file} -C {folder}"
_COMMANDS: Final = {
    ".zip": "python -m zipfile -e {file} {folder}",
    **dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"), _TAR),
    **dict.fromkeys((".7z", ".rar"), "7z x {file} -o{folder}"),
}
_MAX_RATIO: Final = 20
"""Images do not shrink: what unpacks to more than this is no archive of images."""
_SLACK: Final = 1000**3
_MAX_MEMBERS: Final = 1_000_000
_MAX_NAME: Final = 255
_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class _Member:
    """A file in an archive.

    Attributes:
        name: its path there.
        size: bytes, as announced.
        is_plain: no link, no device, nothing packed in an unusual way.
        file: as the library knows it.
    """

    name: str
    size: int
    is_plain: bool
    file: Any


_Members = tuple[Iterable[_Member], Callable[[_Member], IO[bytes] | None]]


def refuse_archive(path: Path) -> None:
    """Refuse an archive where a folder is wanted.

    Raises:
        UserError: it is one; the command that unpacks it.
    """
    suffix = next((suffix for suffix in _COMMANDS if path.name.lower().endswith(suffix)), None)
    if suffix is not None and os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for a name that is too long
        folder = path.with_name(path.name[: -len(suffix)] or "unpacked")
        command = _COMMANDS[suffix].format(file=shlex.quote(str(path)), folder=shlex.quote(str(folder)))
        remedy = f"Unpack it, and give the folder: {command}"
        raise UserError("is an archive", where=str(path), remedy=remedy)


def unpack(archive: Path, folder: Path, console: Console, *, last: str = "", overwrite: bool = False) -> None:
    """Unpack a zip file or an uncompressed tar file into a folder that may hold other things already.

    All is unpacked beside these first; then each file gets its place. A run that was killed is begun anew.

    Args:
        archive: the file.
        folder: where to; it is made.
        console: shows the progress.
        last: what gets its place when all else has its own: where it is there, everything is.
        overwrite: replace files that are there with other contents.

    Raises:
        UserError: it is damaged or no such archive, has a member that leaves the folder, is a link or a device, stands twice
            or with another size than announced, or unpacks to far more than its size; the disk is full; a file is there
            with other contents; or another process is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{archive.name}.unpacking"
    with locked(folder / f".{archive.name}.lock", "another process is unpacking this archive"):
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()  # never one that is there: it may be a link
        try:
            _write_all(archive, beside, console)
            _check_what_is_there(beside, folder, overwrite)
            at_last = beside / last
            _merge(beside, folder, {at_last, *at_last.parents})
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _write_all(archive: Path, folder: Path, console: Console) -> None:
    try:
        with _opened(archive) as (offered, read):
            members = _checked(offered, archive)
            total = sum(member.size for member in members)
            if total > (free := shutil.disk_usage(folder).free):
                what = f"{size(total)} are needed to unpack it, {size(free)} are free"
                raise UserError(what, where=str(archive), remedy="Make room")
            with byte_progress(console, f"unpacking {archive.name}", total) as advance:
                for member in members:
                    _write(folder / PurePosixPath(member.name), member, read(member), archive)
                    advance(member.size)
    except UserError:
        raise
    except (
        Exception
    ) as error:  # foreign bytes raise errors of any type, and lead to places before the file's beginning
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        what = f"the archive is damaged or of a kind that is not read ({error})"
        raise UserError(what, where=str(archive), remedy="Remove it and fetch it again") from error


@contextmanager
def _opened(archive: Path) -> Iterator[_Members]:
    """The files in an archive, and what opens one of them."""
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive) as packed:
            yield _zip_members(packed), lambda member: packed.open(member.file)
    else:
        with tarfile.open(archive, "r:") as packed_tar:
            yield _tar_members(packed_tar), lambda member: packed_tar.extractfile(member.file)


def _zip_members(packed: zipfile.ZipFile) -> Iterator[_Member]:
    for info in packed.infolist():
        if not info.is_dir():
            is_file = info.external_attr >> 28 in (0, 8)
            is_usual = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            is_open = not info.flag_bits & 1
            yield _Member(info.filename, info.file_size, is_file and is_usual and is_open, info)


def _tar_members(packed: tarfile.TarFile) -> Iterator[_Member]:
    # One after the other: a size below zero leads back to an earlier member, without an end.
    for info in packed:
        if not info.isdir():
            yield _Member(info.name, info.size, info.isreg() and not info.issparse(), info)


def _checked(members: Iterable[_Member], archive: Path) -> list[_Member]:
    """All members, after a look at each."""
    packed, total = archive.stat().st_size, 0
    found: dict[PurePosixPath, _Member] = {}
    for member in members:
        path = PurePosixPath(member.name)
        drive = PureWindowsPath(member.name).drive
        _refuse(member, archive, {
            "leaves the folder": path.is_absolute() or ".." in path.parts or "\\" in member.name or bool(drive),
            "is a link, a device, or packed in an unusual way": not member.is_plain,
            "has a name that no file can have": not path.parts or "\0" in member.name
            or any(len(os.fsencode(part)) > _MAX_NAME for part in path.parts),
            f"announces a size of {member.size}": member.size < 0,
            "stands twice": path in found,
        })  # fmt: skip
        found[path] = member
        total += member.size
        if total > _MAX_RATIO * packed + _SLACK or len(found) > _MAX_MEMBERS:
            what = f"{size(packed)} unpack to {size(total)} or more in {len(found)} or more files"
            raise UserError(what, where=str(archive), remedy="This is no archive of images; do not unpack it")
    folders = {parent for path in found for parent in path.parents}
    for path, member in found.items():
        _refuse(member, archive, {"is a file and a folder": path in folders})
    return list(found.values())


def _refuse(member: _Member, archive: Path, faults: dict[str, bool]) -> None:
    fault = next((what for what, is_so in faults.items() if is_so), None)
    if fault is not None:
        remedy = "Fetch it again from its publisher, or unpack it yourself if you trust it"
        raise UserError(f"its member {member.name[:200]!r} {fault}", where=str(archive), remedy=remedy)


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
    what = f"has not the size {member.size} that it announces"
    _refuse(member, archive, {what: written != member.size})


def _check_what_is_there(beside: Path, folder: Path, overwrite: bool) -> None:
    """Refuse to replace what lies in the folder with other contents."""
    others = []
    for path in sorted(beside.rglob("*")):
        target = folder / path.relative_to(beside)
        if path.is_dir():
            fits = target.is_dir()
        else:
            fits = target.is_file() and (overwrite or filecmp.cmp(path, target, shallow=False))
        if os.path.lexists(target) and not fits:
            others.append(str(target))
    if others:
        what = f"other files than the published ones are there: {first_few(others, 3)}"
        raise UserError(what, where=str(folder), remedy="Move them away, or give --overwrite to replace them")


def _merge(source: Path, target: Path, at_last: set[Path]) -> None:
    """Give a file, or all in a folder, its place: a folder that is not there yet at once."""
    if source.is_dir() and target.is_dir():
        for path in sorted(source.iterdir(), key=lambda child: (child in at_last, child.name)):
            _merge(path, target / path.name, at_last)
    else:
        shutil.move(source, target)  # the target may be on another disk, behind a link
