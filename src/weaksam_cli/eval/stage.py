"""`weaksam eval`: judge every artifact of a run; the only stage that reads ground-truth boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from weaksam_cli.artifacts import receipt as receipts
from weaksam_cli.artifacts.shards import MergeCount
from weaksam_cli.eval.ground_truth import FOLDER_LAYOUT, load_ground_truth, truth_digest
from weaksam_cli.eval.judge import Judge
from weaksam_cli.eval.recipe import EvalRecipe
from weaksam_cli.eval.table import show_results
from weaksam_cli.labels import read_labels
from weaksam_cli.pipeline import Context, Job, Product
from weaksam_cli.recipes import RecipeModel
from weaksam_cli.runs import SPLIT_ARTIFACTS
from weaksam_cli.source import image_root

RESULTS_FORMAT = "weaksam/results"
RESULTS_VERSION = 1


def artifacts_to_judge(context: Context, split: str) -> dict[str, Path]:
    """`stage` or `stage@variant` -> complete artifact of the split, for all that are there."""
    found: dict[str, Path] = {}
    for stage in SPLIT_ARTIFACTS:
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
        """One results file a split, and its table."""
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
            judge = Judge(truth, labels, recipe)
            measures: list[dict[str, Any]] = []
            for name, artifact in inputs.items():
                measures += [item.as_json() for item in judge.judge(name, artifact, inputs)]
            content = {
                "format": RESULTS_FORMAT,
                "format_version": RESULTS_VERSION,
                "dataset": context.dataset,
                "split": split,
                "images": len(labels.file.images),
                "measures": measures,
            }
            text = json.dumps(content, indent=1, ensure_ascii=False)
            job.context.ops.write_atomically(job.path, text.encode() + b"\n")
            return MergeCount(len(labels.file.images), ())

        yield Product(
            path=path,
            format_name=RESULTS_FORMAT,
            format_version=RESULTS_VERSION,
            split=split,
            recipe=recipe.model_dump(mode="json"),
            inputs=inputs,
            digests={"source": receipts.InputDigest(path=source.path, sha256=truth_digest(truth))},
            make=make,
            what="figures",
        )
        show_results(path, context.console)


STAGE = EvalStage()
