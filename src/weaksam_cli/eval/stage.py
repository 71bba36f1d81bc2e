"""`weaksam eval`: judge every artifact of a run; the only stage that reads ground-truth boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from weaksam_cli.artifacts import receipt as receipts
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome as MergeCount
from weaksam_cli.data.labels import read_labels
from weaksam_cli.data.source import image_root
from weaksam_cli.engine.freshness import Standing, State
from weaksam_cli.engine.legacy import Context, Job, Product, preview
from weaksam_cli.engine.recipes import RecipeModel
from weaksam_cli.engine.stages import STAGE_NAMES, Stage
from weaksam_cli.eval.ground_truth import FOLDER_LAYOUT, load_ground_truth, truth_digest
from weaksam_cli.eval.judge import Judge
from weaksam_cli.eval.recall_curve import RecallCurve
from weaksam_cli.eval.recipe import EvalRecipe
from weaksam_cli.eval.table import label, show_results

RESULTS_FORMAT = "weaksam/results"
RESULTS_VERSION = 2
"""Version 2 has `curves` beside `measures`."""
PLOT_FORMAT = "weaksam/recall-plot"
PLOT_VERSION = 1


def artifacts_to_judge(context: Context, split: str) -> dict[str, Path]:
    """`stage` or `stage@variant` -> complete artifact of the split, for all that are there."""
    found: dict[str, Path] = {}
    for stage in STAGE_NAMES[:-1]:
        given = context.run.given_for(split).get(stage)
        if given is not None:
            found[stage] = given
            continue
        for variant in context.run.variants_of(stage):
            path = context.run.with_variant(stage, variant).output(stage, split)
            if path.is_file() and receipts.read_receipt(path) is not None:
                found[f"{stage}@{variant}" if variant else stage] = path
    return found


class EvalStage:
    """Figures for every artifact."""

    name: ClassVar[str] = "eval"
    version: ClassVar[int] = 1
    train_only: ClassVar[bool] = False
    recipe_types: ClassVar[Mapping[str, type[RecipeModel]]] = {"all": EvalRecipe}

    def products(self, recipe: EvalRecipe, context: Context, split: str) -> Iterator[Product]:
        """One results file a split, the plot of its curves, and its table."""
        source = context.source()
        labels = read_labels(context.run.input("data", split), image_root(context.run.root, source))
        truth = None
        if source.layout == FOLDER_LAYOUT:
            context.console.warn("this dataset has labels and no boxes: only classification can be judged")
        else:
            truth = load_ground_truth(context.run.root, source, split, labels)
        inputs = artifacts_to_judge(context, split)
        path = context.run.folder("eval") / f"{split}.json"

        def make(job: Job) -> MergeCount:
            content = {
                "format": RESULTS_FORMAT,
                "format_version": RESULTS_VERSION,
                "dataset": context.dataset,
                "split": split,
                "images": len(labels.file.images),
                **judge_all(Judge(truth, labels, recipe), inputs),
            }
            text = json.dumps(content, indent=1, ensure_ascii=False)
            job.context.ops.write_atomically(job.path, text.encode() + b"\n")
            return MergeCount(len(labels.file.images), ())

        results = Product(
            path=path,
            format_name=RESULTS_FORMAT,
            format_version=RESULTS_VERSION,
            split=split,
            recipe=recipe.model_dump(mode="json"),
            inputs=inputs,
            digests={
                "source": receipts.InputDigest(path=source.path, sha256=truth_digest(truth), file=False)
            },
            make=make,
            what="figures",
        )
        yield results
        if truth is not None and any(name.partition("@")[0] == "propose" for name in inputs):
            yield recall_plot(path, split)
        found = preview(results, self, context)
        # After a dry run there is nothing to show, or what is there is not what would be made.
        if isinstance(found, Standing) and found.state is State.FRESH:
            show_results(path, context.console)


def judge_all(judge: Judge, inputs: Mapping[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """`measures` of all artifacts and `curves` of proposals, as they stand in the results file."""
    measures: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for name, artifact in inputs.items():
        measures += [item.as_json() for item in judge.judge(name, artifact, inputs)]
        curve = judge.curve(name, artifact)
        if curve is not None:
            stage, _, variant = name.partition("@")
            curves.append({"stage": stage, "variant": variant, **curve.as_json()})
    return {"measures": measures, "curves": curves}


def recall_plot(results: Path, split: str) -> Product:
    """The curves of a results file as a PNG beside it."""

    def make(job: Job) -> MergeCount:
        from weaksam_cli.eval.recall_plot import draw_recall

        content = json.loads(results.read_bytes())
        curves = {label(item): RecallCurve.from_json(item) for item in content["curves"]}
        title = f"Recall of proposals on {content['dataset']} {split} ({content['images']} images)"
        job.context.ops.write_atomically(job.path, draw_recall(curves, title))
        return MergeCount(content["images"], ())

    return Product(
        path=results.with_name(f"{split}-recall.png"),
        format_name=PLOT_FORMAT,
        format_version=PLOT_VERSION,
        split=split,
        recipe={},
        inputs={"eval": results},
        make=make,
        what="recall against the number of proposals",
    )


LEGACY = EvalStage()
STAGE = Stage("eval", 1, "eval", "{split}.json", Schema(RESULTS_FORMAT, RESULTS_VERSION, ()))
