"""Every command and every line of Python that the README and the pages show runs."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.docs.pages import (
    PAGES,
    ROOT,
    Command,
    code_blocks,
    commands,
    files,
    find_command,
    mentions,
    unknown_options,
)
from tests.fuzz.process import run_here
from tests.tiny import FAST, write_voc
from weaksam_cli.core.settings import read_yaml, read_yaml_mapping
from weaksam_cli.engine import recipes
from weaksam_cli.exchange.formats import readers, writers

EMBEDDED = read_yaml_mapping(ROOT / "stages" / "profiles" / "embedded.yaml")["recipes"]
ELSEWHERE = {"make", "cat", "pip", "git", "cd", "source", "python3", "kill"}
"""Programs whose commands are not run here; a make target has to exist."""
RUN = [item for item in commands() if item.words[0] == "weaksam" and not item.needs]


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def quick(patched: pytest.MonkeyPatch) -> None:
    """The embedded recipes with the settings of `FAST`, as if they stood in the files."""

    def read_quick(path: Path) -> Any:
        values, lines = read_yaml(path)
        if EMBEDDED.get(path.parent.name) == path.stem:
            for text in FAST.get(path.parent.name, ()):
                recipes.override(values, lines, text)
        return values, lines

    patched.setattr(recipes, "read_yaml", read_quick)
    patched.setenv("WEAKSAM_WEIGHTS", "")


@pytest.fixture(scope="module")
def workplace(quick: None, patched: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of: a finished run named demo, photographs of pets, labels of them in a CSV."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "weaksam.toml").write_text("workers = 1\n")
    write_voc(folder / "voc", trainval=6, test=2)
    for command in ("data voc", "cam", "prompt", "propose", "wsod", "pgt"):
        ended = run_here(command.split(), folder)
        assert ended.code == 0, ended.err.decode()
    generator = np.random.default_rng(0)
    rows = ["image,label"]
    (folder / "pets").mkdir()
    for number in range(10):
        kind = ("cat", "dog")[number % 2]
        pixels = generator.integers(60, 120, (64, 80, 3), dtype=np.uint8)
        pixels[10:50, 12:60, number % 2] = 250
        for place in (folder / "pets", folder / "images" / kind):
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number}.jpg")
        rows.append(f"pets/{number}.jpg,{kind}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    for name, text in files().items():
        (folder / name).write_text(text)
    _install(folder, patched)
    return folder


def _install(folder: Path, patched: pytest.MonkeyPatch) -> None:
    """The page's package, as pip would: importable, its entry points beside it."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    information = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {module}" for name, module in points.items()))
    ]
    (information / "entry_points.txt").write_text("\n".join(lines) + "\n")
    patched.syspath_prepend(folder)


def test_there_are_commands() -> None:
    assert {"make all DATASET=demo", "make test"} <= {shlex.join(item.words) for item in commands()}
    assert len(RUN) >= 30


def test_programs_of_others_and_make_targets() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for item in commands():
        assert item.words[0] in {"weaksam", *ELSEWHERE}, item
        if item.words[0] == "make":
            assert item.words[1] in targets, item


@pytest.mark.parametrize("command", RUN, ids=str)
def test_a_command_runs(workplace: Path, command: Command) -> None:
    found = [sorted(workplace.glob(word)) if "*" in word else [word] for word in command.words[1:]]
    ended = run_here([str(word) for words in found for word in words], workplace)
    assert ended.code == command.code, (ended.out + ended.err).decode()


def test_a_command_that_needs_what_is_not_here_can_be_typed() -> None:
    for item in commands():
        if item.words[0] == "weaksam":
            found, rest = find_command(item.words)
            found.make_context(item.place, rest)


@pytest.mark.parametrize(("page", "text"), mentions())
def test_options_that_are_mentioned_exist(page: str, text: str) -> None:
    assert not unknown_options(tuple(text.split())), page


@pytest.mark.parametrize("page", [page for page in PAGES if code_blocks(page)], ids=lambda page: page.stem)
def test_python_runs(workplace: Path, page: Path) -> None:
    names: dict[str, Any] = {}
    with contextlib.chdir(workplace), contextlib.redirect_stdout(io.StringIO()):
        for block in code_blocks(page):
            exec(block, names)


def test_the_tests_on_the_pages_pass(workplace: Path) -> None:
    for name in files():
        if name.startswith("test_"):
            names: dict[str, Any] = {}
            exec((workplace / name).read_text(), names)
            for function in [item for key, item in names.items() if key.startswith("test_")]:
                function()


def test_every_format_is_on_the_page() -> None:
    page = (ROOT / "docs" / "other-tools.md").read_text()
    formats = {*writers(), *readers()}
    assert {name for name in formats if f"`{name}`" not in page} == {
        "wetectron-coco"
    }  # `wetectron-voc`, `-coco`


def test_own_images_end_as_coco_files(workplace: Path) -> None:
    run = workplace / "runs" / "pets"
    assert (run / "retrain" / "detections" / "trainval.json").is_file()
    assert (run / "pgt" / "trainval.json").is_file()
