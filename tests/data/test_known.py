"""Datasets of the field by name: found in their usual places, fetched from a server on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.data.helpers import (
    coco_annotation,
    coco_content,
    make_coco,
    make_voc,
    sample,
    voc_object,
    voc_xml,
)
from tests.data.test_archives import tar_of
from tests.models.weights.server import FileServer, serving
from weaksam_cli.cli.app import app
from weaksam_cli.console import Console, Mode
from weaksam_cli.data import known
from weaksam_cli.data.known import KNOWN, Archive, fetch_known, find_known
from weaksam_cli.errors import UserError


def console() -> Console:
    return Console(Mode.HUMAN, io.StringIO(), io.StringIO())


def test_the_tables_agree_with_torchvision() -> None:
    from torchvision.datasets.voc import DATASET_YEAR_DICT as TABLE

    for name, years in (("voc07", ("2007", "2007-test")), ("voc12", ("2012",))):
        expected = [(TABLE[year]["url"], TABLE[year]["md5"]) for year in years]
        assert [(item.url, item.md5) for item in KNOWN[name].archives] == expected


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


VOC = ("JPEGImages/x.jpg", "Annotations/x.xml")
VOC07 = (*VOC, "ImageSets/Main/trainval.txt", "ImageSets/Main/test.txt")
VOC12 = (*VOC, "ImageSets/Main/train.txt", "ImageSets/Main/val.txt")
COCO14 = ("annotations/instances_train2014.json", "annotations/instances_val2014.json")
COCO17 = ("annotations/instances_train2017.json", "annotations/instances_val2017.json")


@pytest.mark.parametrize(
    ("name", "place", "files"),
    [
        ("voc07", "datasets/VOC2007", VOC07),
        ("voc07", "VOC2007", VOC07),
        ("voc07", "VOCdevkit/VOC2007", VOC07),
        ("voc07", "data/VOCdevkit/VOC2007", VOC07),
        ("voc07", "data/VOCdevkit2007/VOC2007", VOC07),
        ("voc12", "data/VOC2012", VOC12),
        ("voc12", "there/VOC2012", VOC12),
        ("coco17", "datasets/coco", COCO17),
        ("coco17", "data/coco2017", COCO17),
        ("coco14", "there/coco", COCO14),
    ],
)
def test_usual_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str, files: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"DETECTRON2_DATASETS": "there"}
    with pytest.raises(
        UserError,
        match=rf"is not found; looked for .* in there, datasets, data, \. .*: weaksam data {name} --fetch",
    ):
        find_known(name, environment)
    touched(tmp_path / place, *files[:-1])
    with pytest.raises(UserError, match=f"is not found; {place} lacks {files[-1]}; looked for"):
        find_known(name, environment)
    touched(tmp_path / place, files[-1])
    assert find_known(name, environment) == Path(place)


def test_the_first_whole_place_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touched(Path("datasets/VOC2007"), *VOC07[:-1])
    touched(Path("VOCdevkit/VOC2007"), *VOC07)
    assert find_known("voc07", {}) == Path("VOCdevkit/VOC2007")
    touched(tmp_path / "home/sets/VOC2007", *VOC07)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert find_known("voc07", {"DETECTRON2_DATASETS": "~/sets"}) == tmp_path / "home/sets/VOC2007"


def test_coco_of_another_year_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touched(Path("datasets/coco"), *COCO14)
    with pytest.raises(UserError, match="COCO 2017 is not found; looked for"):
        find_known("coco17", {})


# ---------------------------------------------------------------- fetched
TRAINVAL, TEST = "VOCtrainval.tar", "VOCtest.tar"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two archives of one dataset, as VOC 2007 has them."""
    folder = tmp_path_factory.mktemp("packed")
    content = {}
    for archive, split, ids in ((TRAINVAL, "trainval", "1234"), (TEST, "test", "56")):
        root = folder / split
        names = [f"00000{number}" for number in ids]
        make_voc(root / "VOCdevkit/VOC2007", dict.fromkeys(names, voc_xml(voc_object("dog"))), {split: names})
        (root / "VOCdevkit/VOC2007/long.txt").write_bytes(bytes(100_000))
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        members = [(path.relative_to(root).as_posix(), path.read_bytes()) for path in files]
        content[archive] = tar_of(folder / archive, *members).read_bytes()
    return content


Serve = Callable[..., AbstractContextManager[dict[str, FileServer]]]


@pytest.fixture
def serve(packed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A server an archive, and a dataset `voc07` that is fetched from them."""

    @contextmanager
    def start(md5: Mapping[str, str] | None = None, **behaviour: object) -> Iterator[dict[str, FileServer]]:
        with ExitStack() as stack:
            servers = {name: stack.enter_context(serving(data, **behaviour)) for name, data in packed.items()}
            archives = tuple(
                Archive(
                    f"{servers[name].url}/{name}",
                    len(data),
                    (md5 or {}).get(name) or hashlib.md5(data).hexdigest(),
                    f"ImageSets/Main/{'test' if name == TEST else 'trainval'}.txt",
                )
                for name, data in packed.items()
            )
            tiny = dataclasses.replace(KNOWN["voc07"], archives=archives)
            monkeypatch.setitem(known.KNOWN, "voc07", tiny)
            yield servers

    return start


def fetch(**options: Any) -> None:
    fetch_known("voc07", console(), environment={}, **options)


def refusal(**options: Any) -> str:
    with pytest.raises(UserError) as caught:
        fetch(**options)
    return caught.value.one_line()


def asked(servers: Mapping[str, FileServer]) -> list[list[str]]:
    return [server.asked for server in servers.values()]


HOME = Path("datasets/VOCdevkit/VOC2007")


def contents() -> list[str]:
    return sorted(path.name for path in Path("datasets").iterdir())


def test_fetched_unpacked_and_not_again(serve: Serve) -> None:
    with serve() as servers:
        for _ in range(2):
            fetch()
            assert find_known("voc07", {}) == HOME
            assert contents() == ["VOCdevkit"]
            assert len(list((HOME / "JPEGImages").iterdir())) == 6
        assert asked(servers) == [[""], [""]]


def test_what_lies_whole_elsewhere_is_not_fetched(serve: Serve) -> None:
    touched(Path("data/VOC2007"), *VOC07)
    with serve() as servers:
        fetch()
        assert asked(servers) == [[], []]
        assert not Path("datasets").exists()


def test_only_what_is_missing_is_fetched(serve: Serve, packed: dict[str, bytes]) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed[TRAINVAL])) as archive:
        archive.extractall("datasets", filter="data")
    with serve() as servers:
        fetch()
        assert asked(servers) == [[], [""]]
    assert len(list((HOME / "JPEGImages").iterdir())) == 6


def test_detectron2_names_the_folder(serve: Serve) -> None:
    with serve():
        fetch_known("voc07", console(), environment={"DETECTRON2_DATASETS": "there/all"})
    assert find_known("voc07", {"DETECTRON2_DATASETS": "there/all"}) == Path("there/all/VOCdevkit/VOC2007")


def test_an_interrupted_download_goes_on(serve: Serve) -> None:
    with serve(breaks_after=70_000) as servers:
        assert "the transfer broke off after 65.5 kB" in refusal()
        assert contents() == ["VOCtrainval.tar.part"]
        for server in servers.values():
            server.breaks_after = None
        fetch()
        assert asked(servers) == [["", "bytes=65536-"], [""]]
    assert contents() == ["VOCdevkit"]


def test_a_server_that_cannot_begin_in_the_middle(serve: Serve) -> None:
    with serve(breaks_after=70_000, ranges=False) as servers:
        refusal()
        for server in servers.values():
            server.breaks_after = None
        fetch()
    assert contents() == ["VOCdevkit"]


def test_another_checksum_is_not_unpacked(serve: Serve) -> None:
    with serve({TEST: "0" * 32}):
        assert "has another MD5 than 0000" in refusal()
        assert contents() == ["VOCdevkit"]
        assert not (HOME / "ImageSets/Main/test.txt").exists()


def test_without_a_network(serve: Serve) -> None:
    with serve():
        pass
    line = refusal()
    assert "cannot reach 127.0.0.1 (ConnectionError). Without a network here, get http" in line
    assert line.endswith("VOCtrainval.tar elsewhere and put it into datasets")


def test_an_archive_that_lies_there_is_compared_unpacked_and_kept(
    serve: Serve, packed: dict[str, bytes]
) -> None:
    """Copied there from a machine with a network, or left by a run that was killed while it unpacked it."""
    Path("datasets").mkdir()
    for name, data in packed.items():
        Path("datasets", name).write_bytes(data)
    with serve() as servers:
        fetch()
        assert asked(servers) == [[], []]
    assert contents() == ["VOCdevkit", TEST, TRAINVAL]


@pytest.mark.parametrize("damage", [lambda data: data[:-512], lambda data: data[:900] + b"x" + data[901:]])
def test_another_archive_of_the_name_is_neither_unpacked_nor_removed(
    serve: Serve, packed: dict[str, bytes], damage: Callable[[bytes], bytes]
) -> None:
    Path("datasets").mkdir()
    Path("datasets", TRAINVAL).write_bytes(damage(packed[TRAINVAL]))
    with serve():
        assert "datasets/VOCtrainval.tar: is not the published file of" in refusal()
    assert contents() == [TRAINVAL]


def test_files_of_yours_are_replaced_when_asked_to(serve: Serve) -> None:
    touched(HOME, "Annotations/000001.xml")
    with serve():
        line = refusal()
        assert "other files than the published ones are there: " in line
        assert "VOC2007/Annotations/000001.xml. Move them away, or give --overwrite" in line
        fetch(overwrite=True)
    assert "dog" in (HOME / "Annotations/000001.xml").read_text()


def test_the_room_is_looked_at_before(
    serve: Serve, packed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [len(data) for data in packed.values()]
    free = SimpleNamespace(free=sum(sizes) + max(sizes) - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    with serve() as servers:
        assert "fetching and unpacking PASCAL VOC 2007 needs" in refusal()
        assert asked(servers) == [[], []]
        assert not Path("datasets").exists()
        Path("datasets").mkdir()
        Path("datasets", f"{TRAINVAL}.part").write_bytes(packed[TRAINVAL][:1])
        fetch()


# ---------------------------------------------------------------- as a user types it
def run(*arguments: str) -> SimpleNamespace:
    """The program in this process."""
    result = CliRunner().invoke(app, list(arguments))
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def test_fetched_and_read(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve():
        planned = run("data", "voc07", "--fetch", "--dry-run")
        assert planned.code == 0, planned.err
        assert [line.split()[:2] for line in planned.out.splitlines()] == [["would", "fetch"]] * 2
        assert not Path("datasets").exists()
        fetched = run("data", "voc07", "--fetch")
    assert fetched.code == 0, fetched.err
    assert "PASCAL VOC 2007: datasets/VOCdevkit/VOC2007" in fetched.err
    assert "trainval (train)  test (test)" in fetched.out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("data voc07", "voc07: PASCAL VOC 2007 is not found; looked for VOC2007, .* in datasets, data, .* --fetch$"),
        ("all voc07", "looked for VOC2007, .*weaksam data voc07 --fetch"),
        ("all --dataset voc07", "looked for VOC2007, .*weaksam data voc07 --fetch"),
        ("data pets --fetch", "'pets' cannot be fetched. Allowed: voc07, voc12, coco14, coco17"),
        ("data --dataset pets --fetch", "'pets' cannot be fetched"),
        ("data voc7 --fetch", "did you mean 'voc07'"),
        ("data coco14 --fetch", "coco14: is there, and is read when this dataset is named. Leave --fetch out"),
        ("data x.zip --dataset x", "x.zip: is an archive. Unpack it, and give the folder: python -m zipfile -e x.zip x$"),
        ("data x.zip --dataset x --layout coco", "x.zip: is an archive"),
        ("propose x.zip -o p.h5", "x.zip: is an archive"),
    ],
)  # fmt: skip
def test_refusals(monkeypatch: pytest.MonkeyPatch, arguments: str, what: str) -> None:
    Path("coco14").mkdir()
    Path("x.zip").write_bytes(b"PK")
    done = run(*arguments.split())
    assert done.code == 2
    assert re.search(what, done.err.splitlines()[-1]), done.err


def test_a_folder_of_the_name_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    made = dict.fromkeys(["1", "2", "3"], voc_xml(voc_object("dog")))
    make_voc(HOME, made, {"trainval": ["1", "2"], "test": ["3"]})
    make_voc(Path("voc07"), made, {"trainval": ["1", "2", "3"]})
    done = run("data", "voc07")
    assert done.code == 0, done.err
    assert "PASCAL" not in done.err
    assert "trainval (train)" in done.out
    assert "test (test)" not in done.out


@pytest.mark.parametrize(
    ("name", "splits", "expected"),
    [
        ("voc07", ("train", "val", "trainval", "test"), "trainval (train) test (test)"),
        ("voc12", ("train", "val", "trainval", "test"), "train (train) val (test)"),
    ],
)
def test_splits_of_voc(
    monkeypatch: pytest.MonkeyPatch, name: str, splits: tuple[str, ...], expected: str
) -> None:
    made = dict.fromkeys(["1", "2", "3"], voc_xml(voc_object("dog")))
    make_voc(Path(f"datasets/VOC20{name[-2:]}"), made, {split: list(made) for split in splits})
    done = run("data", name)
    assert done.code == 0, done.err
    assert " ".join(done.out.splitlines()[0].split()) == f"class {expected}"
    done = run("data", name, "--set", "splits={trainval: train}", "--overwrite")
    assert " ".join(done.out.splitlines()[0].split()) == "class trainval (train)"


@pytest.mark.parametrize("year", ["14", "17"])
def test_both_years_of_coco_in_one_folder(monkeypatch: pytest.MonkeyPatch, year: str) -> None:
    root = Path("datasets/coco")
    for split in ("train2014", "val2014", "train2017", "val2017"):
        image = {"id": 5, "file_name": f"{split}.jpg", "width": 40, "height": 30}
        make_coco(
            root,
            coco_content(images=[image], annotations=[coco_annotation(1, 5, 90)]),
            f"annotations/instances_{split}.json",
        )
        sample(root / split / f"{split}.jpg")
    done = run("data", f"coco{year}")
    assert done.code == 0, done.err
    assert f"train20{year} (train)  val20{year} (test)" in done.out
    found = sorted(path.name for path in Path(f"runs/coco{year}/labels").glob("*20*.json"))
    assert [name for name in found if "receipt" not in name] == [f"train20{year}.json", f"val20{year}.json"]


def test_all_goes_on_with_the_named_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    made = dict.fromkeys(["1", "2", "3"], voc_xml(voc_object("dog")))
    make_voc(Path("VOCdevkit/VOC2007"), made, {"trainval": ["1", "2"], "test": ["3"]})
    seen: list[str] = []
    monkeypatch.setattr("weaksam_cli.cli.run._run", lambda *given: seen.append(given[3].dataset))
    monkeypatch.setattr("weaksam_cli.cli.doctor.preflight", lambda context: None)
    done = run("all", "voc07")
    assert done.code == 0, done.err
    assert set(seen) == {"voc07"}
    assert sorted(path.name for path in Path("runs").iterdir()) == ["voc07"]
