"""Detectors on given RoI features: OICR with class maps as a prior, WSDDN, MIST."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.wsod.detector import FrozenDetector, Sample, Standardise
from weaksam_cli.wsod.method import Method, Outputs, Regions
from weaksam_cli.wsod.mist import Mist
from weaksam_cli.wsod.oicr import MiningSettings, Oicr
from weaksam_cli.wsod.settings import HeadSettings
from weaksam_cli.wsod.wsddn import Wsddn

C, D = 3, 5


HEADS = HeadSettings(hidden=8)
EMBEDDED = MiningSettings(
    ratio=1, class_wise=True, weights="balanced", branch_weights=(1.0, 1.0), prior_weight=1.0, first="prior"
)
OICR = Oicr(heads=HEADS.model_copy(update={"shared": False}), mining=EMBEDDED)
METHODS = pytest.mark.parametrize(
    "method",
    [Wsddn(heads=HEADS), OICR, Oicr(heads=HeadSettings()), Mist(heads=HEADS, drop_block=None)],
    ids=["wsddn", "oicr", "published oicr", "mist"],
)


def detector_of(method: Method) -> FrozenDetector:
    torch.manual_seed(0)
    return FrozenDetector(method, torch.stack([torch.zeros(D), torch.ones(D)]), C)


def image(n: int, seed: int = 0, labels: tuple[int, ...] = (0, 2)) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 2, 2, generator=generator).mul(50).sort(dim=1).values
    boxes = torch.cat([corners[:, 0], corners[:, 1] + 5], dim=1)
    image_labels = torch.zeros(C)
    image_labels[list(labels)] = 1
    prior = torch.rand(n, C, generator=generator) * image_labels + 0.02
    return Sample(torch.randn(n, D, generator=generator), Regions(boxes, image_labels, prior))


def test_the_prior_decides_between_equal_scores() -> None:
    boxes, prior = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]]), torch.tensor([[0.1], [0.9]])
    regions = Regions(boxes, torch.ones(1), prior)
    assert OICR.mine(torch.ones(2, 1), regions).labels.tolist() == [-1, 0]
    mined = Oicr(heads=HEADS).mine(torch.tensor([[0.8], [0.2]]), regions)
    assert mined.labels.tolist() == [0, -1]
    torch.testing.assert_close(mined.weights, torch.tensor([0.8, 0.8]))


@pytest.mark.parametrize(("inclusive", "label"), [(False, 0), (True, -1)])
def test_published_oicr_does_not_count_the_last_pixel(inclusive: bool, label: int) -> None:
    """Four pixels of which two are common: an IoU of 1/2 on edges, of 1/3 on inclusive indexes without +1."""
    boxes = torch.tensor([[0.0, 0, 4, 100], [0, 0, 2, 100]])
    mining = MiningSettings(ratio=1, inclusive=inclusive)
    mined = Oicr(mining=mining).mine(torch.tensor([[0.8], [0.2]]), Regions(boxes, torch.ones(1)))
    assert mined.labels.tolist() == [0, label]


@METHODS
@given(
    n=st.sampled_from([0, 1, 2, 6, 7]), seed=st.integers(0, 50), labels=st.sampled_from([(), (1,), (0, 2)])
)
@settings(max_examples=25)
def test_losses_are_finite_for_every_number_of_proposals(
    method: Method, n: int, seed: int, labels: tuple[int, ...]
) -> None:
    losses = detector_of(method).train()([image(n, seed, labels)])
    assert isinstance(losses, dict)
    names = [item for item in losses if item.startswith("loss_ref_cls")]
    assert "loss_img" in losses and len(names) == method.branches
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()


@METHODS
def test_scores_are_probabilities(method: Method) -> None:
    (answer,) = detector_of(method).eval()([image(6)])
    assert answer.scores.shape == (6, C)
    assert ((answer.scores >= 0) & (answer.scores <= 1)).all()
    assert answer.boxes.shape == ((6, C, 4) if method.method == "mist" else (6, 4))


@pytest.mark.parametrize("recipe", ["oicr", "mist", "od-wscl", "wsovod"])
def test_it_learns_where_the_prior_points(recipe: str) -> None:
    method: Any = load_recipe(
        "wsod", f"{recipe}-lite0", ("heads.dropout=0", "heads.initial_deviation=0.01")
    ).recipe
    detector, sample = detector_of(method).train(), image(7, labels=(0,))
    assert sample.regions.prior is not None
    target = int(sample.regions.prior[:, 0].argmax())
    optimizer = torch.optim.Adam(detector.parameters(), lr=0.02)
    for _ in range(150):
        losses = detector([sample])
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    scores = detector.eval()([sample])[0].scores[:, 0] * sample.regions.prior[:, 0]
    assert int(scores.argmax()) == target


@pytest.mark.parametrize(
    ("weight", "prior", "share"),
    [(0, [0.9, 0.1], 1 / 2), (1, [0.9, 0.1], 9 / 10), (2, [0.9, 0.1], 81 / 82), (1, [0.5], 1)],
)
def test_the_softmax_over_proposals_starts_from_the_prior(
    weight: float, prior: list[float], share: float
) -> None:
    """The image's score is the first proposal's share where it alone is of the class."""
    logits = torch.tensor([[40.0, 0], [0, 40]])[: len(prior)]
    regions = Regions(torch.zeros(len(prior), 4), torch.tensor([1.0, 0]), torch.tensor([prior, prior]).T)
    loss = Wsddn(prior_weight=weight).losses(Outputs(logits, torch.zeros_like(logits)), regions)["loss_img"]
    other = 0 if len(prior) == 1 else math.log(share)  # 1 - (1 - share) of the absent class
    assert loss.item() == pytest.approx(-math.log(share) - other, abs=1e-4)


def test_features_are_standardised_and_cut() -> None:
    standardise = Standardise(torch.tensor([[1.0, 0.0], [2.0, 0.1]]))
    assert standardise(torch.tensor([[3.0, 5.0], [1.0, -0.2]])).tolist() == [[1.0, 6.0], [0.0, -2.0]]
