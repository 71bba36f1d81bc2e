"""Datasets of the field by name: found in their usual places, fetched from a server on this machine."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from tests.data.helpers import make_voc, voc_object, voc_xml
from tests.data.test_archives import tar_of
from tests.models.weights.server import serving
from tests.tiny import weaksam
from weaksam_cli.console import Console, Mode
from weaksam_cli.data import known
from weaksam_cli.data.known import KNOWN, Archive, KnownDataset, fetch_known, find_known
from weaksam_cli.errors import UserError


def console() -> Console:
    return Console(Mode.HUMAN, io.StringIO(), io.StringIO())


def test_the_tables_agree_with_torchvision() -> None:
    from torchvision.datasets.voc import DATASET_YEAR_DICT as TABLE

    for name, years in (("voc07", ("2007", "2007-test")), ("voc12", ("2012",))):
        expected = [(TABLE[year]["url"], TABLE[year]["md5"]) for year in years]
        assert [(item.url, item.md5) for item in KNOWN[name].archives] == expected


@pytest.mark.parametrize(
    ("name", "place", "marks"),
    [
        ("voc07", "datasets/VOC2007", ["JPEGImages", "Annotations"]),
        ("voc07", "VOCdevkit/VOC2007", ["JPEGImages", "Annotations"]),
        ("voc12", "data/VOC2012", ["JPEGImages", "Annotations"]),
        ("voc12", "there/VOC2012", ["JPEGImages", "Annotations"]),
        (
            "coco17",
            "datasets/coco",
            ["annotations/instances_train2017.json", "annotations/instances_val2017.json"],
        ),
        (
            "coco14",
            "there/coco",
            ["annotations/instances_train2014.json", "annotations/instances_val2014.json"],
        ),
    ],
)
def test_usual_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str, marks: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"DETECTRON2_DATASETS": "there"}
    with pytest.raises(UserError, match=rf"looked for there/.*datasets/.*weaksam data {name} --fetch"):
        find_known(name, environment)
    for mark in marks[:1]:
        (tmp_path / place / mark).mkdir(parents=True)
    with pytest.raises(UserError, match="is not found"):
        find_known(name, environment)
    for mark in marks[1:]:
        (tmp_path / place / mark).mkdir(parents=True)
    assert find_known(name, environment) == Path(place)


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    make_voc(
        tmp_path / "made" / "VOCdevkit" / "VOC2007",
        {"000001": voc_xml(voc_object("dog")), "000002": voc_xml(voc_object("cat"))},
        {"trainval": ["000001"], "test": ["000002"]},
    )
    files = [path for path in sorted((tmp_path / "made").rglob("*")) if path.is_file()]
    names = [(path.relative_to(tmp_path / "made").as_posix(), path.read_bytes()) for path in files]
    return tar_of(tmp_path / "x.tar", *names).read_bytes()


def a_dataset(url: str, data: bytes, md5: str | None = None) -> KnownDataset:
    item = Archive(
        url, len(data), md5 or hashlib.md5(data).hexdigest(), "", "VOCdevkit/VOC2007/ImageSets/Main/test.txt"
    )
    return KnownDataset("VOC 2007", "voc", ("VOCdevkit/VOC2007",), ("JPEGImages",), None, (item,))


def test_fetched_unpacked_and_not_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(archive) as server:
        monkeypatch.setitem(known.KNOWN, "tiny", a_dataset(f"{server.url}/VOC.tar", archive))  # type: ignore[arg-type]
        for _ in range(2):
            fetch_known("tiny", console(), {})
            assert find_known("tiny", {}) == Path("datasets/VOCdevkit/VOC2007")
            assert sorted(path.name for path in Path("datasets").iterdir()) == ["VOCdevkit"]
        assert len(server.asked) == 1


def test_another_checksum_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(archive) as server:
        monkeypatch.setitem(known.KNOWN, "tiny", a_dataset(f"{server.url}/VOC.tar", archive, "0" * 32))  # type: ignore[arg-type]
        with pytest.raises(UserError, match="has another MD5 than 0000"):
            fetch_known("tiny", console(), {})
    assert not list(Path("datasets").iterdir())


def test_an_archive_whose_unpacking_was_killed_is_unpacked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(known.KNOWN, "tiny", a_dataset("http://127.0.0.1:9/VOC.tar", archive))  # type: ignore[arg-type]
    lists = Path("datasets/VOCdevkit/VOC2007/ImageSets/Main")
    lists.mkdir(parents=True)
    (lists / "test.txt").touch()
    Path("datasets/VOC.tar").write_bytes(archive)
    fetch_known("tiny", console(), {})
    assert Path("datasets/VOCdevkit/VOC2007/JPEGImages/000001.jpg").is_file()
    assert not Path("datasets/VOC.tar").exists()


def test_as_a_user_types_it(tmp_path: Path) -> None:
    made = {f"{number:06}": voc_xml(voc_object("dog")) for number in range(1, 7)}
    nothing = weaksam("all", "--dataset", "voc07", folder=tmp_path)
    assert nothing.returncode == 2
    assert "looked for datasets/VOC2007" in nothing.stderr
    assert "weaksam data voc07 --fetch" in nothing.stderr
    make_voc(tmp_path / "VOCdevkit" / "VOC2007", made, {"trainval": list(made)[:4], "test": list(made)[4:]})
    found = weaksam("data", "voc07", folder=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "PASCAL VOC 2007: VOCdevkit/VOC2007" in found.stderr
    assert sorted(path.name for path in (tmp_path / "runs" / "voc07" / "labels").glob("t*.json")) == [
        "test.json", "test.json.receipt.json", "trainval.json", "trainval.json.receipt.json",
    ]  # fmt: skip
    (tmp_path / "x.zip").write_bytes(b"PK")
    packed = weaksam("data", "x.zip", "--dataset", "x", folder=tmp_path)
    assert packed.returncode == 2
    assert "x.zip: is an archive. Unpack it: python -m zipfile -e x.zip x" in packed.stderr
    wrong = weaksam("data", "pets", "--fetch", folder=tmp_path)
    assert wrong.returncode == 2
    assert "'pets' cannot be fetched. Allowed: voc07, voc12, coco14, coco17" in wrong.stderr
