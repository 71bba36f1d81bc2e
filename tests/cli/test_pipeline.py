"""The whole pipeline as a user types it, on tiny images; the firewall; reruns; a moved run; variants."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from tests.tiny import FAST, run_all, run_here, run_stage, weaksam

VARIED = (
    "all", "--dataset", "tiny", "--profile", "embedded", "--workers", "1", "--variant", "top1", "--recipe", "pgt=top1",
    *(word for stage, settings in FAST.items() for text in settings for word in ("--set", f"{stage}.{text}")),
)  # fmt: skip


def digests(run: Path) -> dict[str, str]:
    """Every artifact with its bytes; receipts hold times, source.json the place of the dataset."""
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and not path.name.endswith(".receipt.json") and path.name != "source.json"
    }


def test_every_artifact_is_fresh(finished: Path) -> None:
    result = weaksam("status", "--dataset", "tiny", "--json", folder=finished)
    rows = json.loads(result.stdout)["rows"]
    assert {row[1] for row in rows} == {"fresh"}
    names = {row[0] for row in rows}
    assert {"cam/test.h5", "prompts/trainval.h5", "wsod/detections/test.json", "pgt/trainval.json"} <= names


def test_a_rerun_touches_nothing(finished: Path) -> None:
    run = finished / "runs" / "tiny"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for stage in FAST:
        assert "fresh, nothing to do" in run_stage(finished, stage)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_retrain_chooses_by_the_labels_of_each_split(finished: Path, tmp_path: Path) -> None:
    run = finished / "runs" / "tiny"
    for split in ("trainval", "test"):
        choice = json.loads((run / "retrain" / "choice" / f"{split}.json").read_text())
        assert choice["split"] == split and choice["images"] > 0
        wsod, retrain, both = (
            choice[use]["ranking"] * choice[use]["agreement"] for use in ("wsod", "retrain", "both")
        )
        assert (choice["use"] == "both") == (both >= 0.95 * wsod)
        assert (choice["use"] == "wsod") == (max(both, retrain) < 0.95 * wsod)
    plan = ["retrain", "--dataset", "tiny", "--run-dir", str(run), "--dry-run"]
    assert "retrain/choice/test.json" in weaksam(*plan, folder=finished).stdout
    given = tmp_path / "given.json"
    shutil.copy(run / "pgt" / "trainval.json", given)
    told = weaksam(*plan, "--split", "trainval", "--input", f"pgt={given}", folder=finished).stdout
    assert "detections/trainval.json" in told
    assert "retrain/choice/" not in told, "boxes of elsewhere say nothing of this run's wsod"


def test_results_are_printed_and_written(finished: Path) -> None:
    text = run_stage(finished, "eval")
    for metric in (
        "classification mAP",
        "recall at IoU 0.5",
        "CorLoc: whole image",
        "VOC AP50",
    ):
        assert metric in text
    results = json.loads((finished / "runs" / "tiny" / "eval" / "trainval.json").read_text())
    stages = {item["stage"] for item in results["metrics"]}
    assert stages == {"cam", "prompt", "propose", "wsod", "baseline", "pgt", "retrain", "both"}
    for item in results["metrics"]:
        assert item["value"] is None or not item["share"] or 0 <= item["value"] <= 1


def test_json_artifacts_load_in_pycocotools(finished: Path) -> None:
    from pycocotools.coco import COCO

    run = finished / "runs" / "tiny"
    pgt = COCO(str(run / "pgt" / "trainval.json"))
    assert pgt.anns
    assert all(annotation["area"] > 0 and annotation["iscrowd"] == 0 for annotation in pgt.anns.values())
    found = pgt.loadRes(str(run / "wsod" / "detections" / "trainval.json"))
    assert len(found.anns) > 0


def test_without_boxes_every_stage_before_eval_gives_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "voc", tmp_path / "voc")
    for path in (tmp_path / "voc" / "Annotations").glob("*.xml"):
        path.write_text(re.sub(r"<bndbox>.*?</bndbox>", "", path.read_text(), flags=re.DOTALL))
        damaged = tmp_path / "voc" / "SegmentationObject" / f"{path.stem}.png"
        damaged.parent.mkdir(exist_ok=True)
        damaged.write_bytes(b"no mask")
    run_all(tmp_path, tmp_path / "voc")
    with_boxes = {
        name: item
        for name, item in digests(finished / "runs" / "tiny").items()
        if not name.startswith("eval/")
    }
    assert digests(tmp_path / "runs" / "tiny") == with_boxes
    result = weaksam("eval", "--dataset", "tiny", folder=tmp_path)
    assert result.returncode == 2
    assert "boxes" in result.stderr


def test_a_moved_run_still_works(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "runs" / "tiny", tmp_path / "elsewhere", copy_function=shutil.copy2)
    sets = [item for setting in FAST["pgt"] for item in ("--set", setting)]
    result = weaksam("pgt", "--dataset", "tiny", "--run-dir", "elsewhere", *sets, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "fresh, nothing to do" in result.stderr
    (tmp_path / "elsewhere" / "pgt" / "trainval.json").unlink()
    result = weaksam("pgt", "--dataset", "tiny", "--run-dir", "elsewhere", folder=tmp_path)
    assert result.returncode == 0, result.stderr


def test_variants_stand_side_by_side_and_are_evaluated(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "work")
    folder = tmp_path / "work"
    run_stage(folder, "pgt", "--recipe", "top1", "--variant", "top1")
    assert (folder / "runs" / "tiny" / "pgt@top1" / "trainval.json").is_file()
    assert "pgt@top1" in run_stage(folder, "eval", "--split", "trainval")


def test_a_changed_input_makes_later_stages_stale(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "work")
    folder = tmp_path / "work"
    result = weaksam("pgt", "--dataset", "tiny", "--set", "score_threshold=0.9", folder=folder)
    assert result.returncode == 2
    assert "was made with another recipe (recipe score_threshold: 0.3 -> 0.9)" in result.stderr
    result = weaksam("pgt", "--dataset", "tiny", "--set", "score_threshold=0.9", "--overwrite", folder=folder)
    assert result.returncode == 0, result.stderr
    status = weaksam("status", "--dataset", "tiny", folder=folder).stdout
    assert "stale" in status
    assert "input pgt/trainval.json changed" in status


def test_a_stale_variant_does_not_hold_up_the_figures_of_the_others(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "work")
    folder = tmp_path / "work"
    run_stage(folder, "pgt", "--recipe", "top1", "--variant", "top1")
    receipt = folder / "runs/tiny/pgt@top1/trainval.json.receipt.json"
    content = json.loads(receipt.read_text())
    content["identity"]["inputs"]["wsod"]["sha256"] = "0" * 64
    receipt.write_text(json.dumps(content))
    said = run_stage(folder, "eval", "--split", "trainval")
    assert "pgt@top1 is left out: input wsod/detections/trainval.json changed" in said
    assert "pgt@top1: " not in said.partition("left out")[2]
    with contextlib.chdir(folder):
        result = run_here(
            "eval", "--dataset", "tiny", "--profile", "embedded", "--split", "trainval", "--strict"
        )
    assert (result.exit_code, "is stale" in result.output) == (2, True), result.output


@pytest.mark.parametrize(
    ("stage", "wrong"),
    [("prompt", "cam=runs/tiny/prompts/trainval.h5"), ("propose", "prompt=runs/tiny/cam/trainval.h5")],
)
def test_a_wrong_artifact_is_refused(finished: Path, stage: str, wrong: str) -> None:
    result = weaksam(
        stage,
        "--dataset",
        "tiny",
        "--split",
        "trainval",
        "--variant",
        "wrong",
        "--input",
        wrong,
        folder=finished,
    )
    assert result.returncode == 2
    assert "expected" in result.stderr
    shutil.rmtree(
        finished / "runs" / "tiny" / ("prompts@wrong" if stage == "prompt" else "proposals@wrong"), True
    )


def test_a_named_input_belongs_to_one_split(finished: Path) -> None:
    given = "retrain=runs/tiny/wsod/detections/test.json"
    result = weaksam("eval", "--dataset", "tiny", "--variant", "named", "--input", given, folder=finished)
    assert result.returncode == 2
    assert "of which split are the files?" in result.stderr
    split = ("--split", "test", "--variant", "named")
    result = weaksam("eval", "--dataset", "tiny", *split, "--input", given, folder=finished)
    assert result.returncode == 0, result.stderr
    named = json.loads((finished / "runs" / "tiny" / "eval@named" / "test.json").read_text())["metrics"]
    found = {(item["stage"], item["name"]): item["value"] for item in named}
    assert found["retrain", "VOC AP50 (weaksam)"] == found["wsod", "VOC AP50 (weaksam)"]
    shutil.rmtree(finished / "runs" / "tiny" / "eval@named")


def test_nothing_to_learn_from_is_said(finished: Path, tmp_path: Path) -> None:
    content = json.loads((finished / "runs/tiny/pgt/trainval.json").read_text()) | {"annotations": []}
    (tmp_path / "none.json").write_text(json.dumps(content))
    given = ("--input", f"pgt={tmp_path / 'none.json'}", "--variant", "none")
    result = weaksam("retrain", "--dataset", "tiny", "--split", "trainval", *given, folder=finished)
    assert (result.returncode, "no image has a pseudo box" in result.stderr) == (2, True), result.stderr
    shutil.rmtree(finished / "runs/tiny/retrain@none", ignore_errors=True)


def test_inspect_shows_and_draws(finished: Path, tmp_path: Path) -> None:
    from PIL import Image

    for name in (
        "cam/trainval.h5",
        "prompts/trainval.h5",
        "proposals/trainval.h5",
        "wsod/detections/trainval.json",
    ):
        output = tmp_path / (name.replace("/", "-") + ".png")
        shown = weaksam("inspect", f"runs/tiny/{name}", "--image", "000001", folder=finished)
        assert shown.returncode == 0, shown.stderr
        drawn = weaksam(
            "inspect", f"runs/tiny/{name}", "--image", "000001", "--draw", output, folder=finished
        )
        assert drawn.returncode == 0, drawn.stderr
        assert min(Image.open(output).size) >= 320
    spoilt = finished / "spoilt.safetensors"
    spoilt.write_bytes((finished / "runs" / "tiny" / "wsod" / "model.safetensors").read_bytes()[:100])
    result = weaksam("inspect", "spoilt.safetensors", folder=finished)
    assert (result.returncode, "cannot be read: truncated or damaged" in result.stderr) == (2, True), (
        result.stderr
    )
    model = weaksam("inspect", "runs/tiny/wsod/model.safetensors", folder=finished)
    assert "refinements.0.weight" in model.stdout


@pytest.fixture(scope="module")
def varied(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run, and beside it a variant of all of it whose pseudo ground truth is top-1."""
    folder = tmp_path_factory.mktemp("varied") / "work"
    shutil.copytree(finished, folder)
    result = weaksam(*VARIED, folder=folder)
    assert result.returncode == 0, result.stderr
    assert "wsod (recipe oicr-lite0): wsod\n" in result.stderr
    assert "pgt (recipe top1): pgt@top1\n" in result.stderr
    assert "retrain (recipe faster-rcnn-lite2-fpn): retrain@top1\n" in result.stderr
    return folder


def test_a_variant_of_the_whole_run_shares_what_does_not_differ(finished: Path, varied: Path) -> None:
    run = varied / "runs" / "tiny"
    assert sorted(path.name for path in run.glob("*@*")) == ["pgt@top1", "retrain@top1"]
    plain, both = digests(finished / "runs" / "tiny"), digests(run)
    assert [name for name, item in plain.items() if both[name] != item and not name.startswith("eval/")] == []
    receipt = json.loads((run / "retrain@top1" / "model.safetensors.receipt.json").read_text())
    assert receipt["identity"]["inputs"]["pgt"]["path"] == "pgt@top1/trainval.json"
    again = run_stage(varied, "retrain", "--variant", "top1")
    assert again.count("fresh, nothing to do") == 8  # it reads pgt@top1, too
    assert "retrain@top1: VOC AP50" in run_stage(varied, "eval")


def test_a_stage_of_a_variant_does_not_replace_another_recipe_unasked(varied: Path) -> None:
    result = weaksam(*VARIED, "--set", "retrain.roi_drop.enabled=false", folder=varied)
    assert result.returncode == 2
    assert "retrain@top1/model.safetensors: was made with another recipe" in result.stderr


def test_variants_and_runs_are_compared(varied: Path, tmp_path: Path) -> None:
    result = weaksam("compare", "--dataset", "tiny", "--variants", "plain,top1", folder=varied)
    assert (result.returncode, result.stderr) == (0, "")
    lines = [re.sub(" +", " ", line).strip() for line in result.stdout.splitlines()]
    assert "pgt.recipe adaptive top1" in lines
    assert not any(line.startswith(("cam.", "wsod.", "retrain.")) for line in lines)
    assert any(line.startswith("test retrain VOC AP50 weaksam ") for line in lines)
    assert lines[-1] == "the same in all: test: images and labels, test: true boxes"

    shutil.copytree(varied / "runs" / "tiny", tmp_path / "other")
    labels = tmp_path / "other" / "labels" / "test.json"
    for path in (labels.with_name("test.json.receipt.json"), tmp_path / "other" / "eval" / "trainval.json"):
        path.unlink()
    labels.write_text(labels.read_text().replace("red one", "red two"))
    result = weaksam("compare", "runs/tiny", tmp_path / "other", "--json", folder=varied)
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    warnings = [event["text"] for event in events if event["event"] == "warning"]
    assert any("trainval has not been evaluated: weaksam eval --run-dir" in text for text in warnings)
    assert (events[-1]["comparable"], events[-1]["differing_settings"]) == (False, [])
    assert events[-1]["verdict"] == "NOT comparable: these differ: test: images and labels"
    first, second = events[-1]["runs"]
    assert {row["split"] for row in first["figures"]} == {"trainval", "test"}
    assert {row["split"] for row in second["figures"]} == {"test"}
    assert first["settings"]["pgt.recipe"] == "adaptive" and first["seconds"]["retrain"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("runs/tiny",), "expected two runs or more, got 1"),
        (("runs/tiny", "--variants", "plain,top1"), "expected runs or --variants, and not both"),
        (("--variants", "plain,top2"), "did you mean 'top1'? Allowed: plain, top1"),
        (("--variants", "top1"), "expected two variants or more"),
        (("runs/tiny", "runs/none"), "runs/none: this run has no dataset yet"),
    ],
)
def test_what_cannot_be_compared(varied: Path, arguments: tuple[str, ...], message: str) -> None:
    result = weaksam("compare", "--dataset", "tiny", *arguments, folder=varied)
    assert result.returncode == 2
    assert message in result.stderr
