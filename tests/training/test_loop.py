"""The loop: seeded steps, resume to the same bytes, a guard against divergence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from weaksam_cli.errors import UserError
from weaksam_cli.training.batches import EpochSampler, augmentation_rng
from weaksam_cli.training.checkpoint import model_bytes, read_checkpoint
from weaksam_cli.training.loop import DivergedError, TrainingResult, TrainingSettings, train
from weaksam_cli.training.schedule import LearningRateSchedule

ITERATIONS = 9


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


def settings_in(folder: Path, **changes: Any) -> TrainingSettings:
    base = TrainingSettings(
        schedule=LearningRateSchedule(ITERATIONS, (5, 7), 0.1, warmup_iterations=2),
        seed=11,
        checkpoint=folder / "checkpoint.pt",
        checkpoint_period=2,
        fingerprint="recipe",
    )
    return replace(base, **changes)


class Killed(BaseException):
    """What SIGKILL would do, as far as the loop can see it: the step is over and nothing more runs."""


def run(settings: TrainingSettings, kill_after: int | None = None) -> tuple[bytes, TrainingResult, list[int]]:
    torch.manual_seed(0)
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    reported = []

    def progress(done: int, total: int, losses: dict[str, float]) -> None:
        reported.append(done)
        assert total == ITERATIONS
        if kill_after is not None and done == kill_after:
            raise Killed

    result = train(model, optimizer, load, settings, save_bytes=Path.write_bytes, progress=progress)
    return model_bytes(model, {}), result, reported


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    data, result, reported = run(settings_in(tmp_path_factory.mktemp("whole")))
    assert result.resumed_from == 0
    assert set(result.losses) == {"loss_cls", "loss_size"}
    assert reported == list(range(1, ITERATIONS + 1))
    return data


@pytest.mark.parametrize("kill_after", range(1, ITERATIONS + 1))
def test_resumes_to_the_same_bytes(tmp_path: Path, uninterrupted: bytes, kill_after: int) -> None:
    settings = settings_in(tmp_path)
    with pytest.raises(Killed):
        run(settings, kill_after)
    torch.rand(kill_after)  # whatever another process did with its random numbers
    data, result, _ = run(settings)
    assert data == uninterrupted
    assert result.resumed_from == (ITERATIONS if kill_after == ITERATIONS else kill_after - kill_after % 2)


def test_resumes_after_many_kills(tmp_path: Path, uninterrupted: bytes) -> None:
    settings = settings_in(tmp_path, checkpoint_period=1)
    for done in range(1, ITERATIONS):
        with pytest.raises(Killed):
            run(settings, done)
    assert run(settings)[0] == uninterrupted


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_matter(tmp_path: Path, uninterrupted: bytes, workers: int) -> None:
    assert run(settings_in(tmp_path, workers=workers))[0] == uninterrupted


def test_a_finished_training_does_nothing(tmp_path: Path, uninterrupted: bytes) -> None:
    run(settings_in(tmp_path))
    data, result, reported = run(settings_in(tmp_path))
    assert data == uninterrupted
    assert result.resumed_from == ITERATIONS
    assert result.losses == {}
    assert reported == [ITERATIONS]


def test_the_seed_matters(tmp_path: Path, uninterrupted: bytes) -> None:
    assert run(settings_in(tmp_path, seed=12))[0] != uninterrupted


def test_gradient_clipping_matters(tmp_path: Path, uninterrupted: bytes) -> None:
    assert run(settings_in(tmp_path, gradient_clip=0.01))[0] != uninterrupted


def test_another_fingerprint_is_refused(tmp_path: Path) -> None:
    run(settings_in(tmp_path))
    with pytest.raises(UserError, match="another recipe"):
        run(settings_in(tmp_path, fingerprint="other"))


def test_mixed_precision_needs_cuda(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="CUDA"):
        run(settings_in(tmp_path, mixed_precision=True))


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


@pytest.mark.parametrize("how", ["nan", "inf", "error"])
def test_divergence_names_iteration_and_checkpoint(tmp_path: Path, how: str) -> None:
    model = Diverging(at=5, how=how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = settings_in(tmp_path)
    with pytest.raises(DivergedError) as caught:
        train(model, optimizer, lambda i: [{"iteration": i}], settings, save_bytes=Path.write_bytes)
    line = caught.value.one_line()
    assert "iteration 5" in line
    assert f"{settings.checkpoint} (iteration 4)" in line
    assert torch.isfinite(model.weight).all()


def test_spoilt_weights_are_not_saved(tmp_path: Path) -> None:
    model = Diverging(at=3, how="gradient")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = settings_in(tmp_path)
    with pytest.raises(DivergedError, match=r"weight weight .* iteration 3.*\(iteration 2\)"):
        train(model, optimizer, lambda i: [{"iteration": i}], settings, save_bytes=Path.write_bytes)
    saved = read_checkpoint(settings.checkpoint, "recipe")
    assert saved is not None
    assert torch.isfinite(saved.model["weight"]).all()


def test_divergence_before_any_checkpoint(tmp_path: Path) -> None:
    model = Diverging(at=0, how="nan")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(DivergedError, match="no checkpoint"):
        train(
            model, optimizer, lambda i: [{"iteration": i}], settings_in(tmp_path), save_bytes=Path.write_bytes
        )


def test_the_terminal_stays_clean(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(settings_in(tmp_path))
    with pytest.raises(Killed):
        run(settings_in(tmp_path, checkpoint=tmp_path / "other.pt"), 3)
    assert capfd.readouterr() == ("", "")
