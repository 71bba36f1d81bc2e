"""The training loop: small datasets, determinism, resume, divergence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.cam.vit_training.helpers import FAST, Killed, split, tiny_network, train
from weaksam_cli.cam.vit_training.fit import TrainingDivergedError
from weaksam_cli.cam.vit_training.product import model_bytes
from weaksam_cli.errors import UserError
from weaksam_cli.models.vit.checkpoint import build_mctformer, read_checkpoint


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


def test_killed_and_resumed_it_gives_the_same_bytes(tmp_path: Path) -> None:
    labels, settings = split(tmp_path, 5, 2), FAST.model_copy(update={"epochs": 4})
    names = labels.class_names
    whole = model_bytes(train(labels, settings, tmp_path / "whole.pt"), names)
    assert model_bytes(train(labels, settings, tmp_path / "again.pt"), names) == whole
    for die_after in (1, 3):
        with pytest.raises(Killed):
            train(labels, settings, tmp_path / "cut.pt", die_after=die_after)
    assert model_bytes(train(labels, settings, tmp_path / "cut.pt"), names) == whole
    assert model_bytes(train(labels, settings, tmp_path / "cut.pt"), names) == whole  # nothing was left to do
    assert model_bytes(train(labels, settings, tmp_path / "other.pt", seed=1), names) != whole


def test_the_model_is_a_file_that_the_loader_of_published_files_reads(tmp_path: Path) -> None:
    labels = split(tmp_path, 2, 2)
    best = train(labels, FAST, tmp_path / "checkpoint.pt")
    (tmp_path / "model.pth").write_bytes(model_bytes(best, labels.class_names))
    checkpoint = read_checkpoint(tmp_path / "model.pth")
    assert checkpoint.class_names == ("class 0", "class 1")
    loaded = build_mctformer(checkpoint, "v2", heads=2)
    images = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = tiny_network(2).eval()
    expected.load_state_dict(dict(best.state))
    assert torch.equal(loaded(images).class_token, expected(images).class_token)


def test_a_training_that_diverges_says_where_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    labels = split(tmp_path, 4, 2)
    settings = FAST.model_copy(update={"learning_rate": 1e30, "warmup_epochs": 1, "epochs": 3})
    with pytest.raises(TrainingDivergedError, match=r"NaN or infinite in epoch \d") as error:
        train(labels, settings, tmp_path / "checkpoint.pt")
    assert "fit.learning_rate" in str(error.value)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(bool(torch.isfinite(value).all()) for value in kept["model"]["network"].values())


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    labels = split(tmp_path, 2, 2)
    train(labels, FAST, tmp_path / "checkpoint.pt")
    values = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save(values | {"fingerprint": "another"}, tmp_path / "checkpoint.pt")
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
    assert replace(best, state={}, failed={}).__dict__ == {
        "value": 1.0,
        "epochs": 2,
        "state": {},
        "failed": {},
    }
