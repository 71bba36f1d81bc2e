"""Which executor a command has: by name and settings, ours or another distribution's."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tests.artifacts.helpers import STAGE, context, step
from weaksam_cli.api import _common
from weaksam_cli.cli.options import CommonOptions, build_context
from weaksam_cli.console import Console, Mode
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine import methods
from weaksam_cli.engine.executors.choice import choose_executor
from weaksam_cli.engine.executors.local import LocalExecutor
from weaksam_cli.engine.executors.ray import RayExecutor
from weaksam_cli.engine.executors.slurm import SlurmExecutor
from weaksam_cli.engine.executors.task import Task
from weaksam_cli.engine.executors.worker import Work
from weaksam_cli.engine.steps import make
from weaksam_cli.errors import UserError


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ray", ["cpus=0"], r"--executor-set cpus=0: cpus: .*greater than 0, got 0"),
        ("ray", ["adress=auto"], r"unknown key 'adress', did you mean 'address'\?"),
        ("ray", ["address"], "--executor-set: expected key=value, got 'address'"),
        ("slurm", ["cluster=mine"], r"cluster: Input should be 'slurm' or 'local', got 'mine'"),
        ("local", ["cpus=2"], r"unknown key 'cpus'"),
        (
            "rai",
            [],
            r"--executor: there is no executor 'rai', did you mean 'ray'\? Allowed: local, ray, slurm",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_words(name: str, settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_executor(name, settings, 0)


@pytest.mark.parametrize(("name", "package"), [("ray", "Ray"), ("slurm", "submitit")])
def test_without_its_package_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package.lower(), None)
    told = context(tmp_path, executor=choose_executor(name, [], 0))
    message = rf"--executor {name}: {package} is not installed\. pip install 'weaksam-cli\[{name}\]'"
    with pytest.raises(UserError, match=message):
        make(step(tmp_path / "a.h5"), STAGE, told)


def test_options_come_from_the_settings_file_and_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quiet = Console(Mode.QUIET)
    assert build_context(CommonOptions(), None, quiet).executor == LocalExecutor()
    (tmp_path / "weaksam.toml").write_text(
        'executor = "slurm"\nworkers = 7\n[executor_settings]\nslurm = ["gpus=1", "cpus=8"]\n'
    )
    chosen = build_context(CommonOptions(executor_settings=["cpus=2"]), None, quiet).executor
    assert isinstance(chosen, SlurmExecutor)
    assert (chosen.workers, chosen.options.gpus, chosen.options.cpus) == (7, 1, 2)
    other = build_context(CommonOptions(executor="ray", workers=0), None, quiet).executor
    assert isinstance(other, RayExecutor)
    assert other.workers == 0


def test_functions_take_them_too() -> None:
    options, _ = _common({"executor": "ray", "executor_settings": {"cpus": 2, "address": "auto"}})
    assert options.executor_settings == ["cpus=2", 'address="auto"']
    assert options.workers == 0
    assert _common({})[0].workers == 1


class Options(RecipeModel):
    """Of the executor that this module is."""

    word: str = ""


class Mine(LocalExecutor):
    def run(self, task: Task) -> int:
        task.warn("mine")
        return super().run(task)


def executor(options: Options, workers: int) -> Mine:
    assert (options.word, workers) == ("so", 3)
    return Mine()


def test_another_distribution_brings_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", __name__, "weaksam.executors")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setattr(methods, "entry_points", lambda group: [point] if group == point.group else [])
    told = context(tmp_path, executor=choose_executor("mine", ["word=so"], 3))
    assert make(step(tmp_path / "a.h5"), STAGE, told).images == 11


@pytest.mark.parametrize(
    ("folder", "version", "message"),
    [
        (
            "/nowhere/at all",
            None,
            r"worker on .*: the folder /nowhere/at all is not there: .*shared file system",
        ),
        (".", "0.0.0", r"has weaksam-cli .*, the command is of 0\.0\.0\. Install the same version"),
    ],
)
def test_a_machine_that_does_not_fit_says_why(
    tmp_path: Path, folder: str, version: str | None, message: str
) -> None:
    plain = step(tmp_path / "a.h5").run
    work = Work(context(tmp_path).ops, plain, plain, folder, *([version] if version else []))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        work.begin()
