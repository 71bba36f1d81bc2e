"""Download: whole, interrupted and gone on with, refused; against a server on this machine."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.weights.server import serving
from weaksam_cli.console import Console, Mode
from weaksam_cli.errors import UserError
from weaksam_cli.models.weights.catalogue import WeightsFile
from weaksam_cli.models.weights.download import fetch_file

CONTENT = np.random.default_rng(0).integers(0, 256, 700_001, dtype=np.uint8).tobytes()
NAME = "file.pth"
PART = "file.pth.part"
BLOCK = 1 << 16


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def entry(url: str, content: bytes = CONTENT, known: str = "sha256 size", **values: Any) -> WeightsFile:
    """A file whose size, SHA-256 or first digits (`prefix`) are known."""
    digest = hashlib.sha256(content).hexdigest()
    facts = {
        "sha256": ("sha256", digest),
        "prefix": ("sha256_prefix", digest[:8]),
        "size": ("size", len(content)),
    }
    pinned = dict(facts[word] for word in known.split())
    return WeightsFile(
        **{"name": NAME, "what": "a network", "origin": "a page", "url": url, **pinned, **values}
    )


def console() -> Console:
    return Console(Mode.HUMAN, io.StringIO(), io.StringIO())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal(item: WeightsFile, folder: Path, **options: Any) -> str:
    """The one line with which a download ends."""
    with pytest.raises(UserError) as caught:
        fetch_file(item, folder, console(), **options)
    line = caught.value.one_line()
    assert "\n" not in line
    return line


@pytest.mark.parametrize("known", ["sha256 size", "sha256", "prefix", "prefix size"])
@pytest.mark.parametrize("length", [1, 2, 6, 7, BLOCK, BLOCK + 1, len(CONTENT)])
def test_a_whole_file_arrives(tmp_path: Path, known: str, length: int) -> None:
    content = CONTENT[:length]
    with serving(content) as server:
        path = fetch_file(entry(server.url, content, known), tmp_path / "new" / "folder", console())
    assert path == tmp_path / "new" / "folder" / NAME
    assert path.read_bytes() == content
    assert names(path.parent) == [NAME]
    assert server.asked == [""]


def test_a_file_is_readable_as_others_are(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with serving(CONTENT) as server:
        path = fetch_file(entry(server.url), tmp_path, console())
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("known", ["sha256 size", "sha256", "prefix"])
@pytest.mark.parametrize("cut", [1 << 16, 500_000, len(CONTENT) - 1])
def test_an_interrupted_download_goes_on(tmp_path: Path, known: str, cut: int) -> None:
    with serving(CONTENT, breaks_after=cut) as server:
        item = entry(server.url, known=known)
        line = refusal(item, tmp_path)
        assert "the transfer broke off after" in line
        assert line.endswith("The same command goes on from there")
        assert names(tmp_path) == [PART]
        have = (tmp_path / PART).stat().st_size
        assert cut - BLOCK < have <= cut
        server.breaks_after = None
        assert fetch_file(item, tmp_path, console()).read_bytes() == CONTENT
        assert server.asked == ["", f"bytes={have}-"]
        assert server.sent == cut + len(CONTENT) - have
    assert names(tmp_path) == [NAME]


@pytest.mark.parametrize("cut", [0, 1])
def test_an_interruption_before_the_first_block_leaves_nothing(tmp_path: Path, cut: int) -> None:
    with serving(CONTENT, breaks_after=cut) as server:
        assert "broke off after 0 B of 700.0 kB" in refusal(entry(server.url), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("cut", [1 << 16, 500_000])
def test_a_server_that_cannot_begin_in_the_middle_sends_all_again(tmp_path: Path, cut: int) -> None:
    with serving(CONTENT, breaks_after=cut, ranges=False) as server:
        refusal(entry(server.url), tmp_path)
        have = (tmp_path / PART).stat().st_size
        server.breaks_after = None
        assert fetch_file(entry(server.url), tmp_path, console()).read_bytes() == CONTENT
        assert server.asked == ["", f"bytes={have}-"]
        assert server.sent == cut + len(CONTENT)
    assert names(tmp_path) == [NAME]


@settings(max_examples=15)
@given(st.lists(st.integers(1, 300_000), max_size=5), st.booleans())
def test_any_number_of_interruptions(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], ranges: bool
) -> None:
    folder = tmp_path_factory.mktemp("cuts")
    with serving(CONTENT, ranges=ranges) as server:
        for cut in cuts:
            server.breaks_after = cut
            if cut >= len(CONTENT) - sum(path.stat().st_size for path in folder.iterdir()):
                break
            refusal(entry(server.url), folder)
        server.breaks_after = None
        assert fetch_file(entry(server.url), folder, console()).read_bytes() == CONTENT
    assert names(folder) == [NAME]


def test_a_killed_download_goes_on(tmp_path: Path) -> None:
    code = (
        "import sys, io; from pathlib import Path\n"
        "from weaksam_cli.console import Console, Mode; from weaksam_cli.models.weights.catalogue import WeightsFile\n"
        "from weaksam_cli.models.weights.download import fetch_file\n"
        "item = WeightsFile.model_validate_json(sys.argv[1])\n"
        "fetch_file(item, Path(sys.argv[2]), Console(Mode.HUMAN))\n"
    )
    with serving(CONTENT, pauses_after=300_000) as server:
        item = entry(server.url)
        process = subprocess.Popen([sys.executable, "-c", code, item.model_dump_json(), str(tmp_path)])
        deadline = time.monotonic() + 60
        while not ((tmp_path / PART).is_file() and (tmp_path / PART).stat().st_size >= BLOCK):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        server.pauses_after = None
        have = (tmp_path / PART).stat().st_size
        assert not (tmp_path / NAME).exists()
        assert fetch_file(item, tmp_path, console()).read_bytes() == CONTENT
        assert server.asked == ["", f"bytes={have}-"]


@pytest.mark.parametrize("known", ["sha256 size", "sha256", "prefix"])
def test_other_bytes_are_refused_and_removed(tmp_path: Path, known: str) -> None:
    with serving(CONTENT[:-1] + b"x") as server:
        line = refusal(entry(server.url, known=known), tmp_path)
    assert line.startswith(f"{server.url}: what was sent has another SHA-256")
    assert names(tmp_path) == []


def test_what_was_left_of_another_file_is_found_out_and_removed(tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(b"x" * 1000)
    with serving(CONTENT) as server:
        assert "another SHA-256" in refusal(entry(server.url), tmp_path)
        assert names(tmp_path) == []
        assert fetch_file(entry(server.url), tmp_path, console()).read_bytes() == CONTENT


@pytest.mark.parametrize("length", [1, len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_file_of_another_size_is_refused_before_it_is_sent(tmp_path: Path, length: int) -> None:
    with serving((CONTENT + b"x")[:length]) as server:
        line = refusal(entry(server.url), tmp_path)
    assert f"the server offers a file of {length} bytes, expected {len(CONTENT)}" in line
    assert names(tmp_path) == []


@pytest.mark.parametrize("known", ["sha256 size", "prefix"])
def test_a_server_that_does_not_say_how_long_the_file_is(tmp_path: Path, known: str) -> None:
    with serving(CONTENT, announces=False) as server:
        assert fetch_file(entry(server.url, known=known), tmp_path, console()).read_bytes() == CONTENT


def test_an_end_that_comes_too_early_without_a_word(tmp_path: Path) -> None:
    with serving(CONTENT, announces=False, breaks_after=1000) as server:
        assert "broke off after 1.0 kB of 700.0 kB" in refusal(entry(server.url), tmp_path)
        assert names(tmp_path) == [PART]
        assert "another SHA-256" in refusal(entry(server.url, known="prefix"), tmp_path)
        assert names(tmp_path) == []


@pytest.mark.parametrize("known", ["sha256 size", "size"])
def test_a_server_that_does_not_stop(tmp_path: Path, known: str) -> None:
    with serving(CONTENT, announces=False) as server:
        item = entry(server.url, CONTENT[: 2 * BLOCK], known)
        line = refusal(item, tmp_path, unverified=True)
    assert "the server sends more than the 131072 bytes of the file" in line
    assert names(tmp_path) == []


def test_a_part_that_is_complete_needs_no_server(tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(CONTENT)
    with serving(CONTENT) as server:
        assert fetch_file(entry(server.url), tmp_path, console()).read_bytes() == CONTENT
        assert server.asked == []


def test_a_part_that_is_complete_as_only_the_server_knows(tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(CONTENT)
    with serving(CONTENT) as server:
        assert fetch_file(entry(server.url, known="prefix"), tmp_path, console()).read_bytes() == CONTENT
        assert (server.asked, server.sent) == ([f"bytes={len(CONTENT)}-"], 0)


def test_a_part_that_is_too_long(tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(CONTENT + b"x")
    with serving(CONTENT) as server:
        line = refusal(entry(server.url, known="prefix"), tmp_path)
        assert "the server answers 416" in line
        assert line.endswith(f"remove {tmp_path / PART}")
        assert fetch_file(entry(server.url), tmp_path, console()).read_bytes() == CONTENT
        assert server.asked[-1] == ""


def test_a_server_that_sends_another_range_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(CONTENT[:1000])
    with serving(CONTENT, shift=5) as server:
        assert "the server answers 206" in refusal(entry(server.url), tmp_path)
    assert (tmp_path / PART).read_bytes() == CONTENT[:1000]


# ---------------------------------------------------------------- refused before anything is sent
def test_without_a_checksum_only_when_asked_to(tmp_path: Path) -> None:
    with serving(CONTENT) as server:
        line = refusal(entry(server.url, known="size"), tmp_path)
        assert "no checksum of this file is known" in line
        assert line.endswith("weaksam weights fetch --unverified file.pth")
        assert (server.asked, names(tmp_path)) == ([], [])
        path = fetch_file(entry(server.url, known="size"), tmp_path, console(), unverified=True)
        assert path.read_bytes() == CONTENT


def test_without_a_checksum_nothing_is_pieced_together(tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(b"x" * 1000)
    with serving(CONTENT) as server:
        item = entry(server.url, known="size")
        assert fetch_file(item, tmp_path, console(), unverified=True).read_bytes() == CONTENT
        assert server.asked == [""]


def test_without_an_address(tmp_path: Path) -> None:
    item = entry("https://host/", origin="a folder of Google Drive").model_copy(update={"url": None})
    line = refusal(item, tmp_path / "folder")
    assert (
        line
        == f"file.pth: only a browser gets this file. Put it into {tmp_path}/folder: a folder of Google Drive"
    )
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_fault_of_the_server(tmp_path: Path, status: int) -> None:
    with serving(CONTENT, status=status) as server:
        assert f"{server.url}: the server answers {status} " in refusal(entry(server.url), tmp_path)
    assert names(tmp_path) == []


def test_without_a_network_the_address_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/file.pth"
        line = refusal(entry(url), tmp_path)
    assert "cannot reach 127.0.0.1" in line
    assert line.endswith(f"get {url} elsewhere and put it into {tmp_path}")
    assert names(tmp_path) == []


def test_a_full_disk_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**6, 10**6 - 500_000, 500_000))
    (tmp_path / PART).write_bytes(CONTENT[:100_000])
    with serving(CONTENT) as server:
        assert "600.0 kB are needed, 500.0 kB are free" in refusal(entry(server.url), tmp_path)
        assert (tmp_path / PART).stat().st_size == 100_000
        (tmp_path / PART).write_bytes(CONTENT[:250_000])
        assert fetch_file(entry(server.url), tmp_path, console()).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda folder, mode: mode != os.W_OK)
    assert f"{tmp_path}: cannot be written to" in refusal(entry("http://127.0.0.1:9/"), tmp_path)


def test_two_at_once_do_not_mix(tmp_path: Path) -> None:
    part = tmp_path / PART
    part.write_bytes(CONTENT[:1000])
    with serving(CONTENT) as server:
        with part.open("ab") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            assert "another process is fetching this file" in refusal(entry(server.url), tmp_path)
        assert server.asked == []
        assert fetch_file(entry(server.url), tmp_path, console()).read_bytes() == CONTENT
