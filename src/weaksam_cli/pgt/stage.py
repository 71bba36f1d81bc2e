"""`weaksam pgt`: detections on the training images become pseudo ground truth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome as MergeCount
from weaksam_cli.data.detections import read_results
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.data.source import image_root
from weaksam_cli.engine.legacy import Context, Job, Product
from weaksam_cli.engine.recipes import RecipeModel
from weaksam_cli.engine.stages import Stage
from weaksam_cli.pgt.adaptive import adaptive_rows
from weaksam_cli.pgt.annotations import coco_annotations
from weaksam_cli.pgt.recipe import AdaptiveRecipe, PgtRecipe, Top1Recipe
from weaksam_cli.pgt.table import DetectionTable
from weaksam_cli.pgt.top1 import top_k

PGT_FORMAT = "coco/pseudo-ground-truth"
PGT_VERSION = 1


def label_matrix(labels: Labels) -> NDArray[np.bool_]:
    """bool (n_images, n_classes): the image-level labels."""
    matrix = np.zeros((len(labels.file.images), len(labels.class_names)), dtype=bool)
    for row, image in enumerate(labels.file.images):
        matrix[row, labels.class_indexes(image)] = True
    return matrix


def select(table: DetectionTable, labels: NDArray[np.bool_], recipe: PgtRecipe) -> DetectionTable:
    """The pseudo boxes that a recipe keeps, with the score that it saves."""
    if isinstance(recipe, Top1Recipe):
        return top_k(table, labels, k=recipe.k)
    rows, relative = adaptive_rows(
        table,
        labels,
        score_threshold=recipe.score_threshold,
        containment_threshold=recipe.containment_threshold,
        sort_first=recipe.sort_first,
        mutual=recipe.mutual,
        containment_input=recipe.containment_input,
    )
    kept = table.take(rows)
    return kept if recipe.saved_score == "detector" else replace(kept, scores=relative)


def pgt_file(labels: Labels, table: DetectionTable) -> dict[str, Any]:
    """Pseudo ground truth as COCO-JSON."""
    return {
        "info": {"description": "pseudo ground truth of weaksam", "dataset": labels.file.info.dataset},
        "categories": [category.model_dump() for category in labels.file.categories],
        "images": [
            {
                "id": image.id,
                "file_name": image.file_name,
                "height": image.height,
                "width": image.width,
                "key": image.key,
            }
            for image in labels.file.images
        ],
        "annotations": coco_annotations(
            table,
            image_ids=[image.id for image in labels.file.images],
            category_ids=[category.id for category in labels.file.categories],
        ),
    }


class PgtStage:
    """Pseudo ground truth of the training split."""

    name: ClassVar[str] = "pgt"
    version: ClassVar[int] = 1
    train_only: ClassVar[bool] = True
    recipe_types: ClassVar[Mapping[str, type[RecipeModel]]] = {"adaptive": AdaptiveRecipe, "top1": Top1Recipe}

    def products(self, recipe: PgtRecipe, context: Context, split: str) -> Iterator[Product]:
        """One COCO-JSON file."""
        inputs = {"wsod": context.run.input("wsod", split), "data": context.run.input("data", split)}

        def make(job: Job) -> MergeCount:
            labels = read_labels(inputs["data"], image_root(context.run.root, context.source()))
            found = read_results(inputs["wsod"], labels)
            table = DetectionTable.from_images([found[key] for key in labels.keys])
            kept = select(table, label_matrix(labels), recipe)
            text = json.dumps(pgt_file(labels, kept), indent=1, ensure_ascii=False)
            job.context.ops.write_atomically(job.path, text.encode() + b"\n")
            covered = len(set(kept.image_index.tolist()))
            context.console.info(
                f"  {len(kept)} pseudo boxes in {covered} images", boxes=len(kept), covered=covered
            )
            return MergeCount(len(labels.file.images), ())

        yield Product(
            path=context.run.output("pgt", split),
            format_name=PGT_FORMAT,
            format_version=PGT_VERSION,
            split=split,
            recipe=recipe.model_dump(mode="json"),
            inputs=inputs,
            make=make,
            what="pseudo ground truth",
        )


LEGACY = PgtStage()
STAGE = Stage("pgt", 1, "pgt", "{split}.json", Schema(PGT_FORMAT, PGT_VERSION, ()), train_only=True)
