"""The wheel, installed into an empty environment, brings its recipes and runs."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.tiny import write_voc

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_recipes_and_marker_travel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    stages = {path.relative_to(ROOT / "stages").as_posix() for path in (ROOT / "stages").rglob("*.yaml")}
    assert {f"weaksam_cli/_stages/{name}" for name in stages} <= set(names)
    assert "weaksam_cli/py.typed" in names
    assert {f"weaksam_cli/report/report.{suffix}" for suffix in ("html.j2", "css", "js")} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "runs/", ".scratch"))]


def test_runs_from_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    site = environment / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    zipfile.ZipFile(wheel).extractall(site)
    # The libraries of this environment, without its editable installation of weaksam: .pth files there are not followed.
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = environment / "bin" / "python"
    write_voc(tmp_path / "voc")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(python), "-E", "-m", "weaksam_cli", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    located = subprocess.run(
        [str(python), "-E", "-c", "import weaksam_cli; print(weaksam_cli.__file__)"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert str(site) in located.stdout
    result = run("data", "voc", "--dataset", "tiny")
    assert result.returncode == 0, result.stderr
    for stage in ("cam", "propose", "retrain"):
        result = run(stage, "--dataset", "tiny", "--dry-run", "--profile", "embedded")
        assert result.returncode == 0, result.stderr
        assert "method:" in result.stdout
