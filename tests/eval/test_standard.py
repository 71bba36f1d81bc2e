"""What is evaluated of which artifact, and what is left without boxes."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np

from tests.artifacts.helpers import STAGE, context
from tests.exchange.helpers import labels
from tests.tiny import CLASSES, synthetic_cam
from weaksam_cli.core.types import GroundTruth
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.engine.steps import make
from weaksam_cli.eval.case import AnnotatedSplit, Case
from weaksam_cli.eval.standard import EVALUATORS, Recipe, evaluate_all

KEYS = {"000001": 1, "000002": 2}


def names_of(tmp_path: Path, truth: AnnotatedSplit) -> list[str]:
    cam = tmp_path / "cam" / "trainval.h5"
    make(synthetic_cam(cam, list(KEYS)), STAGE, context(tmp_path))
    split = labels(KEYS, classes=len(CLASSES))
    images = [image.model_copy(update={"labels": list(split.class_names)}) for image in split.file.images]
    split.file.images[:] = images
    artifacts = {"data": tmp_path / "labels.json", "cam": cam}
    found = evaluate_all(truth, split, "voc", artifacts, Recipe())
    assert found["curves"] == []
    return [item["name"] for item in found["metrics"]]


def test_without_boxes_classification_is_left(tmp_path: Path) -> None:
    assert names_of(tmp_path, AnnotatedSplit({}, (), ())) == ["classification mAP"]


def test_with_boxes_there_is_a_line_a_kind_of_maps(tmp_path: Path) -> None:
    box = GroundTruth(np.asarray([[0, 0, 9, 9]], np.float32), np.zeros(1, np.int32), np.zeros(1, bool))
    assert names_of(tmp_path, AnnotatedSplit(dict.fromkeys(KEYS, box), (), ())) == [
        "classification mAP",
        "energy of coarse maps inside boxes",
        "energy of fine maps inside boxes",
    ]


def test_every_evaluator_takes_a_case_and_its_part_of_the_recipe() -> None:
    for evaluator in {module for modules in EVALUATORS.values() for module in modules}:
        case, settings = inspect.signature(evaluator.evaluate, eval_str=True).parameters.values()
        assert case.annotation is Case
        assert issubclass(Recipe, settings.annotation)


def test_the_recipe_that_comes_with_it_is_the_default() -> None:
    assert load_recipe("eval", "default").recipe == Recipe()
