"""Losses of the embedded detectors, their balanced weights and the heads on detectron2."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.wsod.host import as_instances, build_region_detector
from weaksam_cli.wsod.recipe import HeadSettings, MiningSettings, PriorSettings, RegionDetectorRecipe
from weaksam_cli.wsod.region_objective import balanced_weights, mine

C, D = 3, 5


def _recipe(refinements: int = 2, **changes: object) -> RegionDetectorRecipe:
    heads = HeadSettings(refinements=refinements, hidden=8, dropout=0.0)
    return RegionDetectorRecipe(method="oicr", heads=heads, **changes)


def _image(n: int, seed: int = 0, labels: tuple[int, ...] = (0, 2)) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 2, 2, generator=generator).mul(50).sort(dim=1).values
    boxes = torch.cat([corners[:, 0], corners[:, 1] + 5], dim=1)
    image_labels = torch.zeros(C)
    image_labels[list(labels)] = 1
    prior = torch.rand(n, C, generator=generator) * image_labels
    instances = as_instances(boxes, torch.randn(n, D, generator=generator), prior, 60, 60)
    return {"proposals": instances, "image_labels": image_labels, "class_scores": torch.full((C,), 0.5)}


@pytest.mark.parametrize(
    ("labels", "share", "expected"),
    [
        ([-1, -1, 0, 1], 0.25, [1.5, 1.5, 0.5, 0.5]),
        ([0, 1], 0.25, [1, 1]),
        ([-1, -1, -1], 0.25, [1, 1, 1]),
        ([], 0.5, []),
    ],
)
def test_balanced_weights(labels: list[int], share: float, expected: list[float]) -> None:
    weights = balanced_weights(torch.tensor(labels, dtype=torch.int64), share)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


def test_the_prior_decides_between_equal_scores() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    prior = torch.tensor([[0.1], [0.9]])
    mined = mine(torch.ones(2, 1), boxes, torch.ones(1), prior, _recipe())
    assert mined.labels.tolist() == [-1, 0]
    without = _recipe(prior=PriorSettings(mining_weight=0.0), mining=MiningSettings(weights="score"))
    mined = mine(torch.tensor([[0.8], [0.2]]), boxes, torch.ones(1), prior, without)
    assert mined.labels.tolist() == [0, -1]
    torch.testing.assert_close(mined.weights, torch.tensor([0.8, 0.8]))


@given(st.sampled_from([0, 1, 2, 6, 7]), st.integers(0, 50), st.sampled_from([(), (1,), (0, 2)]))
def test_losses_are_finite_for_every_number_of_proposals(n: int, seed: int, labels: tuple[int, ...]) -> None:
    torch.manual_seed(seed)
    detector = build_region_detector(_recipe(), D, C).train()
    losses = detector([_image(n, seed, labels)])
    assert set(losses) == {"loss_img", "loss_ref_cls0", "loss_ref_cls1"}
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()


@pytest.mark.parametrize("refinements", [0, 1, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_scores_are_probabilities_times_priors(refinements: int, shared: bool) -> None:
    torch.manual_seed(0)
    heads = HeadSettings(refinements=refinements, hidden=4, shared=shared, dropout=0.0)
    detector = build_region_detector(
        RegionDetectorRecipe(method="oicr" if refinements else "wsddn", heads=heads), D, C
    ).eval()
    scores = detector([_image(6)])[0]
    assert scores.shape == (6, C)
    assert ((scores >= 0) & (scores <= 0.51)).all()


def test_it_learns_where_the_prior_points() -> None:
    torch.manual_seed(0)
    detector = build_region_detector(_recipe(), D, C).train()
    sample = _image(7, labels=(0,))
    target = int(sample["proposals"].prior[:, 0].argmax())  # type: ignore[attr-defined]
    optimizer = torch.optim.Adam(detector.parameters(), lr=0.02)
    for _ in range(150):
        losses = detector([sample])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    detector.eval()
    assert int(detector([sample])[0][:, 0].argmax()) == target


@pytest.mark.parametrize(("method", "refinements"), [("wsddn", 2), ("oicr", 0)])
def test_a_method_with_the_branches_of_another_is_refused(method: str, refinements: int) -> None:
    with pytest.raises(ValueError, match="refinements: method"):
        RegionDetectorRecipe(method=method, heads=HeadSettings(refinements=refinements))
