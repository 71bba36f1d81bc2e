"""The loop: seeded steps, resume to the same bytes, a guard against divergence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from weaksam_cli.engine.predictors import one_thread
from weaksam_cli.errors import UserError
from weaksam_cli.training.batches import EpochSampler, augmentation_rng, in_threads
from weaksam_cli.training.checkpoint import model_bytes, read_checkpoint
from weaksam_cli.training.loop import (
    DivergedError,
    LearningRateSchedule,
    Training,
    TrainingRun,
    optimizer_step,
    train,
)
from weaksam_cli.training.metrics import LossLog, tensorboard_rows

ITERATIONS = 9


@pytest.fixture(autouse=True, scope="module")
def single_thread() -> Iterator[None]:
    """As in a real training; on a busy machine threads that wait for each other take far longer."""
    with one_thread():
        yield


class Tiny(nn.Module):
    """Convolution, normalisation with running statistics, and dropout: every kind of state."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(4, 2)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        x = torch.stack([item["x"] for item in batch])
        logits = self.head(self.layers(x).mean(dim=(2, 3)))
        target = torch.tensor([item["y"] for item in batch])
        return {
            "loss_cls": nn.functional.cross_entropy(logits, target),
            "loss_size": logits.square().mean() * 0.01,
        }


def load(iteration: int) -> list[dict[str, Any]]:
    sampler = EpochSampler(5, 3, seed=3)
    data = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype(np.float32)
    return [
        {
            "x": torch.from_numpy(data[index] + augmentation_rng(3, iteration, position).normal()).float(),
            "y": index % 2,
        }
        for position, index in enumerate(sampler.indices(iteration))
    ]


SCHEDULE = LearningRateSchedule(ITERATIONS, (5, 7), 0.1, warmup_iterations=2)


def run_in(folder: Path, **changes: Any) -> TrainingRun:
    base = TrainingRun("cpu", 11, folder / "checkpoint.pt", "recipe", Path.write_bytes, checkpoint_every=2)
    return replace(base, **changes)


class Killed(BaseException):
    """What SIGKILL would do, as far as the loop can see it: the iteration is over and nothing more runs."""


def run(where: TrainingRun, kill_after: int | None = None, **settings: Any) -> tuple[bytes, list[int]]:
    """The weights, and the iterations that were reported."""
    torch.manual_seed(0)
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    reported = []

    def progress(done: int, total: int, losses: dict[str, float]) -> None:
        reported.append(done)
        assert total == ITERATIONS
        assert set(losses) == {"loss_cls", "loss_size"} or (len(reported) == 1 and not losses)
        if kill_after is not None and done == kill_after and losses:
            raise Killed

    batches = in_threads(load, where.workers)
    train(Training(model, optimizer, replace(where, progress=progress), **settings), batches, SCHEDULE)
    return model_bytes(model, {}), reported


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    data, reported = run(run_in(tmp_path_factory.mktemp("whole")))
    assert reported == list(range(1, ITERATIONS + 1))
    return data


@pytest.mark.parametrize("kill_after", range(1, ITERATIONS + 1))
def test_resumes_to_the_same_bytes(tmp_path: Path, uninterrupted: bytes, kill_after: int) -> None:
    where = run_in(tmp_path)
    with pytest.raises(Killed):
        run(where, kill_after)
    torch.rand(kill_after)  # whatever another process did with its random numbers
    data, reported = run(where)
    assert data == uninterrupted
    saved = ITERATIONS if kill_after == ITERATIONS else kill_after - kill_after % 2
    assert reported == [*([saved] if saved else []), *range(saved + 1, ITERATIONS + 1)]


def test_losses_resume_to_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weaksam_cli.training.metrics.PERIOD", 4)
    whole, parts = LossLog(), LossLog()
    run(run_in(tmp_path / "whole", save_bytes=discard, losses=whole))
    for done in (3, 4, 7):
        with pytest.raises(Killed):
            run(run_in(tmp_path, losses=LossLog()), done)
    run(run_in(tmp_path, losses=parts))
    assert parts.to_bytes() == whole.to_bytes()
    rows = [json.loads(line) for line in whole.to_bytes().splitlines()]
    assert [row["iteration"] for row in rows] == [4, 8, 9]
    assert set(rows[0]) == {"iteration", "lr", "total_loss", "loss_cls", "loss_size"}
    assert rows[0]["total_loss"] == pytest.approx(rows[0]["loss_cls"] + rows[0]["loss_size"], rel=1e-4)


def test_curves_for_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("weaksam_cli.training.metrics.PERIOD", 4)
    with tensorboard_rows(tmp_path / "curves") as show:
        log = LossLog(show)
        run(run_in(tmp_path, losses=log))
    read = EventAccumulator(str(tmp_path / "curves")).Reload()
    for name in ("lr", "total_loss", "loss_cls", "loss_size"):
        found = [(event.step, event.value) for event in read.Scalars(name)]
        assert found == [(row["iteration"], pytest.approx(row[name])) for row in log.rows]


def test_without_tensorboard_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="TensorBoard is not installed"), tensorboard_rows(tmp_path):
        pass
    (tmp_path / "file").touch()
    monkeypatch.undo()
    with pytest.raises(UserError, match="cannot be written"), tensorboard_rows(tmp_path / "file" / "curves"):
        pass


def test_resumes_after_many_kills(tmp_path: Path, uninterrupted: bytes) -> None:
    where = run_in(tmp_path, checkpoint_every=1)
    for done in range(1, ITERATIONS):
        with pytest.raises(Killed):
            run(where, done)
    assert run(where)[0] == uninterrupted


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_matter(tmp_path: Path, uninterrupted: bytes, workers: int) -> None:
    assert run(run_in(tmp_path, workers=workers))[0] == uninterrupted


def test_a_finished_training_does_nothing(tmp_path: Path, uninterrupted: bytes) -> None:
    run(run_in(tmp_path))
    assert run(run_in(tmp_path)) == (uninterrupted, [ITERATIONS])


def test_seed_and_clipping_matter(tmp_path: Path, uninterrupted: bytes) -> None:
    assert run(run_in(tmp_path / "seed", seed=12, save_bytes=discard))[0] != uninterrupted
    assert run(run_in(tmp_path / "clip", save_bytes=discard), gradient_clip=0.01)[0] != uninterrupted


def discard(path: Path, data: bytes) -> None:
    """In place of a disk."""


def test_another_fingerprint_is_refused(tmp_path: Path) -> None:
    run(run_in(tmp_path))
    with pytest.raises(UserError, match="another recipe"):
        run(run_in(tmp_path, fingerprint="other"))


def test_mixed_precision_needs_cuda(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="CUDA"):
        run(run_in(tmp_path), mixed_precision=True)


class Count:
    """Something else that a checkpoint keeps."""

    def __init__(self) -> None:
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.steps = state["steps"]


def test_a_step_of_ones_own_with_a_state_of_its_own(tmp_path: Path) -> None:
    """As a training that keeps its best epoch, or shows nothing where no image can be read."""
    for kill_after in (5, None):
        count = Count()

        def step(training: Training, batch: Any, count: Count = count) -> dict[str, float]:
            count.steps += 1
            assert training.optimizer.param_groups[0]["lr"] == 0.5 * SCHEDULE.factor(training.iteration)
            return optimizer_step(training, batch) if training.iteration % 2 else {}

        try:
            model = Tiny()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            stop = kill_after

            def progress(done: int, _: int, losses: dict[str, float], stop: int | None = stop) -> None:
                if done == stop:
                    raise Killed

            where = run_in(tmp_path, progress=progress)
            training = Training(model, optimizer, where)
            train(training, in_threads(load), SCHEDULE, step=step, extras={"count": count})
        except Killed:
            assert count.steps == 5
    assert count.steps == ITERATIONS


class Diverging(nn.Module):
    def __init__(self, at: int, how: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.at, self.how = at, how

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        if batch[0]["iteration"] == self.at and self.how == "error":
            raise FloatingPointError("Predicted boxes or scores contain Inf/NaN")
        if self.how == "gradient":  # a finite loss whose gradient is 0 * infinity
            spoilt = (
                torch.sqrt(self.weight * 0).sum()
                if batch[0]["iteration"] == self.at
                else self.weight.sum() * 0
            )
            return {"loss_cls": spoilt}
        value = float(self.how) if batch[0]["iteration"] == self.at else 1.0
        return {"loss_cls": self.weight.sum() + value, "loss_box_reg": self.weight.sum()}


numbered = in_threads(lambda iteration: [{"iteration": iteration}])


@pytest.mark.parametrize("how", ["nan", "inf", "error"])
def test_divergence_names_iteration_and_checkpoint(tmp_path: Path, how: str) -> None:
    model = Diverging(at=5, how=how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    where = run_in(tmp_path)
    with pytest.raises(DivergedError) as caught:
        train(Training(model, optimizer, where), numbered, SCHEDULE)
    line = caught.value.one_line()
    assert "iteration 5" in line
    assert f"{where.checkpoint} (iteration 4)" in line
    assert torch.isfinite(model.weight).all()


def test_spoilt_weights_are_not_saved(tmp_path: Path) -> None:
    model = Diverging(at=3, how="gradient")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    where = run_in(tmp_path)
    with pytest.raises(DivergedError, match=r"weight weight .* iteration 3.*\(iteration 2\)"):
        train(Training(model, optimizer, where), numbered, SCHEDULE)
    saved = read_checkpoint(where.checkpoint, "recipe")
    assert saved is not None
    assert torch.isfinite(saved.model["weight"]).all()


def test_divergence_before_any_checkpoint(tmp_path: Path) -> None:
    model = Diverging(at=0, how="nan")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(DivergedError, match="no checkpoint"):
        train(Training(model, optimizer, run_in(tmp_path)), numbered, SCHEDULE)


def test_the_terminal_stays_clean(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(run_in(tmp_path))
    with pytest.raises(Killed):
        run(run_in(tmp_path, checkpoint=tmp_path / "other.pt"), 3)
    assert capfd.readouterr() == ("", "")


def test_the_loop_needs_no_detectron2() -> None:
    code = "import sys, weaksam_cli.training.loop; sys.exit('detectron2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
