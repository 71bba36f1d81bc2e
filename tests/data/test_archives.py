"""Archives from anywhere: unpacked whole, or refused with the member's name and nothing outside the folder."""

from __future__ import annotations

import contextlib
import fcntl
import io
import random
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from weaksam_cli.console import Console, Mode
from weaksam_cli.data import archives
from weaksam_cli.data.archives import refuse_archive, unpack
from weaksam_cli.errors import UserError

Make = Callable[[Path], Path]


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


def zip_of(path: Path, *members: tuple[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as packed:
        for name, data in members:
            packed.writestr(name, data)
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


FILES = (("VOC/a.jpg", b"one"), ("VOC/sub/b.jpg", b"two"))
BOTH: tuple[Make, ...] = (
    lambda path: tar_of(path / "a.tar", *FILES),
    lambda path: zip_of(path / "a.zip", *FILES),
)


@pytest.mark.parametrize("make", BOTH)
def test_unpacked_beside_what_is_there(tmp_path: Path, make: Make) -> None:
    archive, folder = make(tmp_path), tmp_path / "datasets"
    (folder / "VOC").mkdir(parents=True)
    (folder / "VOC" / "a.jpg").write_bytes(b"one")
    (folder / "VOC" / "c.jpg").write_bytes(b"three")
    for _ in range(2):
        unpack(archive, folder, console())
        assert files_below(folder) == {
            "VOC/a.jpg": b"one",
            "VOC/sub/b.jpg": b"two",
            "VOC/c.jpg": b"three",
        }


def test_other_files_that_are_there_are_replaced_when_asked_to(tmp_path: Path) -> None:
    archive, folder = BOTH[0](tmp_path), tmp_path / "datasets"
    (folder / "VOC").mkdir(parents=True)
    (folder / "VOC" / "a.jpg").write_bytes(b"my own")
    before = files_below(folder)
    with pytest.raises(UserError, match=r"other files .* are there: .*datasets/VOC/a\.jpg.*--overwrite"):
        unpack(archive, folder, console())
    assert files_below(folder) == before
    unpack(archive, folder, console(), overwrite=True)
    assert files_below(folder) == dict(FILES)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_or_a_dangling_link_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    archive, folder = BOTH[1](tmp_path), tmp_path / "datasets"
    (folder / "VOC" / "a.jpg").mkdir(parents=True)
    (folder / "VOC" / "sub").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"VOC/a\.jpg, .*VOC/sub"):
        unpack(archive, folder, console(), overwrite=overwrite)
    assert not files_below(folder)


def test_links_of_the_user_are_followed(tmp_path: Path) -> None:
    """People keep `datasets/VOCdevkit` on a large disk."""
    archive, folder = BOTH[0](tmp_path), tmp_path / "datasets"
    (tmp_path / "large").mkdir()
    folder.mkdir()
    (folder / "VOC").symlink_to(tmp_path / "large")
    unpack(archive, folder, console())
    assert files_below(tmp_path / "large") == {"a.jpg": b"one", "sub/b.jpg": b"two"}


def test_a_link_in_place_of_our_own_folder_is_not_followed(tmp_path: Path) -> None:
    archive, folder, other = BOTH[0](tmp_path), tmp_path / "datasets", tmp_path / "other"
    other.mkdir()
    (other / "mine").touch()
    folder.mkdir()
    (folder / ".a.tar.unpacking").symlink_to(other)
    with pytest.raises(FileExistsError):
        unpack(archive, folder, console())
    assert list(files_below(other)) == ["mine"]


def test_what_says_that_all_is_there_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [
        (f"VOC/{name}", b"") for name in ("Annotations/1.xml", "Sets/Main/test.txt", "Sets/Z/z", "Zs/2")
    ]
    archive, folder, placed = tar_of(tmp_path / "a.tar", *members), tmp_path / "to", list[str]()
    for name, _ in members:
        (folder / name).parent.mkdir(parents=True)
    move = shutil.move

    def moved(source: Path, target: Path) -> None:
        placed.append(target.relative_to(folder).as_posix())
        move(source, target)

    monkeypatch.setattr("shutil.move", moved)
    unpack(archive, folder, console(), last="VOC/Sets/Main/test.txt")
    assert placed == ["VOC/Annotations/1.xml", "VOC/Zs/2", "VOC/Sets/Z/z", "VOC/Sets/Main/test.txt"]


def test_what_a_killed_run_left_is_begun_anew(tmp_path: Path) -> None:
    archive, folder = BOTH[0](tmp_path), tmp_path / "datasets"
    (folder / ".a.tar.unpacking" / "VOC").mkdir(parents=True)
    (folder / ".a.tar.unpacking" / "VOC" / "half.jpg").touch()
    unpack(archive, folder, console())
    assert files_below(folder) == dict(FILES)


def test_two_at_once(tmp_path: Path) -> None:
    archive, folder = BOTH[0](tmp_path), tmp_path / "datasets"
    folder.mkdir()
    with (folder / ".a.tar.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is unpacking this archive"):
            unpack(archive, folder, console())
    unpack(archive, folder, console())
    assert files_below(folder) == dict(FILES)


# ---------------------------------------------------------------- hostile ones
def _raw_tar(path: Path, *headers: bytes) -> Path:
    """A tar file of headers whose checksums are made right."""
    blocks = []
    for header in headers:
        block = bytearray(header)
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        blocks.append(bytes(block))
    return _write(path / "a.tar", b"".join(blocks) + bytes(1024))


def _header(name: str, size: bytes = b"00000000000\0", kind: bytes = b"0") -> bytes:
    block = bytearray(tarfile.TarInfo(name).tobuf())
    block[124:136], block[156:157] = size, kind
    return bytes(block)


NEGATIVE = b"\xff" * 10 + b"\xfe\0"
"""-512 in the binary form of a size."""


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _patched(archive: Path, old: bytes, new: bytes) -> Path:
    data = archive.read_bytes()
    assert old in data
    return _write(archive, data.replace(old, new))


def _with_attributes(path: Path, attributes: int) -> Path:
    with zipfile.ZipFile(path / "a.zip", "w") as packed:
        info = zipfile.ZipInfo("x")
        info.external_attr, info.create_system = attributes, 3
        packed.writestr(info, "/etc/passwd")
    return path / "a.zip"


def _sparse(path: Path) -> Path:
    """A kilobyte that says it is a terabyte with holes."""
    headers = {"GNU.sparse.size": str(10**12), "GNU.sparse.map": "0,1"}
    return tar_of(path / "a.tar", ("x", b"1"), pax_headers=headers)


LONG = "x" * 300
TAR, ZIP = "a.tar", "a.zip"


@pytest.mark.parametrize(
    ("make", "what"),
    [
        *[
            (lambda path, pack=pack, name=name, file=file: pack(path / file, (name, b"1")), what)
            for pack, file in ((tar_of, TAR), (zip_of, ZIP))
            for name, what in (
                ("../x", r"'\.\./x' leaves the folder"),
                ("a/../../x", "leaves the folder"),
                ("/tmp/x", "'/tmp/x' leaves the folder"),
                ("C:/x", "'C:/x' leaves the folder"),
                ("a\\..\\x", "leaves the folder"),
                ("//server/share/x", "leaves the folder"),
                (LONG, "'x{200}' has a name that no file can have"),
                ("a/" + "ä" * 200, "has a name that no file can have"),
            )
        ],
        (lambda path: tar_of(path / TAR, (".", b"1")), "'.' has a name that no file can have"),
        (lambda path: tar_of(path / TAR, ("x", b"1"), ("./x", b"2")), "'./x' stands twice"),
        (lambda path: zip_of(path / ZIP, ("x", b"1"), ("./x", b"2")), "'./x' stands twice"),
        (lambda path: tar_of(path / TAR, ("x", b"1"), ("x/y", b"2")), "'x' is a file and a folder"),
        (lambda path: zip_of(path / ZIP, ("x/y/z", b"1"), ("x", b"2")), "'x' is a file and a folder"),
        *[
            (lambda path, kind=kind: tar_of(path / TAR, ("x", b""), type=kind, linkname="/etc"), "'x' is a link")
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)
        ],
        (lambda path: _with_attributes(path, 0o120777 << 16), "'x' is a link"),
        (lambda path: _with_attributes(path, 0o020666 << 16), "'x' is a link, a device"),
        (lambda path: zip_of(path / ZIP, *FILES, packing=zipfile.ZIP_LZMA), "packed in an unusual way"),
        (lambda path: zip_of(path / ZIP, *FILES, packing=zipfile.ZIP_BZIP2), "packed in an unusual way"),
        (_sparse, "'x' is a link, a device, or packed in an unusual way"),
        (lambda path: _raw_tar(path, _header("a"), _header("x", NEGATIVE)), "'x' announces a size of -512"),
        (lambda path: _raw_tar(path, _header("x", NEGATIVE, b"Z")), "'x' is a link"),
        (lambda path: _raw_tar(path, _header("x", b"77777777777\0")), "unpack to 8.6 GB"),
        (lambda path: _raw_tar(path, _header("x", b"00000004000\0")), "damaged|has not the size"),
        (lambda path: tar_of(path / TAR, *FILES, mode="w:gz"), "damaged or of a kind that is not read"),
        (lambda path: _write(path / TAR, b"no archive at all" * 99), "damaged"),
        (lambda path: _write(path / ZIP, b"no archive at all" * 99), "damaged"),
        (lambda path: _write(path / TAR, b""), "damaged"),
        (lambda path: _write(path / ZIP, b""), "damaged"),
        (lambda path: _patched(zip_of(path / ZIP, ("ä", b"1")), b"\xc3\xa4", b"\xc3("), "damaged"),
        (lambda path: zip_of(path / TAR, *FILES), "damaged"),
    ],
)  # fmt: skip
def test_hostile_archives(tmp_path: Path, make: Make, what: str) -> None:
    (tmp_path / "in").mkdir()
    archive = make(tmp_path / "in")
    with pytest.raises(UserError, match=what) as caught:
        unpack(archive, tmp_path / "deep" / "datasets", console())
    assert "\n" not in caught.value.one_line()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("seed", range(8))
def test_damage_is_found_or_does_no_harm(tmp_path: Path, make: Make, seed: int) -> None:
    whole = make(tmp_path).read_bytes()
    archive, folder = tmp_path / make(tmp_path).name, tmp_path / "datasets"
    generator = random.Random(seed)
    for _ in range(40):
        data = bytearray(whole[: generator.choice([len(whole), generator.randrange(1, len(whole))])])
        for _ in range(generator.randrange(4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        archive.write_bytes(data)
        with contextlib.suppress(UserError):
            unpack(archive, folder, console(), overwrite=True)
        assert {path.name for path in tmp_path.iterdir()} <= {archive.name, folder.name}
        assert not list(folder.glob(".*"))


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_SLACK", 0)
    archive = zip_of(tmp_path / "a.zip", ("a", bytes(10_000_000)))
    with pytest.raises(UserError, match=r"9\.\d kB unpack to 10\.0 MB"):
        unpack(archive, tmp_path / "to", console())
    monkeypatch.setattr(archives, "_MAX_MEMBERS", 1)
    with pytest.raises(UserError, match="in 2 or more files"):
        unpack(zip_of(tmp_path / "b.zip", *FILES), tmp_path / "to", console())


def test_a_member_that_is_longer_than_it_says(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", ("x", bytes(range(256)) * 20), packing=zipfile.ZIP_STORED)
    said = (5120).to_bytes(4, "little")
    data = archive.read_bytes()
    at = data.rindex(said)
    archive.write_bytes(data[:at] + (100).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(UserError, match=r"damaged|announces"):
        unpack(archive, tmp_path / "to", console())
    assert not files_below(tmp_path / "to")


def test_a_full_disk_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Free())
    with pytest.raises(UserError, match="6 B are needed to unpack it, 5 B are free"):
        unpack(zip_of(tmp_path / "a.zip", *FILES), tmp_path / "to", console())


class _Free:
    free = 5


# ---------------------------------------------------------------- where a folder is wanted
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (zip_of, "a set (1).v3i.coco.ZIP"),
        (zip_of, "it's.zip"),
        (tar_of, "export.tar"),
        (lambda path, *files: tar_of(path, *files, mode="w:gz"), "VOC $HOME.tar.gz"),
        (lambda path, *files: tar_of(path, *files, mode="w:gz"), "set.TGZ"),
    ],
)
def test_the_command_that_is_told_unpacks_it(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    archive = make(tmp_path / name, *FILES)
    with pytest.raises(UserError, match=r"is an archive\. Unpack it, and give the folder: ") as caught:
        refuse_archive(archive)
    command = (
        str(caught.value.remedy).partition(": ")[2].replace("python ", f"{shlex.quote(sys.executable)} ")
    )
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert name.startswith(folder.name)
    assert files_below(folder) == dict(FILES)


@pytest.mark.parametrize("name", ["a.7z", "b.rar"])
def test_what_needs_a_program(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"7z x \S+{name} -o\S+{name[0]}$"):
        refuse_archive(tmp_path / name)


def test_folders_and_other_files_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / "images.zip").mkdir()
    for name in ("images.zip", "none.zip", "labels.csv", f"{LONG}.zip"):
        refuse_archive(tmp_path / name)
