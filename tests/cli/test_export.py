"""`weaksam export` of boxes as a user types it, and the way back through `weaksam data`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.helpers import read_truth
from tests.tiny import CLASSES, done_here, run_here, write_voc
from weaksam_cli.artifacts import open_artifact
from weaksam_cli.core.types import Detections
from weaksam_cli.data import cvat, label_studio, labelme
from weaksam_cli.data.detections import annotations_bytes, result_texts
from weaksam_cli.data.labels import read_labels

PROPOSALS_FILE = "runs/tiny/proposals/trainval.h5"
DETECTIONS = "runs/tiny/wsod/detections/trainval.json"
PGT = "runs/tiny/pgt/trainval.json"
LABELS = "runs/tiny/labels/trainval.json"
COUNTS = (0, 1, 2, 6, 7, 1, 2)
OUTPUTS = {
    "coco": "x.json", "voc": "x", "yolo": "x", "labelme": "x", "cvat": "annotations.xml", "label-studio": "x.json",
    "fiftyone": "x", "csv": "x.csv",
}  # fmt: skip


@pytest.fixture(scope="module")
def detections() -> dict[str, Detections]:
    """0, 1, 2, 6, 7, ... boxes in seven images."""
    generator, found = np.random.default_rng(0), {}
    for number, count in enumerate(COUNTS, 1):
        low = generator.random((count, 2)) * [30, 20]
        boxes = np.concatenate([low, low + 2 + generator.random((count, 2)) * [30, 20]], axis=1).round(2)
        scores = generator.random(count).astype(np.float32)
        classes = generator.integers(0, len(CLASSES), count).astype(np.int32)
        found[f"{number:06d}"] = Detections(boxes.astype(np.float32), classes, scores)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, detections: dict[str, Detections]) -> Path:
    """A working folder with labels, Selective Search proposals, detections and pseudo ground truth of seven images."""
    folder = tmp_path_factory.mktemp("export")
    write_voc(folder / "voc", trainval=7, test=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done_here("data", "voc", "--dataset", "tiny")
        done_here(
            "propose",
            "--dataset",
            "tiny",
            "--split",
            "trainval",
            "--recipe",
            "selective-search",
            "--workers",
            "1",
        )
    labels = read_labels(folder / LABELS, Path())
    texts = [text for key, found in detections.items() for text in result_texts(labels)(key, found)]
    for path, content in (
        (DETECTIONS, f"[{', '.join(texts)}]".encode()),
        (PGT, annotations_bytes(detections, labels)),
    ):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(content)
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, as the working folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("layout", list(OUTPUTS))
def test_every_artifact_in_every_format(place: Path, layout: str) -> None:
    with open_artifact(PROPOSALS_FILE) as artifact:
        proposals = int(artifact.offsets[-1])
    for file, boxes, classes in ((DETECTIONS, 19, 3), (PGT, 19, 3), (PROPOSALS_FILE, proposals, 1)):
        out = f"{Path(file).parts[2]}/{OUTPUTS[layout]}"
        text = done_here("export", file, "--format", layout, "-o", out)
        assert f"{out}: 7 images, {boxes} boxes of {classes} classes" in text
        assert "fresh, nothing to do" in done_here("export", file, "--format", layout, "-o", out)


def test_coco_keeps_the_ids_of_the_dataset(place: Path) -> None:
    """So pycocotools compares the boxes with the dataset's own annotations."""
    done_here("export", DETECTIONS, "--format", "coco", "-o", "x.json")
    content, labels = json.loads(Path("x.json").read_bytes()), json.loads(Path(LABELS).read_bytes())
    assert [(item["id"], item["name"]) for item in content["categories"]] == [
        (item["id"], item["name"]) for item in labels["categories"]
    ]
    assert [(item["id"], item["file_name"]) for item in content["images"]] == [
        (number, f"{number:06d}.jpg") for number in range(1, 8)
    ]
    done_here("export", PROPOSALS_FILE, "--format", "coco", "-o", "p.json")
    assert [item["name"] for item in json.loads(Path("p.json").read_bytes())["categories"]] == ["object"]


def test_a_least_score(place: Path, detections: dict[str, Detections]) -> None:
    kept = sum(int((found.scores >= 0.5).sum()) for found in detections.values())
    text = done_here("export", DETECTIONS, "--format", "coco", "--min-score", "0.5", "-o", "x.json")
    assert f"x.json: 7 images, {kept} boxes of 19 of 3 classes" in text
    assert len(json.loads(Path("x.json").read_bytes())["annotations"]) == kept < 19
    result = run_here("export", PROPOSALS_FILE, "--format", "coco", "--min-score", "0.5", "-o", "p.json")
    assert result.exit_code == 2 and "--min-score: these boxes have no scores" in result.stderr


def test_proposals_of_a_folder(place: Path) -> None:
    """They have no labels: the receipt says where the images lie; what failed is named, and has no labels."""
    (place / "voc/JPEGImages/broken.jpg").write_bytes(b"\xff\xd8\xff")
    recipe = ("--recipe", "selective-search", "--workers", "1")
    done_here("propose", "voc/JPEGImages", "-o", "own.h5", *recipe)
    text = done_here("export", "own.h5", "--format", "yolo", "--images", "copy", "-o", "own")
    assert "1 images failed and are left out: 'broken.jpg'" in text
    assert len(list((place / "own/images").iterdir())) == len(list((place / "own/labels").iterdir())) == 9
    task = json.loads(_read(place, "own.h5", "label-studio", "x.json"))[0]
    assert task["data"]["image"] == "/data/local-files/?d=000001.jpg"


def test_masks_of_proposals_go_where_there_is_a_place(place: Path) -> None:
    """Into COCO; a pickle of boxes says that it has none."""
    recipe = ("--recipe", "region-tree", "--set", "masks=true", "--set", "grid_boxes=3", "--workers", "1")
    done_here("propose", "voc/JPEGImages/000001.jpg", "-o", "masks.h5", *recipe)
    found = json.loads(_read(place, "masks.h5", "coco", "m.json"))["annotations"]
    assert found and all(item["segmentation"]["size"] == [48, 64] and item["area"] > 0 for item in found)
    text = done_here("export", "masks.h5", "--format", "detectron2", "-o", "m.pkl")
    assert f"{len(found)} masks are left out: the format has boxes alone" in text
    assert "masks are left out" not in done_here(
        "export", PROPOSALS_FILE, "--format", "detectron2", "-o", "p.pkl"
    )


def _read(place: Path, file: str, layout: str, out: str) -> str:
    done_here("export", file, "--format", layout, "-o", out)
    return (place / out).read_text(encoding="utf-8")


def _corrected_in_label_studio(path: Path) -> None:
    """As a person leaves it who accepts all predictions, moves one box and names another class: exported as JSON."""
    tasks: list[dict[str, Any]] = json.loads(path.read_bytes())
    for task in tasks:
        results = [{**item, "origin": "prediction"} for item in task.pop("predictions")[0]["result"]]
        annotation = {
            "id": 100 + task["id"],
            "result": results,
            "was_cancelled": False,
            "ground_truth": False,
        }
        task |= {
            "annotations": [annotation],
            "predictions": [],
            "meta": {},
            "project": 1,
            "total_annotations": 1,
        }
    changed = tasks[1]["annotations"][0]["result"][0]
    changed["value"] |= {"x": 25.0, "y": 50.0, "width": 50.0, "height": 25.0, "rectanglelabels": ["red one"]}
    path.write_text(json.dumps(tasks))


def _corrected_in_cvat(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    start = text.index("<box", text.index('name="000002.jpg"'))
    box = '<box label="red one" source="manual" occluded="0" xtl="16.00" ytl="24.00" xbr="48.00" ybr="36.00" z_order="0">'
    path.write_text(text[:start] + box + text[text.index(">", start) + 1 :])


def _corrected_in_labelme(folder: Path) -> None:
    path = folder / "000002.json"
    content = json.loads(path.read_bytes())
    content["shapes"][0] |= {"label": "red one", "points": [[16, 24], [48, 36]]}
    path.write_text(json.dumps(content))


ROUNDS: dict[str, tuple[Any, Any, tuple[str, ...], str, str]] = {
    "label-studio": (
        label_studio,
        _corrected_in_label_studio,
        ("--images", "voc/JPEGImages"),
        "x.json",
        "trainval",
    ),
    "cvat": (cvat, _corrected_in_cvat, ("--images", "voc/JPEGImages"), "annotations.xml", "default"),
    "labelme": (labelme, _corrected_in_labelme, (), "x", "trainval"),
}


@pytest.mark.parametrize("layout", list(ROUNDS))
def test_corrected_pre_annotations_come_back(
    place: Path, layout: str, detections: dict[str, Detections]
) -> None:
    reader, correct, options, out, split = ROUNDS[layout]
    done_here(
        "export",
        DETECTIONS,
        "--format",
        layout,
        "-o",
        out,
        *(("--images", "copy") if layout == "labelme" else ()),
    )
    correct(place / out)
    done_here("data", out, "--dataset", "corrected", *options)
    labels = json.loads((place / f"runs/corrected/labels/{split}.json").read_bytes())
    shown = {image["key"].removesuffix(".jpg"): set(image["labels"]) for image in labels["images"]}
    expected = {key: {CLASSES[index] for index in found.class_index} for key, found in detections.items()}
    assert shown == {**expected, "000002": {"red one"}}
    truth = read_truth(reader, place / out, split, images=place / options[1] if options else None)
    for image in truth.images:
        found = detections[image.key.removesuffix(".jpg")]
        boxes = np.asarray([[16, 24, 48, 36]]) if image.key.startswith("000002") else found.boxes
        np.testing.assert_allclose(image.objects.boxes, boxes, atol=0.01)
    assert len(truth.images) == 7 and truth.failed == ()


@pytest.mark.parametrize("layout", ["voc", "yolo", "coco", "csv", "labelme", "cvat"])
def test_data_reads_what_was_exported(place: Path, layout: str, detections: dict[str, Detections]) -> None:
    out, is_folder = OUTPUTS[layout], "." not in OUTPUTS[layout]
    done_here("export", PGT, "--format", layout, "-o", out, *(("--images", "link") if is_folder else ()))
    text = done_here("data", out, "--dataset", "back", *(() if is_folder else ("--images", "voc/JPEGImages")))
    (path,) = (
        item
        for item in (place / "runs/back/labels").iterdir()
        if item.stem in ("trainval", "train", "x", "default")
    )
    labels = json.loads(path.read_bytes())
    shown = [set(image["labels"]) for image in labels["images"]]
    assert shown == [{CLASSES[index] for index in found.class_index} for found in detections.values()]
    assert ("names the same images as train and as val" in text) == (layout == "yolo")


def test_a_table_with_formulas_comes_back(place: Path) -> None:
    content = json.loads(Path(PGT).read_bytes())
    content["categories"][0]["name"] = "=1+1"
    Path("own.json").write_text(json.dumps(content))
    assert "a spreadsheet would run 1 class names" in done_here(
        "export", "own.json", "--format", "csv", "-o", "own.csv"
    )
    assert ",'=1+1," in Path("own.csv").read_text()
    done_here("data", "own.csv", "--dataset", "back", "--images", "voc/JPEGImages")
    labels = json.loads(Path("runs/back/labels/trainval.json").read_bytes())
    assert {item["name"] for item in labels["categories"]} == {"=1+1", *CLASSES[1:]}


OWN_DOCUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "a key upwards": ({"key": "../x.jpg"}, "the image '../x.jpg' is not named by a path below a folder"),
    "a zero byte": ({"key": "a\x00.jpg"}, "own.json: key: String should match"),
    "no size": ({"height": 0}, "the size of image 'a.jpg' is not known"),
    "a key twice": ({"id": 2}, "the image 'a.jpg' stands twice"),
    "a long key": ({"key": f"{'a' * 300}.jpg"}, "File name too long"),
}


@pytest.mark.parametrize("name", list(OWN_DOCUMENTS))
def test_documents_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A document of any place names its images itself."""
    monkeypatch.chdir(tmp_path)
    changes, message = OWN_DOCUMENTS[name]
    image = {"id": 1, "key": "a.jpg", "file_name": "a.jpg", "height": 48, "width": 64}
    images = [image, {**image, **changes}] if "id" in changes else [{**image, **changes}]
    content = {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": []}
    Path("own.json").write_text(json.dumps(content))
    result = run_here("export", "own.json", "--format", "yolo", "-o", "x")
    assert result.exit_code == 2 and message in result.output
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "own.json"]


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "an unknown format": ((DETECTIONS, "--format", "vok", "-o", "x"), "did you mean 'voc'?"),
    "all formats": ((DETECTIONS, "--format", "?", "-o", "x"), "Allowed: coco, coco-results, csv, cvat"),
    "an order": ((DETECTIONS, "--format", "voc", "--order", LABELS, "-o", "x"), "--order: the format voc has no use"),
    "scores of voc": ((DETECTIONS, "--format", "voc", "--scores", "-o", "x"), "--scores: the format voc has no use"),
    "images of mmdet": ((PROPOSALS_FILE, "--format", "mmdet", "--images", "copy", "-o", "x"), "--images: the format mmdet"),
    "another word": ((DETECTIONS, "--format", "voc", "--images", "copi", "-o", "x"), "did you mean 'copy'?"),
    "a folder for a file": ((DETECTIONS, "--format", "coco", "-o", "voc"), "Give -o NAME.json"),
    "a file for a folder": ((DETECTIONS, "--format", "yolo", "-o", LABELS), "the format is a folder"),
    "no file": (("none.json", "--format", "coco", "-o", "x.json"), "none.json: there is no such file"),
    "points": ((LABELS.replace("trainval", "source"), "--format", "coco", "-o", "x.json"), "not a labels file"),
    "pickles of detections": ((DETECTIONS, "--format", "mmdet", "-o", "x"), "not a readable HDF5 file"),
    "labels of others": (
        (DETECTIONS, "--format", "coco", "--labels", "runs/tiny/labels/test.json", "-o", "x.json"), "is not in test.json",
    ),
    "no number": ((DETECTIONS, "--format", "coco", "--min-score", "nan", "-o", "x.json"), "expected a number of 0 or more"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_ends_with_one_line_and_code_2(
    finished: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(finished)
    before = sorted(finished.rglob("*"))
    result = run_here("export", *MISTAKES[name][0])
    errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2, result.output
    assert len(errors) == 1 and MISTAKES[name][1] in errors[0]
    assert sorted(finished.rglob("*")) == before
