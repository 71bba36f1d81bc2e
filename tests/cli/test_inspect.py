"""`weaksam inspect` as a user types it: keys, drawings, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from tests.tiny import write_voc
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.receipt import read_receipt, write_receipt
from weaksam_cli.cli.app import app
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import annotations_bytes, result_texts
from weaksam_cli.data.labels import Labels, read_labels

RESULTS, PGT, LABELS = "wsod/detections/trainval.json", "pgt/trainval.json", "labels/trainval.json"
KEY = "000002"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(item) for item in arguments])


def done(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in result.output
    return lines[0]


def found(count: int) -> Detections:
    boxes = np.asarray([[1, 2, 21 + index, 30] for index in range(count)], np.float32).reshape(-1, 4)
    return Detections(
        boxes, np.arange(count, dtype=np.int32) % 3, np.linspace(0.9, 0.5, count, dtype=np.float32)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    write_voc(folder / "voc", trainval=3, test=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done("data", "voc", "--dataset", "tiny")
        labels = read_labels(folder / "runs/tiny" / LABELS, folder / "voc")
        _write(folder / "runs/tiny", labels)
    return folder


def _write(run_folder: Path, labels: Labels) -> None:
    boxes = {key: found(index + 1) for index, key in enumerate(labels.keys)}
    texts = [text for key, item in boxes.items() for text in result_texts(labels)(key, item)]
    results = f"[{','.join(texts)}]".encode()
    for name, data in (
        (RESULTS, results),
        (PGT, annotations_bytes(boxes, labels)),
    ):
        path = run_folder / name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs/tiny"


@pytest.mark.parametrize("name", [RESULTS, PGT])
def test_the_same_key_everywhere(place: Path, name: str) -> None:
    """Results wanted COCO's integer, and said `0 boxes` to anything else."""
    text = done("inspect", place / name, "--image", KEY)
    assert f"image {KEY}: 2 rows" in text
    assert "1.0 2.0 20.0 28.0" in text and "0.9000" in text
    assert "green one" in text
    drawn = done("inspect", place / name, "--image", KEY, "--draw", "a.png")
    assert "drawn: a.png" in drawn


@pytest.mark.parametrize("name", [RESULTS, PGT, LABELS])
def test_an_unknown_key_names_similar_ones(place: Path, name: str) -> None:
    for key in ("00002", "2"):
        line = refused("inspect", place / name, "--image", key)
        assert f"there is no image '{key}'" in line
    assert "Nearest: 000002" in refused("inspect", place / name, "--image", "00002")


def test_the_labels_are_those_of_the_receipt(place: Path) -> None:
    """A file of another name is of the split in its receipt."""
    record = read_receipt(place / LABELS)
    assert record is not None
    data = (place / RESULTS).read_bytes()
    named = place / "wsod/detections/mine.json"
    named.write_bytes(data)
    assert "no run directory" in refused("inspect", named, "--image", KEY)
    from weaksam_cli.artifacts import digest

    identity = record.identity.model_copy(update={"stage": "wsod"})
    update = {
        "sha256": digest.of_bytes(data),
        "size": len(data),
        "identity": identity,
        "artifact": "mine.json",
    }
    write_receipt(FileOps(), named, record.model_copy(update=update))
    assert f"image {KEY}: 2 rows" in done("inspect", named, "--image", KEY)


def test_a_document_with_keys_needs_no_labels(place: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.json"
    shutil.copy(place / PGT, alone)
    assert f"image {KEY}: 2 rows" in done("inspect", alone, "--image", KEY)
    assert "no run directory" in refused("inspect", alone, "--image", KEY, "--draw", "a.png")
    done("inspect", alone, "--image", KEY, "--draw", "a.png", "--images", "voc/JPEGImages")


@pytest.mark.parametrize("name", [RESULTS, PGT])
def test_images_that_moved_are_named(place: Path, name: str) -> None:
    """`--images` was ignored for JSON."""
    source = json.loads((place / "labels/source.json").read_text())
    (place / "labels/source.json").write_text(
        json.dumps(source).replace(source["splits"]["trainval"]["image_root"], "gone")
    )
    Path("voc/JPEGImages").rename("elsewhere")
    drawing = ("inspect", place / name, "--image", KEY, "--draw", "a.png")
    refused(*drawing)
    assert not Path("a.png").exists()
    done(*drawing, "--images", "elsewhere")
    assert "is not in voc" in refused(*drawing, "--images", "voc")


def test_a_foreign_file_is_not_drawn_over(place: Path) -> None:
    """F4."""
    drawing = ("inspect", place / RESULTS, "--image", KEY, "--draw", "a.png")
    Image.new("RGB", (4, 4)).save("a.png")
    before = Path("a.png").read_bytes()
    assert "there is another file, which weaksam did not write" in refused(*drawing)
    assert Path("a.png").read_bytes() == before
    done(*drawing, "--overwrite")
    assert Image.open("a.png").info["Software"] == "weaksam"
    done(*drawing)  # what we drew may be drawn again
    Path("voc.txt").write_text("mine")
    assert "a drawing is a PNG" in refused(*drawing[:-1], "voc.txt")
    Path("folder.png").mkdir()
    assert "is a folder" in refused(*drawing[:-1], "folder.png")
    Path("text.png").write_text("mine")
    assert "there is another file" in refused(*drawing[:-1], "text.png")
    assert "Give --image KEY, or --first N" in refused("inspect", place / RESULTS, "--draw", "b.png")


def test_several_images_on_a_sheet(place: Path) -> None:
    def size(*arguments: str) -> tuple[int, int]:
        done("inspect", place / RESULTS, *arguments, "--draw", "a.png")
        return Image.open("a.png").size

    width, height = size("--image", KEY)
    assert size("--image", KEY, "--image", KEY) == (width, height)
    assert size("--image", KEY, "--image", "000001") == (2 * width + 8, height)
    assert size("--first", "3") == (2 * width + 8, 2 * height + 8)
    text = done("inspect", place / RESULTS, "--first", "2", "--image", KEY)
    assert text.index("image 000002: 2 rows") < text.index("image 000001: 1 rows")


def test_a_threshold_on_scores(place: Path) -> None:
    drawing = ("inspect", place / RESULTS, "--image", "000003", "--draw", "a.png", "--score")
    pictures = []
    for score in ("0.95", "0.6", "0"):
        done(*drawing, score)
        pictures.append(Path("a.png").read_bytes())
    assert len(set(pictures)) == 3


HOSTILE: dict[str, tuple[Any, str]] = {
    "no image": ([{"category_id": 1, "bbox": [1, 1, 2, 2], "score": 1}], "[0].image_id: is missing"),
    "no class": ([{"image_id": 1, "bbox": [1, 1, 2, 2], "score": 1}], "[0].category_id: is missing"),
    "a number": ([1], "[0]: expected an object"),
    "a score in words": (
        [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "score": "x"}],
        "score: expected",
    ),
    "categories": ({"annotations": [], "categories": [{"name": "a"}]}, "categories[0].id: is missing"),
    "text": (b"{", "no valid JSON"),
    "deep": (b"[" * 100_000, "no valid JSON"),
}


@pytest.mark.parametrize("name", list(HOSTILE))
@pytest.mark.parametrize("more", [(), ("--image", KEY)])
def test_hostile_json_ends_in_one_line(place: Path, name: str, more: tuple[str, ...]) -> None:
    content, message = HOSTILE[name]
    (place / RESULTS).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert message in refused("inspect", place / RESULTS, *more)


def test_other_json_is_described_by_its_keys(place: Path) -> None:
    (place / "eval.json").write_text(json.dumps({"measures": [1, 2], "dataset": "tiny"}))
    text = done("inspect", place / "eval.json")
    assert "measures: 2" in text and 'dataset: "tiny"' in text
