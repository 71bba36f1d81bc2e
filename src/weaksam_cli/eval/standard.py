"""The metrics of the field for every artifact of a run.

A further metric is a module with `evaluate(case, settings)`, and its name in a line of `EVALUATORS`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from weaksam_cli.artifacts.receipt import InputDigest
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.detections import holds_masks
from weaksam_cli.data.labels import Labels
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.freshness import Standing, State
from weaksam_cli.engine.steps import Step, preview
from weaksam_cli.eval import (
    coco_ap,
    corloc,
    maps,
    mask_ap,
    pointing,
    pseudo_boxes,
    pseudo_masks,
    recall,
    voc_ap,
)
from weaksam_cli.eval.case import AnnotatedSplit, Case, load_ground_truth
from weaksam_cli.eval.report import draw_results, show_results
from weaksam_cli.eval.results import read_results
from weaksam_cli.eval.stage import RESULTS, STAGE, artifacts_of, stale_variants

EVALUATORS: dict[str, tuple[ModuleType, ...]] = {
    "cam": (maps,),
    "prompt": (pointing,),
    "propose": (recall,),
    "wsod": (corloc, voc_ap, coco_ap, mask_ap),
    "pgt": (pseudo_boxes, pseudo_masks),
    "retrain": (corloc, voc_ap, coco_ap, mask_ap),
    "both": (corloc, voc_ap, coco_ap),
}
WITHOUT_BOXES = (maps,)
"""What has something to say of image-level labels alone."""
PLOT = Schema("weaksam/recall-plot", 1, ())
_SHOWN_WARNINGS = 5


class Recipe(
    recall.RecallSettings,
    corloc.CorlocSettings,
    voc_ap.VocSettings,
    coco_ap.CocoSettings,
    mask_ap.MaskApSettings,
):
    """Which protocols are computed, and how."""

    method: Literal["standard"] = "standard"


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """One results file a split, the plot of its curves, and its table."""
    source, labels = context.source(), context.split(split).read()
    part = source.splits[split]
    inputs = _usable(context, split)
    drawn = any(path.suffix == ".json" and holds_masks(path) for path in inputs.values())
    truth = load_ground_truth(context.run.root, source, labels, masks=drawn)
    if not truth.objects:
        context.console.warn("this dataset has labels and no boxes: only classification can be evaluated")

    def run(job: Job) -> Outcome:
        for warning in truth.warnings[:_SHOWN_WARNINGS]:
            context.console.warn(f"ground truth: {warning}")
        content = {
            "format": RESULTS.name,
            "format_version": RESULTS.version,
            "dataset": context.dataset,
            "split": split,
            "images": len(labels.file.images),
            "ground_truth": {
                **truth.counts(),
                "objects_left_out": [{"image": image, "reason": reason} for image, reason in truth.left_out],
                "warnings": list(truth.warnings),
            },
            **evaluate_all(truth, labels, part.layout, inputs, recipe),
        }
        text = json.dumps(content, indent=1, ensure_ascii=False)
        job.context.ops.write_atomically(job.path, text.encode() + b"\n")
        return Outcome(len(labels.file.images), left_out=truth.left_out)

    results = Step(
        path=context.run.output("eval", split),
        schema=RESULTS,
        split=split,
        settings=recipe,
        inputs=inputs,
        given={"source": InputDigest(path=part.path, sha256=truth.digest(), file=False)},
        run=run,
        title="figures",
    )
    yield results
    if truth.objects and any(name.partition("@")[0] == "propose" for name in inputs):
        yield plot_step(results.path, split)
    found = preview(results, STAGE, context)
    # After a dry run there is nothing to show, or what is there is not what would be made.
    if isinstance(found, Standing) and found.state is State.FRESH:
        show_results(results.path, context.console)


def _usable(context: Context, split: str) -> dict[str, Path]:
    """The artifacts of a split; a variant that is stale is left out, so that it does not hold up the others."""
    found = artifacts_of(context, split)
    if context.allow_stale or context.strict:
        return found
    for name, why in stale_variants(context, found).items():
        context.console.warn(f"{name} is left out: {why}; make it again, or take it as it is: --allow-stale")
        del found[name]
    return found


def evaluate_all(
    truth: AnnotatedSplit, labels: Labels, layout: str, artifacts: Mapping[str, Path], recipe: Recipe
) -> dict[str, list[dict[str, Any]]]:
    """`metrics` of all artifacts and `curves` of proposals, as they stand in the results file."""
    metrics: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    opened: dict[tuple[str, Path], Any] = {}
    for name, path in artifacts.items():
        stage, _, variant = name.partition("@")
        case = Case(stage, variant, path, labels, truth.objects, layout, artifacts, opened)
        for evaluator in EVALUATORS.get(stage, ()):
            if truth.objects or evaluator in WITHOUT_BOXES:
                metrics += [item.as_json() for item in evaluator.evaluate(case, recipe)]
        if stage == "propose" and truth.objects:
            curves.append({"stage": stage, "variant": variant, **recall.curve_of(case, recipe).as_json()})
    return {"metrics": metrics, "curves": curves}


def plot_step(results: Path, split: str) -> Step:
    """The curves of a results file as a PNG beside it."""

    def run(job: Job) -> Outcome:
        found = read_results(results)
        job.context.ops.write_atomically(job.path, draw_results(found))
        return Outcome(found.images)

    return Step(
        path=results.with_name(f"{split}-recall.png"),
        schema=PLOT,
        split=split,
        settings=RecipeModel(),
        inputs={"eval": results},
        run=run,
        title="recall against the number of proposals",
    )
