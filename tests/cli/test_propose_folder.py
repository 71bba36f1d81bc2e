"""`weaksam propose IMAGES -o FILE` as a user types it: any images, no dataset, many processes."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from tests.artifacts.helpers import STAGE, context
from tests.tiny import Started, start_weaksam, synthetic_cam, weaksam, write_voc
from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.receipt import read_receipt, receipt_path
from weaksam_cli.cli.app import app
from weaksam_cli.cli.new_images import place_of
from weaksam_cli.engine.steps import make

KEYS = ("a b.jpg", "new\nline.jpg", "same.jpg", "same.png", "tief/schöne Grüße/写真.png")
QUICK = ("--set", "grid_boxes=9", "--workers", "1")


def sample(path: Path, number: int, size: tuple[int, int] = (32, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(60, 120, (*size, 3), dtype=np.uint8)
    pixels[6 : 6 + size[0] // 2, 5 : 5 + size[1] // 2, number % 3] = 250
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with images in `my images`, and a broken one."""
    for number, key in enumerate(KEYS):
        sample(tmp_path / "my images" / key, number)
    (tmp_path / "my images" / "broken.png").write_text("no image")
    (tmp_path / "my images" / ".hidden.png").write_text("no image")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEAKSAM_WEIGHTS", "")
    return tmp_path


def propose(*arguments: str, code: int = 0) -> Result:
    """In this process: the program starts in no time, and the rest is as a user's."""
    result = CliRunner().invoke(app, ["propose", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_any_folder_gives_an_artifact(folder: Path) -> None:
    result = propose("my images", "-o", "out/new/p.h5", *QUICK)
    lines = result.stderr.splitlines()
    assert re.fullmatch(
        r"propose: recipe region-tree, which needs no weights \(found none of sam_vit_h.*\)", lines[0]
    )
    assert re.fullmatch(r"6 images \([\d.]+ kB\), recipe region-tree", lines[1])
    assert re.fullmatch(
        r"p\.h5: 5 images, \d+ proposals \(\d an image\), 1 failed, [\d.e+]+ images/s, \d+ s", lines[2]
    )
    assert lines[3:] == ["warning: broken.png: not an image of a known kind"]
    with open_artifact(folder / "out" / "new" / "p.h5", PROPOSALS) as artifact:
        assert artifact.image_ids == sorted(KEYS)
        assert artifact.failed == {"broken.png": "not an image of a known kind"}
        assert (artifact.attributes["dataset"], artifact.attributes["split"]) == ("images", "all")
        for key in KEYS:
            assert 1 <= len(artifact.rows(key, "boxes")) <= 9
            assert artifact.image_value(key, "image_size").tolist() == [32, 40]
    assert {path.name for path in (folder / "out" / "new").iterdir()} == {"p.h5", "p.h5.receipt.json"}


def test_where_nothing_can_be_read_nothing_is_written(folder: Path) -> None:
    """Kind P: it ended with code 0 and an artifact of no image."""
    (folder / "bad").mkdir()
    (folder / "bad" / "a.jpg").write_text("x")
    (folder / "bad" / "b.heic").write_text("x")
    (folder / "list.txt").write_text("gone.jpg\n")
    for images, message in {
        "bad": "none of the 2 images could be done; the first is a.jpg: not an image of a known kind",
        "bad/a.jpg": "p.h5: a.jpg: not an image of a known kind",
        "list.txt": "p.h5: gone.jpg: no such file",
    }.items():
        assert message in propose(images, "-o", "p.h5", *QUICK, code=2).stderr
        assert not list(folder.glob("p.h5*"))


def test_images_that_are_not_read_are_named_and_counted(folder: Path) -> None:
    """Kind Q."""
    (folder / "my images" / "new.heic").write_text("x")
    result = propose("my images", "-o", "p.h5", "--strict", *QUICK, code=3)
    assert "warning: new.heic: passed over, because HEIC is not read: save it as JPEG or PNG" in result.stderr
    record = read_receipt(folder / "p.h5")
    assert record is not None
    assert [failure.image for failure in record.failed] == ["broken.png", "new.heic"]


def test_a_second_run_does_nothing_and_a_changed_folder_is_done_again(folder: Path) -> None:
    propose("my images", *QUICK)
    target = folder / "my images-proposals.h5"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert "my images-proposals.h5: fresh, nothing to do" in propose("my images", *QUICK).stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    sample(folder / "my images" / "same.png", 99)
    dry = propose("my images", "--dry-run", *QUICK)
    assert "stale; input my images changed" in dry.stdout
    assert "6 images" in dry.stderr
    assert "sources: []" in dry.stdout, "without points the recipe says that none prompt"
    for change in ("added", "removed"):
        path = folder / "my images" / "more.png"
        path.unlink() if change == "removed" else sample(path, 99)
        result = propose("my images", *QUICK)
        assert "stale because input my images changed" in result.stderr
        with open_artifact(target) as artifact:
            assert ("more.png" in artifact) == (change == "added")
    assert "was made with another recipe" in propose("my images", "--set", "grid_boxes=3", code=2).stderr


def test_moved_folders_give_equal_bytes_and_are_found_again(folder: Path) -> None:
    propose("my images", "-o", "p.h5", *QUICK)
    (folder / "elsewhere").mkdir()
    (folder / "my images").rename(folder / "elsewhere" / "moved")
    moved = folder / "elsewhere" / "moved"
    propose(str(moved), "-o", "q.h5", *QUICK)
    assert (folder / "q.h5").read_bytes() == (folder / "p.h5").read_bytes()
    inspect = ("inspect", "p.h5", "--image", KEYS[-1], "--draw", "drawn.png")
    lost = CliRunner().invoke(app, inspect)
    assert lost.exit_code == 2
    assert "Name the folder of the images with --images" in lost.stderr
    assert CliRunner().invoke(app, [*inspect, "--images", str(moved)]).exit_code == 0
    assert "fresh, nothing to do" in propose(str(moved), "-o", "p.h5", *QUICK).stderr
    shown = CliRunner().invoke(app, inspect)
    assert shown.exit_code == 0, shown.output
    assert "drawn: drawn.png" in shown.stdout
    assert min(Image.open(folder / "drawn.png").size) >= 320
    record = read_receipt(folder / "p.h5")
    assert record is not None
    assert record.identity.inputs["images"].path == "elsewhere/moved"


def test_a_list_of_paths(folder: Path) -> None:
    keys = ["../my images/same.png", "./../my images/a b.jpg", "../my images/same.png", "gone.jpg"]
    (folder / "lists").mkdir()
    text = "\ufeff# mine\r\n\r\n" + "".join(f"{key}\r\n" for key in keys)
    (folder / "lists" / "some.txt").write_bytes(text.encode())
    result = propose("lists/some.txt", "--strict", "--json", *QUICK, code=3)
    assert "1 of 3 images failed" in result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert {"event", "text", "images", "bytes", "recipe"} in [set(item) for item in events]
    assert [item["text"] for item in events if item.get("duplicates")] == [
        "1 paths name an image once more and are passed over: ../my images/same.png"
    ]
    done = next(item for item in events if "proposals" in item)
    assert (done["artifact"], done["images"], done["failed"]) == ("some-proposals.h5", 2, 1)
    with open_artifact(folder / "some-proposals.h5") as artifact:
        assert artifact.image_ids == ["../my images/same.png", "../my images/a b.jpg"]
        assert artifact.failed == {"gone.jpg": "no such file"}
        assert done["proposals"] == artifact.offsets[-1]
    sample(folder / "lists" / "gone.jpg", 1)
    assert "stale because input" in propose("lists/some.txt", *QUICK).stderr


def test_several_images_and_folders(folder: Path) -> None:
    propose("my images/same.png", "my images/tief", "my images/same.png", *QUICK)
    with open_artifact(folder / "my images-proposals.h5") as artifact:
        assert artifact.image_ids == ["same.png", KEYS[-1]]
    propose(*map(str, sorted((folder / "my images").glob("same.*"))), "-o", "p.h5", *QUICK)
    with open_artifact(folder / "p.h5") as artifact:
        assert artifact.image_ids == ["same.jpg", "same.png"]


def test_one_image(folder: Path) -> None:
    propose("my images/a b.jpg", "--quiet", *QUICK)
    with open_artifact(folder / "a b-proposals.h5") as artifact:
        assert artifact.image_ids == ["a b.jpg"]


MISTAKES = {
    "no images": (("-o", "x.h5"), "which images?"),
    "dataset": (
        ("my images", "--dataset", "voc"),
        "--dataset: is about a dataset's run.*Leave out --dataset",
    ),
    "split": (("my images", "--split", "test"), "--split: is about a dataset's run"),
    "run directory": (("my images", "--run-dir", "r"), "--run-dir: is about a dataset's run"),
    "variant": (("my images", "--variant", "v"), "--variant: is about a dataset's run"),
    "suffix": (("my images", "-o", "x.csv"), r"-o x\.csv: .*HDF5, got a name ending in '\.csv'.*x\.h5"),
    "folder as target": (("my images", "-o", "d.h5"), r"-o d\.h5: is a folder.*d\.h5/proposals\.h5"),
    "foreign target": (
        ("my images", "-o", "mine.h5"),
        r"mine\.h5: there is another file, which weaksam did not",
    ),
    "empty folder": (("empty",), r"empty: there is no image.*\.jpg"),
    "nothing there": (("nothing",), "nothing: there is no such folder or file"),
    "no list": (
        ("binary",),
        "binary: expected an image or a list of paths, got a file of 6 bytes whose line 1 is no UTF-8",
    ),
    "shard": (("my images", "--shard", "4/3"), r"--shard: expected i/n with i from 1 to n, got '4/3'"),
    "shard of a dataset": (("--shard", "0/3"), r"--shard: expected i/n with i from 1 to n, got '0/3'"),
    "recipe": (("my images", "--recipe", "region-tre"), "did you mean 'region-tree'"),
    "weights": (("my images", "--recipe", "sam-vit-b"), r"sam_vit_b_01ec64\.pth"),
    "profile": (("my images", "--profile", "papr"), "did you mean 'paper'"),
    "other input": (
        ("my images", "--input", "wsod=binary"),
        r"--input: with IMAGES it takes one file of points",
    ),
    "input that is none": (
        ("my images", "--input", "prompt=mine.h5"),
        r"mine\.h5: not a readable HDF5 file",
    ),
    "search": (
        ("my images", "--recipe", "selective-search", "--input", "prompt=mine.h5"),
        "takes no prompts",
    ),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_ends_with_one_line_and_code_2(folder: Path, name: str) -> None:
    (folder / "empty").mkdir()
    (folder / "d.h5").mkdir()
    (folder / "mine.h5").write_text("my own data")
    (folder / "binary").write_bytes(b"\xff\xd8a\nb\n")
    arguments, message = MISTAKES[name]
    last = propose(*arguments, code=2).stderr.splitlines()[-1]
    assert re.search(message, last), last
    assert (folder / "mine.h5").read_text() == "my own data"


@pytest.mark.parametrize("name", ["p.h5", "p.prompts.h5"])
@pytest.mark.parametrize("kind", ["hdf5", "link", "changed"])
def test_a_file_that_is_not_ours_is_replaced_only_when_asked(folder: Path, name: str, kind: str) -> None:
    """F4: a file that had taken the place of an artifact was overwritten, as was any in the place of the points."""
    cam = folder / "cam.h5"
    make(synthetic_cam(cam, ["1"], (32, 40)), STAGE, context(folder, dataset="tiny"))
    sample(folder / "one" / "1.png", 1)
    command = ("one", "-o", "p.h5", "--input", f"cam={cam}", *QUICK)
    target = folder / name
    if kind == "changed":
        propose(*command)
        target.write_bytes(b"mine")
        make(
            synthetic_cam(cam, ["1"], (32, 40)),
            STAGE,
            context(folder, dataset="tiny", seed=1, overwrite=True),
        )
    elif kind == "hdf5":
        with h5py.File(target, "w") as file:
            file["mine"] = 1
    else:
        target.symlink_to("elsewhere.h5")
    before = target.lstat().st_ino, target.lstat().st_mtime_ns
    assert f"{name}: there is another file, which weaksam did not write" in propose(*command, code=2).stderr
    assert (target.lstat().st_ino, target.lstat().st_mtime_ns) == before
    propose(*command, "--overwrite")
    assert open_artifact(target).path == target


def test_other_images_do_not_replace_an_artifact_unasked(folder: Path) -> None:
    propose("my images", "-o", "p.h5", *QUICK)
    sample(folder / "other" / "x.png", 1)
    result = propose("other", "-o", "p.h5", *QUICK, code=2)
    assert "p.h5: holds the proposals of other images, those of 'my images'" in result.stderr
    propose("other", "-o", "p.h5", "--overwrite", *QUICK)
    with open_artifact(folder / "p.h5") as artifact:
        assert artifact.image_ids == ["x.png"]


def test_the_best_sam_whose_weights_are_here_is_chosen(folder: Path) -> None:
    (folder / "w").mkdir()
    for name in ("sam_vit_b_01ec64.pth", "sam_vit_l_0b3195.pth"):
        (folder / "w" / name).write_bytes(b"weights")
    arguments = ("my images/a b.jpg", "--weights-dir", "w", "--dry-run", "--device", "cpu")
    first = propose(*arguments).stderr.splitlines()[0]
    assert first == (
        "propose: recipe sam-vit-l, the best whose weights are here: w/sam_vit_l_0b3195.pth "
        "(sam_vit_h_4b8939.pth not found)"
    )
    named = propose(*arguments, "--profile", "embedded").stderr.splitlines()[0]
    assert named == "propose: recipe region-tree of profile embedded"


def test_points_and_maps_of_a_run_add_prompts(folder: Path) -> None:
    keys = ["000001", "000002", "000003"]
    run = folder / "runs" / "tiny"
    cam = run / "cam" / "trainval.h5"
    make(synthetic_cam(cam, keys, (120, 160)), STAGE, context(run, dataset="tiny"))
    for number, key in enumerate(keys[:2]):
        sample(folder / "pics" / f"{key}.jpg", number, (120, 160))
    sample(folder / "pics" / "000003.jpg", 3, (20, 30))
    sample(folder / "pics" / "other.jpg", 4, (48, 64))
    few = ("--set", "grid_boxes=1", "--workers", "1")
    result = propose("pics", "-o", "out/p.h5", "--input", f"cam={cam}", *few)
    assert "p.prompts.h5: 3 images" in result.stderr
    assert (
        "points of out/p.prompts.h5: 3 of 4 images have some (0 by key, 3 by file name); the others get no clue prompts"
        in result.stderr
    )
    with open_artifact(folder / "out" / "p.h5") as artifact:
        sources = {key: set(artifact.rows(key, "source").tolist()) for key in artifact}
        assert 1 in sources["000001.jpg"]
        assert sources["other.jpg"] == {0}
        reason = "its points are those of an image of 160 x 120 pixels, it has 30 x 20"
        assert artifact.failed == {"000003.jpg": reason}
    points = folder / "out" / "p.prompts.h5"
    record = read_receipt(points)
    assert record is not None
    assert (record.identity.dataset, record.identity.split) == ("tiny", "trainval")
    again = propose("pics", "-o", "out/q.h5", "--input", f"prompt={points}", *few)
    assert "3 of 4 images have some" in again.stderr
    assert (folder / "out" / "q.h5").read_bytes() == (folder / "out" / "p.h5").read_bytes()
    none = propose("my images", "--input", f"prompt={points}", code=2)
    assert "holds points of none of these images: its images are called like '000001'" in none.stderr


def start(*arguments: str, folder: Path, log: str) -> Started:
    return start_weaksam("propose", "pics", "-o", "p.h5", *arguments, folder=folder, log=folder / log)


def test_parts_killed_parts_and_workers_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        sample(tmp_path / "pics" / f"{number}.png", number, (64, 80))
    target = tmp_path / "p.h5"
    sets = ("--set", "grid_boxes=9")
    both = [
        start(*sets, "--workers", "1", "--shard", f"{part}/3", folder=tmp_path, log=f"log-{part}")
        for part in (3, 1)
    ]
    for process in both:
        code, errors = process.ended()
        assert code == 0, errors
        assert "2/3 (4 shards)" in errors
    assert not target.exists()
    last = propose("pics", "-o", "p.h5", *sets, "--workers", "1", "--shard", "2/3")
    assert "p.h5: 12 images" in last.stderr
    expected = target.read_bytes()
    target.unlink()
    receipt_path(target).unlink()
    propose("pics", "-o", "p.h5", *sets, "--workers", "1")
    assert target.read_bytes() == expected
    for path in (target, receipt_path(target)):
        path.unlink()
    killed = start(*sets, "--workers", "1", "--shard", "1/3", folder=tmp_path, log="log")
    while not list(tmp_path.glob("p.h5.shards/*/*.h5")):
        assert killed.is_running() or list(tmp_path.glob("p.h5.shards/*/*.h5"))
        time.sleep(0.005)
    killed.send(signal.SIGKILL)
    killed.ended()
    rest = propose("pics", "-o", "p.h5", *sets, "--workers", "2")
    assert re.search(r"resuming: \d+ of 12 images are done", rest.stderr)
    assert re.search(r"12 images \([\d.]+ kB\), recipe region-tree", rest.stderr)
    assert target.read_bytes() == expected
    assert not list(tmp_path.glob("*.shards")), "shards are removed in the end"


def test_parts_of_a_dataset_are_partial_until_they_are_all_there(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", trainval=20, test=1)
    assert weaksam("data", "voc", "--dataset", "tiny", folder=tmp_path).returncode == 0
    search = ("--recipe", "selective-search", "--dataset", "tiny", "--split", "trainval", "--workers", "1")
    first = weaksam("propose", *search, "--shard", "1/2", folder=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "part 1/2 is done (12 images" in first.stderr
    assert "2 of 3 shards of the whole are, still missing: 2/2 (1 shards)" in first.stderr
    rows = json.loads(weaksam("status", "--dataset", "tiny", "--json", folder=tmp_path).stdout)["rows"]
    assert {row[0]: row[1] for row in rows}["proposals/trainval.h5"] == "partial"
    second = weaksam("propose", *search, "--shard", "2/2", folder=tmp_path)
    assert "trainval.h5: 20 images" in second.stderr


@pytest.mark.parametrize(
    ("path", "folder", "place"),
    [
        ("/a/b", "/a", "b"),
        ("/a/b/../c", "/a", "c"),
        ("/x/y", "/a", "/x/y"),
        ("/a", "/a", "."),
        ("/ab", "/a", "/ab"),
    ],
)
def test_places_are_relative_where_they_can_be(path: str, folder: str, place: str) -> None:
    assert place_of(Path(path), Path(folder)) == place
