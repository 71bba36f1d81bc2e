"""Two lists as one: whose turn it is, what gives way, what clues keep, and masks of one list alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.artifacts.helpers import context

from weaksam_cli.artifacts.proposals import SOURCES, Proposals
from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.errors import UserError
from weaksam_cli.propose.joined import Recipe, build_parts, join, steps
from weaksam_cli.propose.stage import ClueSettings

PARTS: dict[str, Any] = {
    "first": {"recipe": "region-tree"},
    "clues": {"sources": ["fine"]},
    "second": {"method": "selective-search"},
}


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate(PARTS | changes)


def at(*lefts: float, source: str = "grid", quality: float | None = None) -> Proposals:
    """Boxes of 10 x 10 pixels at these columns."""
    boxes = as_boxes([[left, 0, left + 10, 10] for left in lefts])
    estimates = None if quality is None else np.full(len(boxes), quality, np.float32)
    return Proposals.from_boxes(boxes, source, estimates)  # type: ignore[arg-type]


def lefts(proposals: Proposals) -> list[float]:
    return [float(left) for left in proposals.boxes[:, 0]]


TAKEN: dict[str, tuple[list[float], list[float], dict[str, Any], list[float]]] = {
    "nothing": ([], [], {}, []),
    "one list": ([0, 20], [], {}, [0, 20]),
    "the other": ([], [100, 120], {}, [100, 120]),
    "in turn": ([0, 20, 40], [100, 120], {}, [0, 100, 20, 120, 40]),
    "two of the second": ([0, 20], [100, 120, 140], {"turns": (1, 2)}, [0, 100, 120, 20, 140]),
    "at most": ([0, 20, 40], [100, 120, 140], {"max_boxes": 3}, [0, 100, 20]),
    "nearly equal": ([0, 20], [0.5, 120], {}, [0, 20, 120]),
    "less equal": ([0, 20], [1, 120], {}, [0, 1, 20, 120]),
    "snapped": ([0, 20, 40], [24, 43, 22], {"snap": 0.2, "turns": (1, 3)}, [0, 20, 40]),
    "snapped to nothing": ([], [24, 44], {"snap": 0.2}, [24, 44]),
}


@pytest.mark.parametrize("name", list(TAKEN))
def test_boxes_are_taken_in_turn(name: str) -> None:
    first, second, changes, expected = TAKEN[name]
    found = join(at(*first), at(*second, source="search"), recipe(**changes))
    assert lefts(found) == expected


def test_a_snapped_box_is_that_of_the_first_list_with_all_that_is_known_of_it() -> None:
    first = at(0, 3, quality=0.25)
    better = Proposals.concatenate([first, at(4, quality=0.75)])
    found = join(better, at(3.4, source="search"), recipe(snap=1.0, max_boxes=2, nms=0.99))
    assert lefts(found) == [0, 4]
    assert found.predicted_iou.tolist() == [0.25, 0.75]
    assert SOURCES[found.source[1]] == "grid"


def test_boxes_of_clues_come_last_and_only_where_no_other_box_is() -> None:
    first = Proposals.concatenate([at(0, 20), at(0.2, 60, 120, source="fine")])
    found = join(first, at(100, 120, source="search"), recipe(max_boxes=3))
    assert lefts(found) == [0, 100, 20, 60, 120]
    assert [SOURCES[index] for index in found.source[3:]] == ["fine", "fine"]


def test_masks_that_one_list_has_are_kept() -> None:
    from dataclasses import replace

    first = replace(at(0, 20), counts=[b"a", b"b"])
    assert join(first, at(100), recipe()).counts == [b"a", b"", b"b"]
    assert join(at(100), first, recipe()).counts == [b"", b"a", b"b"]
    assert join(at(0), at(100), recipe()).counts is None


def test_a_part_is_a_recipe_by_name_with_changes_and_is_told_as_a_whole() -> None:
    found = recipe(first={"recipe": "region-tree", "grid_boxes": 7})
    whole: Any = load_recipe("propose", "region-tree").recipe
    assert found.first == whole.model_copy(update={"grid_boxes": 7})
    dumped = found.model_dump(mode="json")
    assert dumped["first"]["tree"] == whole.tree.model_dump(mode="json")
    assert Recipe.model_validate(dumped) == found
    with pytest.raises(UserError, match="did you mean 'region_tree'"):
        recipe(first={"method": "region_trees"})
    with pytest.raises(ValueError, match="grid_box"):
        recipe(first={"recipe": "region-tree", "grid_box": 7})


def test_set_reaches_into_a_part() -> None:
    found: Any = load_recipe(
        "propose", "region-tree-edges", ["second.beta=0.6", "first.tree.min_side=9"]
    ).recipe
    assert (found.second.beta, found.first.tree.min_side) == (0.6, 9)


def test_the_step_has_the_inputs_of_both(tmp_path: Path) -> None:
    weights = tmp_path / "w.h5"
    weights.write_bytes(b"")
    both = recipe(second={"method": "edge-boxes", "weights": str(weights)})
    (step,) = steps(both, context(tmp_path), "trainval")
    assert set(step.inputs) == {"data", "prompt", "weights-2"}
    assert step.settings == both
    (unprompted,) = steps(
        both.model_copy(update={"clues": ClueSettings(sources=())}), context(tmp_path), "trainval"
    )
    assert set(unprompted.inputs) == {"data", "weights-2"}


def test_each_method_gets_the_points_that_it_takes() -> None:
    from weaksam_cli.core.types import Points

    point = Points(
        np.asarray([[30, 20]], np.int32), np.zeros(1, np.int32), np.ones(1, np.float32), np.zeros(1, np.int16)
    )
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    first = {"recipe": "region-tree", "clue_nms": 1.0}
    both = recipe(first=first, second={"method": "selective-search", "mode": "single"}, clue_nms=1.0)
    found = build_parts([None, None], both, None, "cpu")(image, {"fine": point, "coarse": point})
    sources = {SOURCES[index] for index in found.source}
    assert "coarse" not in sources and sources >= {"grid", "search", "fine"}
