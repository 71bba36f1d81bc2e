"""C-MIDN against the worked example of our reading (oracle c_midn.json): removal, both image losses, coupled seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps
from weaksam_cli.artifacts.proposals import Proposals
from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.wsod.c_midn import CMidn, LabelMapSettings, map_overlaps
from weaksam_cli.wsod.method import Outputs, Regions, Seen
from weaksam_cli.wsod.oicr import MiningSettings

NAMES = [
    "part on top: small box covers little of the mask, its neighbours go, the whole object stays",
    "whole object on top: covered, nothing removed",
    "two objects of one class: second MIDN finds the other, both kept",
    "two classes, one without mask",
    "one_box",
    "two_boxes",
]


@pytest.fixture
def cases(oracle: Any) -> dict[str, Any]:
    published = oracle("c_midn")
    named = {case["name"]: case for case in published["cases"]}
    return named | {name: published[name] for name in ("one_box", "two_boxes")}


def regions_of(case: dict[str, Any]) -> Regions:
    label_map = np.zeros((100, 140), np.int32)
    for value, left, top, right, bottom in case["mask_regions_class1based_xyxy"]:
        label_map[top:bottom, left:right] = value
    boxes = as_boxes(case["boxes"])
    evidence = map_overlaps(boxes, label_map, len(case["image_labels"]))
    labels = torch.tensor(case["image_labels"], dtype=torch.float32)
    return Regions(torch.from_numpy(boxes), labels, evidence=torch.from_numpy(evidence))


def outputs_of(case: dict[str, Any]) -> Outputs:
    streams = [
        torch.cat([torch.tensor(case[f"{name}{pair}"]) for pair in (1, 2)], dim=1) for name in ("cls", "det")
    ]
    generator = torch.Generator().manual_seed(0)
    branches = torch.randn(3, len(case["boxes"]), 4, generator=generator)
    return Outputs(streams[0], streams[1], tuple(branches))


def test_the_cases_are_all_here(cases: dict[str, Any]) -> None:
    assert list(cases) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_as_worked_out(cases: dict[str, Any], name: str) -> None:
    case = cases[name]
    method, regions, outputs = CMidn(), regions_of(case), outputs_of(case)
    assert (method.removal.coverage, method.removal.iou) == (case["t_cov"], case["t_iou"])
    first, second = torch.tensor(case["s1"]), torch.tensor(case["s2"])
    coverage, _ = method.on_map(regions)
    removed = method.removed(first, regions)
    assert removed.int().tolist() == case["removed_mask"]
    for index, told in case["sgpr"].items():
        column = first[:, int(index)]
        assert int(column.argmax()) == told["top"]
        share = float(coverage[told["top"], int(index)])
        assert share == pytest.approx(told["coverage"] or 0, abs=1e-5)
        assert removed[:, int(index)].nonzero().flatten().tolist() == told["removed"]
    found = method.losses(outputs, regions)
    assert float(found["loss_img"]) == pytest.approx(case["loss_midn1"], abs=1e-5)
    assert float(found["loss_img2"]) == pytest.approx(case["loss_midn2"], abs=1e-5)
    seeds = method.coupled(first, second, regions)
    told = case["coupled_seeds"]
    torch.testing.assert_close(seeds.boxes, regions.boxes[[item["roi"] for item in told]])
    assert seeds.classes.tolist() == [item["cls"] for item in told]
    torch.testing.assert_close(
        seeds.scores, torch.tensor([item["score"] for item in told]), rtol=0, atol=1e-5
    )


def test_the_first_branch_learns_from_the_coupled_seeds(cases: dict[str, Any]) -> None:
    """Both objects are foreground to it; mined from the first pair alone, one of them would be background."""
    case = cases[NAMES[2]]
    method = CMidn(mining=MiningSettings(branch_weights=(1.0,), ratio=1))
    regions, outputs = regions_of(case), outputs_of(case)
    first, second = torch.tensor(case["s1"]), torch.tensor(case["s2"])
    coupled = method.assign(method.coupled(first, second, regions), regions)
    plain = method.mine(first, regions)
    assert coupled.labels.tolist() != plain.labels.tolist()
    logits = outputs.refinement_logits[0].log_softmax(dim=1)
    expected = -(logits.gather(1, coupled.labels[:, None] + 1)[:, 0] * coupled.weights).mean()
    one = Outputs(outputs.class_logits, outputs.detection_logits, outputs.refinement_logits[:1])
    assert float(method.losses(one, regions)["loss_ref_cls0"]) == pytest.approx(float(expected), abs=1e-5)


def test_nothing_is_removed_without_labels_or_proposals() -> None:
    for count, labels in ((0, (1.0, 1.0)), (5, (0.0, 0.0))):
        regions = Regions(torch.rand(count, 4), torch.tensor(labels), evidence=torch.ones(count, 4))
        scores = torch.rand(count, 2)
        assert not CMidn().removed(scores, regions).any()
        assert len(CMidn().coupled(scores, scores, regions)) == 0


def seen(maps: list[Any], classes: list[int], labels: list[int]) -> Seen:
    """An image of 4 x 6 with a fine map for each of `classes`."""
    count = len(classes)
    own = ClassMaps(
        np.asarray(classes, np.int32),
        np.full(count, KINDS.index("fine"), np.int8),
        np.zeros(count, np.int16),
        np.ones(count, np.float32),
        tuple(np.asarray(item, np.float32) for item in maps),
        (4, 6),
        np.zeros(3, np.float32),
    )
    boxes = as_boxes([[0.0, 0, 3, 4], [3.7, 0, 6, 4]])
    return Seen(np.zeros((4, 6, 3), np.uint8), Proposals.from_boxes(boxes, "import"), labels, 3, own)


LEFT = np.repeat([[1.0, 0.9, 0.8, 0.1, 0.0, 0.0]], 4, axis=0)


@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        ([0, 2], [0, 2], [1, 1, 1, 3, 3, 3]),
        ([0, 2], [2], [0, 0, 0, 3, 3, 3]),
        ([0, 2], [0, 1], [1, 1, 1, 0, 0, 0]),
        ([0, 2], [], [0] * 6),
        ([], [1], [0] * 6),
    ],
)
def test_label_map(classes: list[int], labels: list[int], expected: list[int]) -> None:
    """Only classes of the image's labels that have a map, and background where none is clear."""
    given = seen([LEFT, LEFT[:, ::-1]][: len(classes)], classes, labels)
    settings = LabelMapSettings()
    assert settings.label_map(given).tolist() == [expected] * 4
    columns = settings.columns(given)
    assert columns.shape == (2, 6) and columns.dtype == np.float32
    for index in range(3):
        mask = np.asarray(expected) == index + 1
        area = mask.sum()
        for row, (low, high) in enumerate([(0, 3), (3, 6)]):
            inside = mask[low:high].sum()
            assert columns[row, index] == pytest.approx(inside / area if area else 0)
            assert columns[row, 3 + index] == pytest.approx(inside / (area + 3 - inside) if area else 0)
