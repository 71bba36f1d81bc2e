"""What every method of the comparators must do, on either network: a new one is a name in `COMPARATORS`.

What each of them computes is compared with its oracle in a file of its own.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import FAST, run_here
from tests.wsod.vgg_helpers import CLASSES, detector_of, sample

from weaksam_cli.engine.recipes import load_recipe, recipe_names
from weaksam_cli.training import loop
from weaksam_cli.wsod.detector import FrozenDetector, RegionDetector, Sample

COMPARATORS = (
    "casd",
    "c-mil",
    "c-midn",
    "cbl",
    "mist",
    "od-wscl",
    "wsddn",
    "wsod2",
    "wsovod",
    "yang2019",
)
EVERY = pytest.mark.parametrize("name", COMPARATORS)
CASES = [
    ((0,), (1,)), ((0,), ()), ((1,), (1,)), ((1,), (0, 2)), ((2,), (1,)), ((2,), (0, 2)), ((7, 0), (1,)),
    ((30, 7), ()), ((30, 7), (0, 2)),
]  # fmt: skip
"""Proposals of each image that is in memory, and the classes of each."""
WIDTH = 5


def method_of(name: str, network: str) -> Any:
    """With the settings of its recipe, and outputs that differ from proposal to proposal."""
    changes = ("heads.initial_deviation=0.02", "network.weights=random")
    return load_recipe("wsod", f"{name}-{network}", changes[: 1 + (network == "vgg16")]).recipe


def with_evidence(method: Any, item: Sample) -> Sample:
    if method.evidence is None:
        return item
    generator = torch.Generator().manual_seed(len(item.regions.boxes))
    values = torch.rand(len(item.regions.boxes), method.evidence.width(CLASSES), generator=generator)
    return Sample(item.input, replace(item.regions, evidence=values))


def on_features(item: Sample) -> Sample:
    """As lite0's features, with a prior."""
    generator = torch.Generator().manual_seed(7)
    count = len(item.regions.boxes)
    prior = torch.rand(count, CLASSES, generator=generator) + 0.02
    return Sample(torch.randn(count, WIDTH, generator=generator), replace(item.regions, prior=prior))


def check_losses_and_answers(detector: RegionDetector, items: list[Sample]) -> None:
    losses = detector.train()(items)
    assert isinstance(losses, dict) and "loss_img" in losses
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    gradients = [item.grad for item in detector.parameters() if item.grad is not None]
    assert gradients and all(torch.isfinite(value).all() for value in gradients)
    answers = detector.eval()(items)
    assert isinstance(answers, list)
    for item, answer in zip(items, answers, strict=True):
        count = len(item.regions.boxes)
        if detector.method.finds_boxes:
            count = max(count, len(answer.scores))
        assert answer.scores.shape == (count, CLASSES)
        assert answer.boxes.shape in ((count, 4), (count, CLASSES, 4))
        assert torch.isfinite(answer.scores).all() and torch.isfinite(answer.boxes).all()
        assert ((answer.scores >= 0) & (answer.scores <= 1 + 1e-6)).all()


@EVERY
@pytest.mark.parametrize(("counts", "present"), CASES)
def test_every_number_of_proposals_and_classes(
    name: str, counts: tuple[int, ...], present: tuple[int, ...]
) -> None:
    plain = [sample(count, present=present) for count in counts]
    method = method_of(name, "vgg16")
    check_losses_and_answers(detector_of(method), [with_evidence(method, item) for item in plain])
    method = method_of(name, "lite0")
    torch.manual_seed(0)
    frozen = FrozenDetector(method, torch.stack([torch.zeros(WIDTH), torch.ones(WIDTH)]), CLASSES)
    check_losses_and_answers(frozen, [with_evidence(method, on_features(item)) for item in plain])


def wsod(folder: Path, recipe: str, *more: str, code: int = 0) -> str:
    vgg = ["network.widths=[4, 6, 8, 8, 8]", "network.hidden=16"]
    sizes = ["network.train_images.short_sides=[64]", "network.test_images.short_sides=[64]"]
    short = ["schedule.epochs=1", "schedule.batch_size=4", "schedule.images_at_once=2"]
    alike = ["schedule.milestones=[]", "proposals.min_side=4", "schedule.warmup_iterations=0"]
    if load_recipe("wsod", recipe).recipe.model_dump()["schedule"]["iterations"]:
        short[0] = "schedule.iterations=3"
    if recipe == "wsovod-vgg16":
        alike.append("texts.weights=null")  # CLIP's own
    on_vgg = recipe.endswith("-vgg16")
    settings = [*vgg, *sizes, "network.weights=random", *short, *alike] if on_vgg else [*FAST["wsod"]]
    sets = [word for setting in settings for word in ("--set", setting)]
    common = ("--dataset", "tiny", "--workers", "1", "--device", "cpu", "--variant", recipe)
    result = run_here("wsod", "--recipe", recipe, *common, *sets, *more)
    assert result.exit_code == code, result.output
    return result.output


@EVERY
@pytest.mark.parametrize("network", ["lite0", "vgg16"])
def test_it_trains_then_detects(
    finished: Path, name: str, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    recipe = f"{name}-{network}"
    assert recipe in recipe_names("wsod")
    wsod(finished, recipe)
    folder = finished / "runs" / "tiny" / f"wsod@{recipe}"
    asks = method_of(name, network).evidence is not None
    assert (folder / "evidence-trainval.h5").is_file() == asks
    for split in ("trainval", "test"):
        found = json.loads((folder / "detections" / f"{split}.json").read_text())
        assert found and all(0 < item["score"] <= 1 and min(item["bbox"][2:]) > 0 for item in found)
        boxes = np.asarray([item["bbox"] for item in found])
        assert (boxes[:, :2] + boxes[:, 2:] <= np.asarray([64, 48]) + 1e-2).all(), (
            "they end where the image does"
        )
    assert "fresh" in wsod(finished, recipe) and "resumed" not in wsod(finished, recipe)


@EVERY
def test_killed_and_resumed_it_ends_in_the_same_bytes(
    finished: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever moves over the run follows from the iteration, or is in the checkpoint."""
    monkeypatch.chdir(finished)
    recipe = f"{name}-lite0"
    period = ("--split", "trainval", "--checkpoint-every", "1")
    path = finished / "runs" / "tiny" / f"wsod@{recipe}" / "model.safetensors"
    wsod(finished, recipe, *period)
    whole = path.read_bytes()
    path.unlink()
    path.with_name("model.safetensors.receipt.json").unlink()
    save, steps = loop._save, []

    def die(training: loop.Training, extras: Any) -> None:
        save(training, extras)
        steps.append(training.iteration)
        if steps == [0, 1]:
            raise SystemExit(9)

    monkeypatch.setattr(loop, "_save", die)
    wsod(finished, recipe, *period, code=9)
    wsod(finished, recipe, *period)
    assert steps[:2] == [0, 1] and steps[2] == 2
    assert path.read_bytes() == whole


PAGE = Path(__file__).parents[2] / "docs" / "comparators.md"


def test_the_diff_on_the_page_is_what_stands_in_the_files() -> None:
    (diff,) = re.findall(r"^```diff\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    left, compared = iter(()), 0
    for line in diff.splitlines():
        if line.startswith("+++ "):
            left = iter((PAGE.parents[1] / line.removeprefix("+++ b/")).read_text().splitlines())
        elif line.startswith("+"):
            assert line[1:] in left, f"{line[1:]!r} does not stand where the page has it"
            compared += 1
    assert compared > 30


THEIRS = '''
"""OICR of which the first branch counts twice."""
from typing import Literal

from weaksam_cli.wsod.oicr import MiningSettings, NearBest, RefiningRecipe
from weaksam_cli.wsod.stage import detector_steps


class Theirs(NearBest):
    method: Literal["theirs"] = "theirs"
    mining: MiningSettings = MiningSettings(branch_weights=(2.0, 1.0))


class Recipe(Theirs, RefiningRecipe):
    pass


def steps(recipe, context, split):
    return detector_steps(recipe, recipe.part(Theirs), context, split)
'''


def test_a_method_of_another_distribution_is_found_and_trains(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed beside weaksam: a module, and an entry point of the group `weaksam.wsod` that names it."""
    information = tmp_path / "theirs-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[weaksam.wsod]\ntheirs = their_wsod\n")
    (tmp_path / "their_wsod.py").write_text(THEIRS)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("method: theirs\nnetwork: {name: lite0}\nschedule: {epochs: 1}\n")
    monkeypatch.chdir(finished)
    monkeypatch.syspath_prepend(tmp_path)
    sets = [word for setting in FAST["wsod"] for word in ("--set", setting)]
    common = ("--dataset", "tiny", "--workers", "1", "--split", "trainval", "--variant", "theirs")
    result = run_here("wsod", "--recipe", str(recipe), *common, *sets)
    assert result.exit_code == 0, result.output
    assert (finished / "runs" / "tiny" / "wsod@theirs" / "detections" / "trainval.json").is_file()
