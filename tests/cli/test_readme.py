"""Every command of the README runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import FAST, weaksam, write_voc

README = Path(__file__).parents[2] / "README.md"
MAKE = Path(__file__).parents[2] / "Makefile"
NEEDS_WEIGHTS = ("sam-vit-h", "proposals@sam")


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [line.split("#")[0].strip() for line in lines]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run named demo, made quickly from tiny images, and images of pets with a CSV of labels."""
    folder = tmp_path_factory.mktemp("readme")
    write_voc(folder / "voc", trainval=9, test=3)
    assert weaksam("data", "voc", "--dataset", "demo", folder=folder).returncode == 0
    for stage in ("cam", "prompt", "propose", "wsod", "pgt"):
        sets = [item for setting in FAST[stage] for item in ("--set", setting)]
        result = weaksam(stage, "--dataset", "demo", "--workers", "1", *sets, folder=folder)
        assert result.returncode == 0, result.stderr
    (folder / "pets").mkdir()
    generator = np.random.default_rng(0)
    rows = ["image,label"]
    for number in range(8):
        pixels = generator.integers(60, 120, (64, 80, 3), dtype=np.uint8)
        pixels[10:50, 12:60, number % 2] = 250
        Image.fromarray(pixels).save(folder / "pets" / f"image {number}.jpg")
        rows.append(f"pets/image {number}.jpg,{('cat', 'dog')[number % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_there_are_commands() -> None:
    found = commands()
    assert "make all DATASET=demo" in found
    assert "make test" in found
    assert sum(command.startswith("weaksam") for command in found) >= 8


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKE.read_text(), flags=re.MULTILINE))
    for command in commands():
        if command.startswith("make"):
            assert shlex.split(command)[1] in targets


@pytest.mark.parametrize("command", [item for item in commands() if item.startswith("weaksam")])
def test_weaksam_commands_run(workplace: Path, command: str) -> None:
    words = [sorted(workplace.glob(word)) if "*" in word else [word] for word in shlex.split(command)[1:]]
    result = weaksam(*(word for found in words for word in found), folder=workplace)
    if any(word in command for word in NEEDS_WEIGHTS):
        assert result.returncode == 2
        assert "sam_vit_h_4b8939.pth" in result.stderr or "there is no such file" in result.stderr
    else:
        assert result.returncode == 0, result.stderr


def test_the_code_that_reads_an_artifact(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    monkeypatch.chdir(workplace)
    names: dict[str, np.ndarray] = {}
    exec(code, names)
    assert names["boxes"].shape[1] == 4


def test_own_images_end_as_coco_files(workplace: Path) -> None:
    run = workplace / "runs" / "pets"
    assert (run / "retrain" / "detections" / "trainval.json").is_file()
    assert (run / "pgt" / "trainval.json").is_file()
