"""From new images to detections: the stages' own predictors, with the recipes that the detector was trained with.

A retrained detector needs its file alone. One of WSOD makes class maps, points and proposals of an image first, in memory,
image by image; which classes have maps is predicted, as for the test split. Both together do both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from weaksam_cli.artifacts.computed import ComputedArtifact
from weaksam_cli.artifacts.receipt import Receipt, read_receipt
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.unlabelled import UnlabelledSplit
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.detectors import ResultsPredictor
from weaksam_cli.engine.freshness import Freshness, State
from weaksam_cli.engine.recipes import recorded_recipe
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.sharded import ImageByImage, PerImage
from weaksam_cli.engine.steps import Step, computed
from weaksam_cli.errors import UserError
from weaksam_cli.predict.trained import Trained, run_of
from weaksam_cli.retrain.both import BothSettings, FusedDetector
from weaksam_cli.retrain.settings import InferenceSettings

NEW_IMAGES: Final = "new images"
"""The split of the images: no dataset has one of this name, which is no plain word."""
_BEFORE: Final = ("cam", "prompt", "propose")


class PredictionSettings(RecipeModel):
    """All that decides the detections besides images, files and seeds.

    Attributes:
        classes: name -> id in COCO files.
        steps: the settings of each step, by its title.
    """

    classes: dict[str, int]
    steps: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Prediction:
    """What makes detections of new images.

    Attributes:
        steps: of the stages that run; the last gives the detections.
        context: what the last is given.
        settings: that decide the result.
    """

    steps: tuple[Step, ...]
    context: Context
    settings: PredictionSettings

    @property
    def inputs(self) -> dict[str, Path]:
        """Name -> file that the detections are made with."""
        return {
            name: path
            for step in self.steps
            for name, path in step.inputs.items()
            if name != "data" and NEW_IMAGES not in path.name
        }

    def work(self) -> PerImage:
        """Image by image."""
        return _work(self.steps[-1], self.context)


def predict(trained: Trained, images: UnlabelledSplit, context: Context) -> Prediction:
    """The detections of images by a trained detector.

    Args:
        trained: the detector.
        images: a split of the name `NEW_IMAGES` with the detector's classes.
        context: what the command was told; its run plays no part.

    Raises:
        UserError: what the detector needs is gone, stale (without `allow_stale`), or was made by another program.
    """
    context = replace(context, unlabelled=images, run=trained.run or context.run)
    make = {"retrain": _retrained, "wsod": _wsod, "both": _both}[trained.use]
    steps, context = make(trained, context)
    settings = PredictionSettings(
        classes={category.name: category.id for category in trained.categories},
        steps={step.title: step.settings.model_dump(mode="json") for step in steps},
    )
    return Prediction(tuple(steps), context, settings)


def _retrained(trained: Trained, context: Context) -> tuple[list[Step], Context]:
    from weaksam_cli.retrain.stage import detection_step

    return [detection_step(retrained_inference(trained), trained.model, context, NEW_IMAGES)], context


def retrained_inference(trained: Trained) -> InferenceSettings:
    """How a retrained detector looks at images: as it did in its run, else at the largest size of its training.

    Raises:
        UserError: its file is damaged.
    """
    found = trained.detections()
    if found:
        return InferenceSettings.model_validate(found[0][2].identity.recipe)
    from weaksam_cli.retrain.detector import trained_inference

    return InferenceSettings(inference=trained_inference(trained.model))


def _wsod(trained: Trained, context: Context) -> tuple[list[Step], Context]:
    found = trained.detections()
    if not found or trained.run is None:
        what = "the detector has not detected anything yet, so its recipe is not known"
        raise UserError(what, where=str(trained.model), remedy="Run `weaksam wsod` to its end")
    _, path, receipt = found[-1]  # of the split that it learnt from
    _refuse_stale(path, trained.run.root, context)
    steps: list[Step] = []
    made: dict[str, ComputedArtifact] = {}
    for stage, artifact in _before(receipt, trained.run.root).items():
        more, own = _steps_like(artifact, replace(context, computed=made))
        steps, made = [*steps, *more], {**made, stage: computed(more[-1], own)}
    more, own = _steps_like(path, replace(context, computed=made))
    return [*steps, *more], own


def _both(trained: Trained, context: Context) -> tuple[list[Step], Context]:
    settings = BothSettings.model_validate(trained.detections()[0][2].identity.recipe)
    wsod, own = _wsod(replace(trained, use="wsod"), context)
    retrained, _ = _retrained(replace(trained, use="retrain"), context)

    def work(_: Context) -> PerImage:
        first, second = _work(wsod[-1], own), _work(retrained[-1], context)
        assert isinstance(first.predictor, ResultsPredictor) and isinstance(
            second.predictor, ResultsPredictor
        )
        assert settings.both is not None, "the detections of both were made with it"
        detector = FusedDetector(first.predictor.detector, second.predictor.detector, settings.both)
        return replace(first, predictor=ResultsPredictor(detector, first.predictor.split))

    together = replace(
        retrained[-1], settings=settings, inputs={}, run=ImageByImage(work), title="both detectors"
    )
    return [*wsod, *retrained, together], context


def _work(step: Step, context: Context) -> PerImage:
    assert isinstance(step.run, ImageByImage)
    return step.run.work(context)


def _refuse_stale(path: Path, root: Path, context: Context) -> None:
    standing = Freshness(root).of(path)
    if standing.state is State.FRESH:
        return
    what = f"the detector is {standing.state.value}: {'; '.join(standing.reasons)}"
    if not context.allow_stale:
        remedy = "Run `weaksam wsod` again, or go on with it: --allow-stale"
        raise UserError(what, where=str(path), remedy=remedy)
    context.console.warn(what)


def _before(receipt: Receipt, root: Path) -> dict[str, Path]:
    """The artifacts of the earlier stages that a detector was made from, in the order of the pipeline.

    Raises:
        UserError: class maps of two kinds, or an artifact that is gone or of another program.
    """
    found: dict[str, Path] = {}
    seen, waiting = set(), [receipt]
    while waiting:
        for name, item in waiting.pop(0).identity.inputs.items():
            path = root / item.path
            if not item.file or path in seen:
                continue
            seen.add(path)
            if name in _BEFORE and found.setdefault(name, path) != path:
                what = f"the detector was made from two artifacts of {name}, {found[name]} and {path}"
                raise UserError(what, where=str(root), remedy="Train it anew, or use the retrained one")
            record = read_receipt(path)
            if record is not None:
                waiting.append(record)
    return {stage: found[stage] for stage in _BEFORE if stage in found}


def _steps_like(artifact: Path, context: Context) -> tuple[list[Step], Context]:
    """The steps of the stage of an artifact, with its recipe, that are about the new images, and what they are given.

    The last makes the like of the artifact.

    Raises:
        UserError: the artifact is gone, imported, or not of the recipe that its receipt names.
    """
    receipt = read_receipt(artifact)
    stage = receipt.identity.stage if receipt else ""
    if receipt is None or stage not in (*_BEFORE, "wsod"):
        what = "is gone" if receipt is None else "was imported"
        raise UserError(
            f"the detector was trained with it, and it {what}, so the like of it cannot be made of other images",
            where=str(artifact),
            remedy="Use the retrained detector (--use retrain), or train one with proposals of weaksam",
        )
    loaded = recorded_recipe(receipt)
    context = replace(
        context,
        run=_run_of(artifact),
        dataset=receipt.identity.dataset,
        seed=receipt.identity.seed,
        recipe_name=loaded.name,
    )
    steps = [step for step in loaded.steps(context, NEW_IMAGES) if step.split == NEW_IMAGES]
    if steps[-1].settings.model_dump(mode="json") != receipt.identity.recipe:
        remedy = f"Make it again: weaksam {stage} --overwrite"
        raise UserError(
            f"was not made with recipe {loaded.name} as it is now", where=str(artifact), remedy=remedy
        )
    return steps, context


def _run_of(artifact: Path) -> RunDirectory:
    """Its run; an artifact with a receipt of a stage lies in one."""
    run = run_of(artifact)
    if run is None:
        what = "lies in no run, so what it was made with is not known"
        raise UserError(what, where=str(artifact), remedy="Train the detector with artifacts of a run")
    return run
