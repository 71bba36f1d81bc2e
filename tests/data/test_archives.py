"""Archives from anywhere: unpacked whole, or refused with the member's name and nothing outside the folder."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from weaksam_cli.console import Console, Mode
from weaksam_cli.data import archives
from weaksam_cli.data.archives import unpack
from weaksam_cli.errors import UserError


def console() -> Console:
    return Console(Mode.QUIET, io.StringIO(), io.StringIO())


def tar_of(path: Path, *members: tuple[str, bytes], mode: str = "w", **info: object) -> Path:
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, data in members:
            item = tarfile.TarInfo(name)
            item.size = len(data)
            for field, value in info.items():
                setattr(item, field, value)
            packed.addfile(item, io.BytesIO(data))
    return path


def zip_of(path: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members:
            packed.writestr(name, data)
    return path


FILES = (("VOC/a.jpg", b"one"), ("VOC/sub/b.jpg", b"two"))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: tar_of(path / "a.tar", *FILES),
        lambda path: tar_of(path / "a.tar.gz", *FILES, mode="w:gz"),
        lambda path: zip_of(path / "a.zip", *FILES),
    ],
)
def test_unpacked_beside_what_is_there(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    archive, folder = make(tmp_path), tmp_path / "datasets"
    (folder / "VOC").mkdir(parents=True)
    (folder / "VOC" / "a.jpg").write_bytes(b"half of it")
    (folder / "VOC" / "c.jpg").write_bytes(b"three")
    for _ in range(2):
        unpack(archive, folder, console())
        found = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert found == {"a.jpg": b"one", "b.jpg": b"two", "c.jpg": b"three"}
    assert [path.name for path in folder.iterdir()] == ["VOC"]


def _cut(path: Path) -> Path:
    archive = tar_of(path / "a.tar", ("a", bytes(5000)), ("b", bytes(5000)))
    archive.write_bytes(archive.read_bytes()[:8000])
    return archive


def _flipped(path: Path) -> Path:
    archive = zip_of(path / "a.zip", ("a", bytes(range(256)) * 20))
    data = bytearray(archive.read_bytes())
    data[60] ^= 0xFF
    archive.write_bytes(data)
    return archive


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: tar_of(path / "a.tar", ("../x", b"1")), r"'\.\./x' leaves the folder"),
        (lambda path: tar_of(path / "a.tar", ("/tmp/x", b"1")), "'/tmp/x' leaves the folder"),
        (lambda path: zip_of(path / "a.zip", ("../x", b"1")), r"'\.\./x' leaves the folder"),
        (lambda path: zip_of(path / "a.zip", ("C:/x", b"1")), "'C:/x' leaves the folder"),
        (lambda path: zip_of(path / "a.zip", ("a\\..\\x", b"1")), "leaves the folder"),
        (
            lambda path: tar_of(path / "a.tar", ("x", b""), type=tarfile.SYMTYPE, linkname="/etc"),
            "'x' is a link",
        ),
        (
            lambda path: tar_of(path / "a.tar", ("x", b""), type=tarfile.LNKTYPE, linkname="y"),
            "'x' is a link",
        ),
        (lambda path: tar_of(path / "a.tar", ("x", b""), type=tarfile.FIFOTYPE), "'x' is a link or a device"),
        (lambda path: tar_of(path / "a.tar", ("x", b"1"), ("./x", b"2")), "'./x' stands twice"),
        (_cut, "damaged"),
        (_flipped, "damaged"),
        (lambda path: _write(path / "a.tar", b"no archive at all" * 99), "damaged"),
        (lambda path: _write(path / "a.tar", b""), "damaged"),
    ],
)
def test_hostile_archives(tmp_path: Path, make: Callable[[Path], Path], what: str) -> None:
    (tmp_path / "in").mkdir()
    archive = make(tmp_path / "in")
    with pytest.raises(UserError, match=what):
        unpack(archive, tmp_path / "deep" / "datasets", console())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_SLACK", 0)
    archive = zip_of(tmp_path / "a.zip", ("a", bytes(10_000_000)))
    with pytest.raises(UserError, match=r"9\.\d kB unpack to 10\.0 MB"):
        unpack(archive, tmp_path / "to", console())
    monkeypatch.setattr(archives, "_MAX_MEMBERS", 1)
    with pytest.raises(UserError, match="2 members"):
        unpack(zip_of(tmp_path / "b.zip", *FILES), tmp_path / "to", console())


def test_a_full_disk_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: tarfile.os.statvfs_result and _Free())
    with pytest.raises(UserError, match="6 B are needed to unpack it, 5 B are free"):
        unpack(zip_of(tmp_path / "a.zip", *FILES), tmp_path / "to", console())


class _Free:
    free = 5
