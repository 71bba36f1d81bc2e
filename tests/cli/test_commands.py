"""The program as a user types it: help, recipes, dry runs, settings, and every way to go wrong that can be mended."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny import CLASSES, weaksam, weaksam_alone, write_voc

COMMANDS = (
    "data",
    "cam",
    "prompt",
    "propose",
    "wsod",
    "pgt",
    "retrain",
    "eval",
    "all",
    "compare",
    "status",
    "inspect",
    "doctor",
    "clip-templates",
    "weights",
    "export",
    "import",
)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which `weaksam data voc --dataset tiny` has been run."""
    folder = tmp_path_factory.mktemp("labelled")
    write_voc(folder / "voc")
    result = weaksam("data", "voc", "--dataset", "tiny", folder=folder)
    assert result.returncode == 0, result.stderr
    return folder


def _cpu_seconds() -> float:
    """Processor time of finished children: unlike wall time it does not depend on what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_names_every_command_and_is_quick(tmp_path: Path) -> None:
    times = []
    for _ in range(5):
        start = _cpu_seconds()
        result = weaksam_alone("--help", folder=tmp_path)
        times.append(_cpu_seconds() - start)
    assert result.returncode == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.stdout
    assert min(times) < 0.3


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(tmp_path: Path, command: str) -> None:
    result = weaksam(command, "--help", folder=tmp_path)
    assert result.returncode == 0
    assert "Usage: weaksam" in result.stdout


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    result = weaksam_alone("--help", folder=tmp_path, environment={"PYTHONPROFILEIMPORTTIME": "1"})
    for library in ("torch", "numpy", "h5py", "pydantic", "cv2", "PIL"):
        assert f"| {library}\n" not in result.stderr.replace("  ", " ")


def test_dry_run_prints_the_whole_recipe_and_changes_nothing(labelled: Path) -> None:
    before = sorted(labelled.rglob("*"))
    result = weaksam("prompt", "--dataset", "tiny", "--dry-run", "--set", "fine.window=9", folder=labelled)
    assert result.returncode == 0, result.stderr
    assert "fine: {window: 9, threshold: 0.9, max_points: 25, emit_fillers: true}" in result.stdout
    assert "cam/trainval.h5 is missing" in result.stdout
    assert sorted(labelled.rglob("*")) == before


MISTAKES = {
    "stage without its input": (("prompt",), "cam/trainval.h5 is missing. Make it first: weaksam cam"),
    "unknown split": (("cam", "--split", "trainvl"), "did you mean 'trainval'? Allowed: trainval, test"),
    "unknown recipe": (("cam", "--recipe", "lite1"), "did you mean 'lite0'? Allowed: "),
    "missing recipe file": (("cam", "--recipe", "my.yaml"), "my.yaml: there is no such recipe file"),
    "unknown key": (("prompt", "--set", "fine.windw=3"), "unknown key 'fine.windw', did you mean 'window'?"),
    "bad value": (("prompt", "--set", "fine.threshold=3"), "less than or equal to 1, got 3"),
    "bad --set": (("prompt", "--set", "fine"), "--set: expected key=value, got 'fine'"),
    "unknown method": (("propose", "--set", "method=regon"), "did you mean 'region_tree'?"),
    "unknown profile": (
        ("cam", "--profile", "papr"),
        "did you mean 'paper'? Allowed: auto, embedded, embedded-masks",
    ),
    "profile without weights": (("propose", "--profile", "paper"), "sam_vit_h_4b8939.pth"),
    "unknown device": (("cam", "--device", "gpu"), "Allowed: auto, cpu, cuda, cuda:N"),
    "bad --input": (("pgt", "--input", "detections=x.json"), "expected stage=FILE"),
    "missing --input file": (("pgt", "--input", "wsod=x.json"), "there is no such file"),
    "bad dataset name": (("cam", "--dataset", "a/b"), "cannot be the name of a dataset"),
    "bad variant": (("cam", "--variant", "a/b"), "cannot be the name of a variant"),
    "no such run": (("cam", "--dataset", "other"), "this run has no dataset yet. Run `weaksam data SOURCE`"),
    "all: no stage": (
        ("all", "--recipe", "wsd=x"),
        "expected stage=NAME, got 'wsd=x', did you mean 'wsod'? Stages:",
    ),
    "all: a key without its stage": (
        ("all", "--set", "seed=1"),
        "--set: expected stage.key=value, got 'seed=1'",
    ),
    "all: unknown recipe": (
        ("all", "--recipe", "pgt=top2"),
        "pgt has no recipe 'top2', did you mean 'top1'?",
    ),
    "all: an unknown key of a late stage": (
        ("all", "--set", "pgt.score_treshold=3"),
        "did you mean 'score_threshold'?",
    ),
    "pgt on a test split": (("pgt", "--split", "test"), "works on training splits"),
    "missing weights": (("propose", "--recipe", "sam-vit-b"), "sam_vit_b_01ec64.pth"),
    "data without a source": (("data", "--dataset", "new"), "which dataset? Give its folder"),
    "data from nowhere": (("data", "nowhere", "--dataset", "new"), "nowhere: no such file or folder"),
    "unknown layout": (("data", "voc", "--layout", "vok", "--dataset", "new"), "did you mean 'voc'?"),
    "not an artifact": (
        ("inspect", "voc/ImageSets/Main/test.txt"),
        "expected an .h5 or .json artifact or a model",
    ),
    "nothing to inspect": (("inspect", "none.h5"), "there is no such file"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_ends_with_one_line_and_code_2(labelled: Path, name: str) -> None:
    arguments, message = MISTAKES[name]
    given = list(arguments)
    if "--dataset" not in given and given[0] != "inspect":
        given += ["--dataset", "tiny"]
    result = weaksam(*given, folder=labelled)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 2
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in result.stderr


def test_json_mode_is_json_lines(labelled: Path) -> None:
    result = weaksam("data", "voc", "--dataset", "tiny", "--json", folder=labelled)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert {event["event"] for event in events} == {"info", "table", "warning"}
    assert events[0]["state"] == "fresh"
    failed = weaksam("cam", "--dataset", "none", "--json", folder=labelled)
    assert json.loads(failed.stdout.splitlines()[-1])["event"] == "error"


def test_quiet_mode_only_warns(labelled: Path) -> None:
    result = weaksam("data", "voc", "--dataset", "tiny", "--quiet", folder=labelled)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.startswith("warning: split trainval: fewer than 5 images show")
    assert len(result.stderr.splitlines()) == 1


def test_settings_file_and_environment(labelled: Path) -> None:
    settings = labelled / "weaksam.toml"
    settings.write_text('dataset = "tiny"\nseed = 3\n')
    try:
        assert "runs/tiny" in weaksam("status", folder=labelled).stdout
        found = weaksam("status", folder=labelled, environment={"WEAKSAM_DATASET": "other"})
        assert "runs/other" in found.stderr
        settings.write_text('datset = "tiny"\n')
        found = weaksam("status", folder=labelled)
        assert found.returncode == 2
        assert "unknown key 'datset', did you mean 'dataset'?" in found.stderr
        settings.write_text("seed = 'x'\n")
        assert (
            "weaksam.toml: seed: Input should be a valid integer, got 'x'"
            in weaksam("status", folder=labelled).stderr
        )
        with settings.open("wb") as handle:
            handle.truncate(3 << 30)
        found = weaksam("status", folder=labelled)
        assert "weaksam.toml: has 3,221,225,472 bytes, and at most 100,000 are read" in found.stderr
    finally:
        settings.unlink()


def test_labels_hold_classes_and_no_boxes(labelled: Path) -> None:
    from pycocotools.coco import COCO

    path = labelled / "runs" / "tiny" / "labels" / "trainval.json"
    file = json.loads(path.read_text())
    assert [category["name"] for category in file["categories"]] == sorted(CLASSES)
    assert file["images"][0]["labels"] == [CLASSES[0]]
    assert file["annotations"] == []
    assert len(COCO(str(path)).imgs) == 6


def test_an_artifact_of_another_dataset_is_refused(labelled: Path) -> None:
    write_voc(labelled / "voc2", trainval=2, test=1)
    run = "runs/other"
    assert weaksam("data", "voc2", "--dataset", "other", folder=labelled).returncode == 0
    result = weaksam("cam", "--dataset", "tiny", "--run-dir", run, folder=labelled)
    assert result.returncode == 2
    assert "belongs to dataset 'other', not to 'tiny'" in result.stderr


def test_unreadable_images_are_listed_and_strict_is_fatal(tmp_path: Path) -> None:
    voc = write_voc(tmp_path / "voc")
    (voc / "JPEGImages" / "000002.jpg").write_bytes(b"")
    (voc / "JPEGImages" / "000003.jpg").write_bytes((voc / "JPEGImages" / "000003.jpg").read_bytes()[:300])
    result = weaksam("data", "voc", "--dataset", "tiny", folder=tmp_path)
    assert result.returncode == 0
    assert "failed" in result.stderr
    file = json.loads((tmp_path / "runs" / "tiny" / "labels" / "trainval.json").read_text())
    assert "000002" in [failure["image"] for failure in file["failed"]]
    strict = weaksam("data", "voc", "--dataset", "strict", "--strict", folder=tmp_path)
    assert strict.returncode == 3


def test_a_image_that_changed_between_stages_is_listed(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", trainval=3, test=1)
    assert weaksam("data", "voc", "--dataset", "tiny", folder=tmp_path).returncode == 0
    Image.new("RGB", (64, 48), "red").save(tmp_path / "voc" / "JPEGImages" / "000002.jpg")
    (tmp_path / "voc" / "JPEGImages" / "000003.jpg").unlink()
    sets = ("--set", "short_sides=[64]", "--set", "head.short_side=64")
    result = weaksam("cam", "--dataset", "tiny", "--split", "trainval", *sets, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "000002: the file changed after `weaksam data` saw it" in result.stderr
    assert "000003: cannot be read: No such file or directory" in result.stderr
    shown = weaksam("inspect", "runs/tiny/cam/trainval.h5", "--image", "000002", folder=tmp_path)
    assert "failed in this stage: the file changed" in shown.stderr


def test_empty_split_and_no_labels(tmp_path: Path) -> None:
    voc = write_voc(tmp_path / "voc")
    for path in (voc / "Annotations").glob("*.xml"):
        path.write_text("<annotation></annotation>")
    result = weaksam("data", "voc", "--dataset", "tiny", folder=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    (voc / "ImageSets" / "Main" / "trainval.txt").write_text("\n")
    result = weaksam("data", "voc", "--dataset", "tiny", folder=tmp_path)
    assert result.returncode == 2
    assert "no object in any annotation" in result.stderr


def test_closed_stdout_is_no_error(labelled: Path) -> None:
    import subprocess
    import sys

    command = f"{sys.executable} -m weaksam_cli inspect runs/tiny/labels/trainval.json | head -1"
    result = subprocess.run(
        ["bash", "-c", command], cwd=labelled, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


@pytest.mark.parametrize("environment", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"TERM": "dumb"}, {"HOME": ""}])
def test_odd_environments(labelled: Path, environment: dict[str, str]) -> None:
    result = weaksam_alone("status", "--dataset", "tiny", folder=labelled, environment=environment)
    assert result.returncode == 0, result.stderr
    assert "labels/trainval.json" in result.stdout


def test_doctor_says_what_is_missing(labelled: Path) -> None:
    result = weaksam("doctor", folder=labelled)
    assert result.returncode == 0, result.stderr
    assert "profile embedded" in result.stdout
    assert "sam_vit_h_4b8939.pth" in result.stdout
