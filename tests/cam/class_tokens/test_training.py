"""The training loop: small datasets, determinism, resume, divergence."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.cam.class_tokens.helpers import FAST, Killed, split, tiny_network, train
from tests.models.vit.helpers import images, random_mctformer, random_weaktr
from weaksam_cli.cam.class_tokens.images import Plan, TrainingImages
from weaksam_cli.cam.class_tokens.method import FitSettings
from weaksam_cli.cam.class_tokens.training import (
    fit,
    make_optimizer,
    peak_rate,
    schedule_of,
    soft_margins,
)
from weaksam_cli.errors import UserError
from weaksam_cli.models.vit.checkpoint import VitCheckpoint
from weaksam_cli.models.vit.mctformer import load_mctformer
from weaksam_cli.models.vit.network import ClassTokenVit
from weaksam_cli.training.checkpoint import read_checkpoint as read_training
from weaksam_cli.training.loop import DivergedError, Training, TrainingRun


@pytest.mark.parametrize(("n_images", "n_classes"), [(1, 1), (2, 1), (2, 2), (7, 3)])
def test_any_number_of_images_and_classes_trains(tmp_path: Path, n_images: int, n_classes: int) -> None:
    labels = split(tmp_path, n_images, n_classes)
    settings = FAST.model_copy(update={"batch_size": 64 if n_images < 7 else 2})
    best = train(labels, settings, tmp_path / "checkpoint.pt")
    start = tiny_network(n_classes).state_dict()
    assert best.epochs in (1, 2)
    assert 0 <= best.value <= 1
    assert not torch.equal(best.state["head.weight"], start["head.weight"])
    assert all(bool(torch.isfinite(value).all()) for value in best.state.values())


def test_it_learns(tmp_path: Path) -> None:
    settings = FAST.model_copy(update={"epochs": 30, "learning_rate": 2.0})
    best = train(split(tmp_path, 6, 3), settings, tmp_path / "checkpoint.pt")
    assert best.value == 1.0
    assert best.epochs == 30  # of equal epochs the last


@pytest.mark.parametrize("images_at_once", [0, 1])
def test_killed_and_resumed_it_gives_the_same_bytes(tmp_path: Path, images_at_once: int) -> None:
    labels = split(tmp_path, 5, 2)
    settings = FAST.model_copy(update={"epochs": 4, "images_at_once": images_at_once})
    names = labels.class_names
    whole = train(labels, settings, tmp_path / "whole.pt").to_bytes(names)
    assert train(labels, settings, tmp_path / "again.pt").to_bytes(names) == whole
    for die_after in (1, 3, 4):  # of eight iterations; two are an epoch
        with pytest.raises(Killed):
            train(labels, settings, tmp_path / "cut.pt", die_after=die_after)
    assert train(labels, settings, tmp_path / "cut.pt").to_bytes(names) == whole
    assert train(labels, settings, tmp_path / "cut.pt").to_bytes(names) == whole  # nothing was left to do
    assert train(labels, settings, tmp_path / "other.pt", seed=1).to_bytes(names) != whole


@pytest.mark.parametrize("start", [random_weaktr("v3"), random_weaktr("v1"), random_mctformer("v2")])
def test_gradients_of_parts_are_those_of_the_batch(
    tmp_path: Path, start: ClassTokenVit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three parts of unequal size, since an image cannot be read; stochastic depth would draw for each part anew."""
    labels = split(tmp_path, 6, 3)
    (tmp_path / "4.png").unlink()
    gradients: list[Tensor] = []

    def stop(training: Training, _: torch.optim.Optimizer) -> None:
        found = [item.grad.flatten() for item in training.model.parameters() if item.grad is not None]
        gradients.append(torch.cat(found))
        raise Killed

    monkeypatch.setattr(Training, "update", stop)
    parts: list[int] = []
    for images_at_once in (0, 2, 64):
        update = {"batch_size": 6, "images_at_once": images_at_once, "drop_path": 0.0}
        samples = TrainingImages(labels, labels.keys, FAST.model_copy(update=update), 0)
        network = deepcopy(start)
        network.register_forward_pre_hook(lambda _, given: parts.append(len(given[0])))
        run = TrainingRun("cpu", 0, tmp_path / "none.pt", "fingerprint", Path.write_bytes)
        with pytest.raises(Killed):
            fit(network, samples, run)
    assert parts == [5, 2, 2, 1, 5]
    whole, added, again = gradients
    assert float(whole.abs().max()) > 0
    torch.testing.assert_close(added, whole, rtol=1e-4, atol=1e-6)
    assert torch.equal(again, whole)


def test_the_model_is_a_file_that_the_loader_of_published_files_reads(tmp_path: Path) -> None:
    labels = split(tmp_path, 2, 2)
    best = train(labels, FAST, tmp_path / "checkpoint.pt")
    (tmp_path / "model.pth").write_bytes(best.to_bytes(labels.class_names))
    checkpoint = VitCheckpoint.read(tmp_path / "model.pth")
    assert checkpoint.class_names == ("class 0", "class 1")
    loaded = load_mctformer(checkpoint, "v2", heads=2)
    seen = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = tiny_network(2).eval()
    expected.load_state_dict(dict(best.state))
    assert torch.equal(loaded(seen)["class_token"], expected(seen)["class_token"])


def test_a_training_that_diverges_says_where_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    labels = split(tmp_path, 4, 2)
    settings = FAST.model_copy(update={"learning_rate": 1e30, "warmup_epochs": 1, "epochs": 3})
    with pytest.raises(DivergedError, match=r"NaN or infinite at iteration \d") as error:
        train(labels, settings, tmp_path / "checkpoint.pt")
    assert "Lower the learning rate" in str(error.value)
    kept = read_training(tmp_path / "checkpoint.pt", "fingerprint")
    assert kept is not None
    assert all(bool(torch.isfinite(value).all()) for value in kept.model.values())


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    labels = split(tmp_path, 2, 2)
    train(labels, FAST, tmp_path / "checkpoint.pt")
    kept = read_training(tmp_path / "checkpoint.pt", "fingerprint")
    assert kept is not None
    (tmp_path / "checkpoint.pt").write_bytes(replace(kept, fingerprint="another").to_bytes())
    with pytest.raises(UserError, match="another recipe, seed or input"):
        train(labels, FAST, tmp_path / "checkpoint.pt")


def test_images_that_cannot_be_read_are_told_and_none_is_an_error(tmp_path: Path) -> None:
    labels = split(tmp_path, 3, 2)
    (tmp_path / "2.png").unlink()
    best = train(labels, FAST, tmp_path / "one.pt")
    assert list(best.failed) == [2]
    for number in range(2):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(UserError, match="no training image can be read"):
        train(labels, FAST, tmp_path / "none.pt")


def test_best_counts_from_one_epoch(tmp_path: Path) -> None:
    labels = split(tmp_path, 1, 1)  # one class: every epoch is as good
    best = train(labels, FAST, tmp_path / "checkpoint.pt")
    assert (best.value, best.epochs, best.failed) == (1.0, 2, {})


PLAN = Plan(640, 64, 0)
"""Ten steps an epoch."""
PAPER = FitSettings(cooldown_epochs=10)


def rate(epoch: float, settings: FitSettings = PAPER, plan: Plan = PLAN) -> float:
    """Learning rate at a place of the training."""
    return peak_rate(settings, plan) * schedule_of(settings, plan).factor(int(epoch * plan.steps))


def cosine(epoch: int) -> float:
    return 1e-5 + (5e-5 - 1e-5) * (1 + math.cos(math.pi * epoch / 60)) / 2


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 1e-6),
        (1, 1.08e-5),
        (4, 4.02e-5),
        (5, cosine(5)),
        (30, 3e-5),
        (59, cosine(59)),
        (60, 1e-5),
        (69, 1e-5),
    ],
)
def test_the_rate_of_every_part_of_a_training(epoch: int, expected: float) -> None:
    for place in (epoch, epoch + 0.5, epoch + 0.9):  # the same all through an epoch
        assert rate(place) == pytest.approx(expected, rel=1e-9)


def test_timm_has_the_same_rates() -> None:
    import torch
    from timm.scheduler.cosine_lr import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-5)
    timm = CosineLRScheduler(optimizer, t_initial=60, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    for epoch in range(70):
        timm.step(epoch)
        assert rate(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


@pytest.mark.parametrize(
    ("epochs", "batch", "expected"),
    [
        # First, at the top (where the cosine has fallen as long as the rise took), after the last epoch.
        (60, 64, (1e-6, cosine(5), 1e-5)),  # the defaults: 4e-4 for a batch of 512
        (6, 512, (1e-6, 1e-5 + (4e-4 - 1e-5) / 2, 1e-5)),  # a rise of at most half of the epochs
        (1, 512, (4e-4, 1e-5, 1e-5)),
        (60, 2, (1e-6, 4e-4 / 256, 4e-4 / 256)),  # a peak below the least rate
    ],
)
def test_the_rates_of_settings(epochs: int, batch: int, expected: tuple[float, float, float]) -> None:
    settings, plan = FitSettings(epochs=epochs, cooldown_epochs=1), Plan(10 * batch, batch, 0)
    top = min(5, max(epochs // 2, 1))
    found = [rate(epoch, settings, plan) for epoch in (0, top, epochs)]
    assert found == [pytest.approx(value, rel=1e-9) for value in expected]
    assert schedule_of(settings, plan).iterations == 10 * (epochs + 1)


def test_positions_tokens_biases_and_norms_do_not_decay() -> None:
    network = tiny_network(3)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    others, decaying = make_optimizer(network, 0.05, 1e-3).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert decaying["eps"] == 1e-8
    plain = {names[id(parameter)] for parameter in others["params"]}
    assert {"pos_embed", "cls_token", "head.bias", "blocks.0.norm1.weight", "patch_embed.proj.bias"} <= plain
    heavy = {names[id(parameter)] for parameter in decaying["params"]}
    assert heavy == {name for name in names.values() if name.endswith("weight") and "norm" not in name}
    assert plain | heavy == set(names.values())


@pytest.mark.parametrize(("batch", "classes"), [(1, 1), (1, 7), (2, 1), (6, 7)])
def test_the_soft_margin_is_torchs(batch: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(batch + classes)
    logits = torch.randn(batch, classes, generator=generator) * 5
    targets = (torch.rand(batch, classes, generator=generator) < 0.4).float()
    expected = F.multilabel_soft_margin_loss(logits, targets)
    torch.testing.assert_close(soft_margins({"a": logits}, targets)["a"], expected)


def test_half_precision_is_computed_in_float32() -> None:
    logits, targets = torch.tensor([[30.0, -30.0]], dtype=torch.float16), torch.tensor([[1.0, 1.0]])
    loss = soft_margins({"a": logits}, targets)["a"]
    assert loss.dtype is torch.float32
    assert float(loss) == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (random_weaktr("v3"), ["class_token", "coarse", "fine"]),
        (random_mctformer("v2"), ["class_token", "patch"]),
        (random_mctformer("v1"), ["class_token"]),
    ],
)
def test_every_logit_of_a_network_counts_once(network: ClassTokenVit, names: list[str]) -> None:
    logits, targets = network(images(8, 8, count=3)), torch.eye(3)
    losses = soft_margins(logits, targets)
    assert list(losses) == names
    expected = sum(F.multilabel_soft_margin_loss(item, targets) for item in logits.values())
    torch.testing.assert_close(sum(losses.values()), expected)
