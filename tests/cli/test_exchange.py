"""`weaksam export` and `weaksam import` as a user types them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.tiny import CLASSES, done_here, run_here, synthetic_cam, write_voc
from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.points import POINTS, read_points
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.console import Console, Mode
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.steps import make
from weaksam_cli.models.weights.catalogue import WeightsFinder
from weaksam_cli.prompt.stage import STAGE as PROMPT

KEYS = [f"{number:06d}" for number in range(1, 8)]
PROPOSALS_FILE = "runs/tiny/proposals/trainval.h5"
LABELS = "runs/tiny/labels/trainval.json"
LIST = "voc/ImageSets/Main/trainval.txt"
BACK = {
    "detectron2": ("detectron2",),
    "wetectron-voc": ("wetectron",),
    "wetectron-coco": ("wetectron",),
    "mmdet": ("mmdet", "--order", LIST),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with labels and Selective Search proposals of seven images."""
    folder = tmp_path_factory.mktemp("exchange")
    write_voc(folder / "voc", trainval=7, test=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done_here("data", "voc", "--dataset", "tiny")
        done_here("propose", "--dataset", "tiny", "--recipe", "selective-search", "--workers", "1")
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, as the working folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path: str) -> dict[str, Any]:
    with h5py.File(path) as file:
        return {name: file[name][...] for name in ("offsets", "boxes", "image_size")} | {
            "keys": file["image_ids"].asstr()[...].tolist()
        }


def test_proposals_of_a_folder_are_those_of_the_dataset(place: Path) -> None:
    """Kind O: `p0.jpg` was no image of a dataset that calls it `p0`."""
    done_here("propose", "voc/JPEGImages", "-o", "own.h5", "--recipe", "selective-search", "--workers", "1")
    for file in (PROPOSALS_FILE, "own.h5"):
        told = done_here(
            "export", file, "--format", "wetectron-voc", "--labels", LABELS, "-o", f"{Path(file).stem}.pkl"
        )
        assert ("2 images are not in the labels and are left out" in told) == (file == "own.h5")
    assert (place / "own.pkl").read_bytes() == (place / "trainval.pkl").read_bytes()
    command = ("eval", "--dataset", "tiny", "--split", "trainval")
    results = Path("runs/tiny/eval/trainval.json")
    found = []
    for more in ((), ("--input", "propose=own.h5")):
        done_here(*command, *more, "--overwrite")
        found.append(json.loads(results.read_bytes())["metrics"])
    assert found[0] == found[1]
    sample = place / "voc" / "JPEGImages" / "000001.jpg"
    with Image.open(sample) as image:
        image.resize((20, 20)).save(sample)
    done_here("propose", "voc/JPEGImages", "-o", "other.h5", "--recipe", "selective-search", "--workers", "1")
    result = run_here(*command, "--input", "propose=other.h5")
    assert result.exit_code == 2
    assert "other.h5: its image for '000001' has 20 x 20 pixels, that of" in result.stderr


@pytest.mark.parametrize("layout", list(BACK))
def test_what_is_exported_comes_back(place: Path, layout: str) -> None:
    text = done_here("export", PROPOSALS_FILE, "--format", layout, "-o", "out/theirs.pkl")
    before = rows(PROPOSALS_FILE)
    assert f"out/theirs.pkl: 7 images, {len(before['boxes'])} boxes" in text
    done_here("import", "out/theirs.pkl", "--format", *BACK[layout], "--labels", LABELS, "-o", "back.h5")
    after = rows("back.h5")
    assert after["keys"] == before["keys"] == KEYS
    for name in ("offsets", "boxes", "image_size"):
        np.testing.assert_array_equal(after[name], before[name])
    with open_artifact("back.h5", PROPOSALS) as artifact:
        names = artifact.table("source_names")
        assert {names[index] for index in artifact.column("source")} == {"import"}
        assert artifact.attributes["dataset"] == "tiny"
    record = read_receipt(place / "back.h5")
    assert record is not None
    assert record.identity.stage == "import"
    assert set(record.identity.inputs) == {"source", "data"}


def test_ids_in_the_files(place: Path) -> None:
    expected = {"detectron2": KEYS, "wetectron-voc": list(range(1, 8)), "wetectron-coco": list(range(1, 8))}
    for layout, ids in expected.items():
        done_here("export", PROPOSALS_FILE, "--format", layout, "-o", f"{layout}.pkl")
        content = pickle.loads(Path(f"{layout}.pkl").read_bytes())
        assert content["ids" if layout == "detectron2" else "indexes"] == ids
    done_here("export", PROPOSALS_FILE, "--format", "detectron2", "--labels", LABELS, "-o", "ids.pkl")
    assert pickle.loads(Path("ids.pkl").read_bytes())["ids"] == list(range(1, 8))


def test_a_list_decides_what_is_written_and_in_which_order(place: Path) -> None:
    Path("some.txt").write_text("000006\n000002\n")
    text = done_here("export", PROPOSALS_FILE, "--format", "mmdet", "--order", "some.txt", "-o", "some.pkl")
    assert "5 images are not in the list and are left out" in text
    content = pickle.loads(Path("some.pkl").read_bytes())
    with open_artifact(PROPOSALS_FILE) as artifact:
        counts = [len(artifact.rows(key, "boxes")) for key in ("000006", "000002")]
    assert [len(item) for item in content] == counts
    text = done_here(
        "import", "some.pkl", "--format", "mmdet", "--order", "some.txt", "--labels", LABELS, "-o", "some.h5"
    )
    assert "some.h5: 2 images, 5 failed" in text
    assert "000001: is not in some.pkl" in text
    with open_artifact("some.h5", PROPOSALS) as artifact:
        assert artifact.image_ids == ["000002", "000006"]
        assert sorted(artifact.failed) == ["000001", "000003", "000004", "000005", "000007"]


def test_an_image_that_failed_stands_in_the_file_without_boxes(place: Path) -> None:
    """Made by an import of a file that lacks images; so far nothing else fails on tiny images."""
    Path("two.txt").write_text("000002\n000006\n")
    done_here("export", PROPOSALS_FILE, "--format", "mmdet", "--order", "two.txt", "-o", "two.pkl")
    done_here(
        "import", "two.pkl", "--format", "mmdet", "--order", "two.txt", "--labels", LABELS, "-o", "two.h5"
    )
    text = done_here("export", "two.h5", "--format", "wetectron-voc", "-o", "all.pkl")
    assert "5 images failed and stand in the file without rows: '000001', '000003'" in text
    content = pickle.loads(Path("all.pkl").read_bytes())
    assert content["indexes"] == [2, 6, 1, 3, 4, 5, 7]
    assert [len(item) > 0 for item in content["boxes"]] == [True, True] + [False] * 5
    result = run_here("export", "two.h5", "--format", "mmdet", "-o", "list.pkl")
    assert result.exit_code == 2 and "5 images failed" in result.output and "--order" in result.output
    done_here("export", "two.h5", "--format", "mmdet", "--order", LIST, "-o", "list.pkl")
    assert [len(item) > 0 for item in pickle.loads(Path("list.pkl").read_bytes())] == [
        key in ("000002", "000006") for key in KEYS
    ]


def test_existing_files_are_kept(place: Path) -> None:
    export = ("export", PROPOSALS_FILE, "--format", "mmdet", "-o", "theirs.pkl")
    done_here(*export)
    assert "fresh, nothing to do" in done_here(*export)
    Path("theirs.pkl").write_bytes(b"mine")
    result = run_here(*export)
    assert result.exit_code == 2 and "there is another file, which weaksam did not write" in result.output
    assert Path("theirs.pkl").read_bytes() == b"mine"
    done_here(*export, "--overwrite")

    back = ("import", "theirs.pkl", "--format", "mmdet", "--order", LIST, "--labels", LABELS, "-o", "back.h5")
    done_here(*back)
    assert "fresh, nothing to do" in done_here(*back)
    done_here("export", PROPOSALS_FILE, "--format", "detectron2", "-o", "other.pkl")
    other = ("import", "other.pkl", "--format", "detectron2", "--labels", LABELS, "-o", "back.h5")
    result = run_here(*other)
    assert result.exit_code == 2 and "was made with another recipe" in result.output
    done_here(*other, "--overwrite")


def _foreign(path: Path, kind: str) -> None:
    if kind == "hdf5":
        with h5py.File(path, "w") as handle:
            handle["mine"] = 1
    elif kind == "link":
        path.symlink_to("elsewhere.h5")
    elif kind == "changed":  # an artifact of ours stood here, with its receipt
        path.write_bytes(b"mine")
    else:
        path.write_text("mine")


@pytest.mark.parametrize("kind", ["text", "hdf5", "link", "changed"])
def test_import_does_not_replace_what_is_not_ours(place: Path, kind: str) -> None:
    """F4: it was overwritten without a word."""
    done_here("export", PROPOSALS_FILE, "--format", "detectron2", "-o", "d2.pkl")
    back = ("import", "d2.pkl", "--format", "detectron2", "--labels", LABELS, "-o", "back.h5")
    target = place / "back.h5"
    if kind == "changed":
        done_here(*back)
        Path("d2.pkl").write_bytes(
            pickle.dumps({"ids": ["000001"], "boxes": [np.ones((0, 4))], "scores": [np.ones(0)]})
        )
    _foreign(target, kind)
    before = target.lstat().st_ino, target.lstat().st_mtime_ns
    result = run_here(*back)
    assert (
        result.exit_code == 2
        and "back.h5: there is another file, which weaksam did not write" in result.output
    )
    assert (target.lstat().st_ino, target.lstat().st_mtime_ns) == before
    done_here(*back, "--overwrite")
    assert open_artifact(target, PROPOSALS).path == target


def test_boxes_over_the_edge_and_without_area_are_told(place: Path) -> None:
    box = np.asarray([[1, 1, 65, 49], [5, 5, 5, 9], [0, 0, 3.5, 4]], np.float32)
    content = {"ids": ["000001", "4711"], "boxes": [box, box], "scores": [np.ones(3)] * 2}
    Path("d2.pkl").write_bytes(pickle.dumps(content))
    text = done_here("import", "d2.pkl", "--format", "detectron2", "--labels", LABELS, "-o", "d2.h5")
    assert "1 boxes of 1 images reach over the edge of the image and were cut to it: '000001'" in text
    assert "1 boxes of 1 images have no area and are left out: '000001'" in text
    assert "1 images of the file are not in trainval.json and are left out: '4711'" in text
    assert "2 boxes of 1 images" in text
    text = done_here("export", "d2.h5", "--format", "wetectron-coco", "-o", "coco.pkl")
    assert "1 boxes had fractions of pixels and were cut to whole ones" in text


def test_stages_take_an_imported_file(place: Path) -> None:
    done_here("export", PROPOSALS_FILE, "--format", "detectron2", "-o", "d2.pkl")
    theirs = "runs/tiny/proposals@theirs/trainval.h5"
    done_here("import", "d2.pkl", "--format", "detectron2", "--labels", LABELS, "-o", theirs)
    done_here("eval", "--dataset", "tiny", "--split", "trainval")
    metrics = json.loads((place / "runs/tiny/eval/trainval.json").read_text())["metrics"]
    values = {
        variant: {item["name"]: item["value"] for item in metrics if item["variant"] == variant}
        for variant in ("", "theirs")
    }
    assert values[""]["recall at IoU 0.5"] == values["theirs"]["recall at IoU 0.5"] == 1
    given = ("--dataset", "tiny", "--split", "trainval", "--input", f"propose={theirs}")
    run_folder = RunDirectory(place / "runs/tiny")
    context = Context("tiny", run_folder, Console(Mode.QUIET), FileOps(), WeightsFinder(()))
    make(synthetic_cam(run_folder.output("cam", "trainval"), KEYS), PROMPT, context)
    text = done_here("wsod", *given, "--profile", "embedded", "--dry-run")
    assert "missing" in text and "error" not in text


def test_points_become_prompts(place: Path) -> None:
    for kind, lines in (("coarse", "5 6 0 1.000\n"), ("cross", "7 8 2 0.500 3\n")):
        folder = place / "points" / kind
        folder.mkdir(parents=True)
        for key in KEYS:
            (folder / f"{key}.txt").write_text(lines)
    done_here("import", "points", "--format", "points", "--labels", LABELS, "-o", "points.h5")
    with open_artifact("points.h5", POINTS) as artifact:
        assert artifact.image_ids == KEYS
        assert artifact.table("class_names") == list(CLASSES)
        found = read_points(artifact, "000003")
    assert found["coarse"].xy.tolist() == [[5, 6]] and found["cross"].map_index.tolist() == [3]
    assert len(found["fine"]) == 0
    assert "7 images, 14 points" in done_here("export", "points.h5", "--format", "points", "-o", "back")
    for kind, lines in (("coarse", "5 6 0 1.000\n"), ("fine", ""), ("cross", "7 8 2 0.500 3\n")):
        assert [path.read_text() for path in sorted((place / "back" / kind).iterdir())] == [lines] * 7
    assert "fresh, nothing to do" in done_here("export", "points.h5", "--format", "points", "-o", "back")
    (place / "back/fine/000003.txt").write_text("mine")
    result = run_here("export", "points.h5", "--format", "points", "-o", "back")
    assert result.exit_code == 2 and "back/fine/000003.txt: there is another file" in result.output
    text = done_here(
        "propose", "--dataset", "tiny", "--recipe", "region-tree", "--split", "trainval", "--set", "grid_boxes=5",
        "--input", "prompt=points.h5", "--variant", "points", "--workers", "1",
    )  # fmt: skip
    assert "proposals@points/trainval.h5: 7 images" in text


def test_a_pickle_with_a_command_is_refused_and_the_command_not_run(place: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {place}/ran",)

    Path("theirs.pkl").write_bytes(pickle.dumps({"ids": Harmful()}))
    result = run_here("import", "theirs.pkl", "--format", "detectron2", "--labels", LABELS, "-o", "x.h5")
    assert result.exit_code == 2
    errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and f"theirs.pkl: refused: it holds {os.system.__module__}.system" in errors[0]
    assert not (place / "ran").exists()
    assert not (place / "x.h5").exists()


OUT = ("-o", "x.pkl")
BACK_IN = ("--labels", LABELS, "-o", "x.h5")
MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown format": (("export", PROPOSALS_FILE, "--format", "wetectron_voc", *OUT), "did you mean 'wetectron-voc'?"),
    "no proposals": (("export", "runs/tiny/labels/source.json", "--format", "mmdet", *OUT), "not a readable HDF5 file"),
    "no file": (("export", "none.h5", "--format", "mmdet", *OUT), "there is no such file"),
    "list of others": (
        ("export", PROPOSALS_FILE, "--format", "mmdet", "--order", "voc/ImageSets/Main/test.txt", *OUT),
        "2 images of the list ('000008', '000009') are not in trainval.h5 ('000001' (id 1)",
    ),
    "labels of others": (
        ("export", PROPOSALS_FILE, "--format", "mmdet", "--labels", "runs/tiny/labels/test.json", *OUT),
        "trainval.h5: 7 of its images are not in runs/tiny/labels/test.json, the first is '000001'",
    ),
    "order of coco": (
        ("export", PROPOSALS_FILE, "--format", "wetectron-coco", "--order", LIST, *OUT), "in the order of the ids",
    ),
    "import of an unknown format": (("import", "theirs.pkl", "--format", "wetectron-voc", *BACK_IN), "'wetectron'?"),
    "import from nowhere": (("import", "none.pkl", "--format", "mmdet", *BACK_IN), "none.pkl: there is no such file"),
    "another format": (("import", "theirs.pkl", "--format", "mmdet", *BACK_IN), "a file of detectron2 or wetectron"),
    "an order too many": (
        ("import", "theirs.pkl", "--format", "detectron2", "--order", LIST, *BACK_IN), "has no use for it",
    ),
    "a kind of boxes": (("import", "theirs.pkl", "--format", "mmdet", "--kind", "fine", *BACK_IN), "has no use for it"),
    "an order of points": (("import", "voc", "--format", "points", "--order", LIST, *BACK_IN), "has no use for it"),
    "points of which kind": (("import", "voc", "--format", "points", *BACK_IN), "points of which kind?"),
    "no artifact": (
        ("import", "theirs.pkl", "--format", "detectron2", "--labels", LABELS, *OUT), "an artifact is an .h5 file",
    ),
    "labels of what": (
        ("import", "theirs.pkl", "--format", "detectron2", "--labels", "theirs.pkl", "-o", "x.h5"), "theirs.pkl: no",
    ),
    "labels of another split": (
        ("import", "theirs.pkl", "--format", "detectron2", "--labels", "runs/tiny/labels/test.json", "-o", "x.h5"),
        "no image of the file ('000001', '000002', '000003' and 4 more) is in test.json ('000008' (id 8), '000009' (id 9))",
    ),
    "another layout": (("import", "theirs.pkl", "--format", "wetectron", *BACK_IN), "theirs.pkl: is a detectron2 file"),
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    done_here(
        "export", str(folder / PROPOSALS_FILE), "--format", "detectron2", "-o", str(folder / "theirs.pkl")
    )
    return folder


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_ends_with_one_line_and_code_2(
    exported: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(exported)
    arguments, message = MISTAKES[name]
    result = run_here(*arguments)
    errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2
    assert len(errors) == 1 and message in errors[0]
    assert not Path("x.h5").exists() and not Path("x.pkl").exists()
