"""How alike proposals are to the trained weakly supervised detector, for several sets of proposals (spec 07 §6, Fig. 1)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field

from weaksam_cli.artifacts.reader import open_artifact
from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.artifacts.schema import Column, ImageRows, Schema
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.console import Console
from weaksam_cli.core.boxes import FloatArray, iou
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.labels import Labels, Split
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.freshness import Standing, State
from weaksam_cli.engine.recipes import recorded_recipe
from weaksam_cli.engine.sharded import ImageByImage, PerImage
from weaksam_cli.engine.steps import Step, preview
from weaksam_cli.errors import UserError, unknown
from weaksam_cli.eval.case import proposals_of
from weaksam_cli.eval.similarity import (
    comparison,
    cosine_matrix,
    draw_matrices,
    largest_first,
    mean_off_diagonal,
    sample_rows,
)
from weaksam_cli.eval.stage import STAGE
from weaksam_cli.wsod.own_features import Layer, TrainedDetector

SIMILARITY: Final = Schema(
    "weaksam/feature-similarity",
    1,
    columns=(
        Column("set", "int16", low=0, table="set_names"),
        Column("proposals", "int32", low=0),
        Column("mean_cosine", "float32", low=-1, high=1, unknown=True),
        Column("mean_iou", "float32", low=0, high=1, unknown=True),
    ),
    tables=("set_names",),
)
"""A row a set of proposals and image: how many were drawn, and the means over their pairs; NaN for fewer than two."""
FIGURES: Final = Schema("weaksam/similarity-figures", 1, ())
PLOT: Final = Schema("weaksam/similarity-plot", 1, ())
PLAIN: Final = "plain"


class PairSettings(RecipeModel):
    """Which proposals are compared, and by which features.

    Attributes:
        layer: `pooled`, what RoI pooling gives, or `heads`, what the heads read.
        most: so many of each set and image at random, or as many as the smallest set has.
        min_side: boxes with a shorter side, in pixels, are left out.
        sets: variants of `propose`, `plain` for none; null: all that the run has.
    """

    sets: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)] | None = None
    layer: Layer = "pooled"
    most: Annotated[int, Field(ge=1, le=10_000)] = 200
    min_side: Annotated[float, Field(ge=0, le=100_000)] = 0


class RowSettings(PairSettings):
    """What decides the rows.

    Attributes:
        images: so many, evenly spaced; null takes all.
    """

    images: Annotated[int, Field(ge=1, le=10_000_000)] | None = None


class PlotSettings(PairSettings):
    """What decides the heat maps.

    Attributes:
        image: key of the image; null: the first.
    """

    image: str | None = None


class Recipe(RowSettings, PlotSettings):
    """What is compared, and what is shown."""

    method: Literal["feature_similarity"] = "feature_similarity"


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """Rows, figures and heat maps of a split.

    Raises:
        UserError: there is no detector, or a set of proposals or an image is not there.
    """
    sets, labels, place = (
        _sets(recipe.sets, context, split),
        context.split(split).read(),
        context.run.folder("eval"),
    )
    key = recipe.image or labels.keys[0]
    if key not in labels.keys:
        raise unknown(f"there is no image {key!r}", key, labels.keys[:20], where="image")
    recipe = recipe.model_copy(update={"sets": tuple(sets)})
    pairs, inputs = recipe.part(PairSettings), _inputs(sets, context, split)

    def predictor(context: Context) -> SimilarityPredictor:
        model, is_training = inputs["wsod-model"], split == context.train_split()
        own = context.split(split), sets, context.seed, is_training, context.worker_device()
        return SimilarityPredictor(pairs, model, *own)

    def work(context: Context) -> PerImage:
        keys, names = _chosen(labels.keys, recipe.images), {"set_names": [*sets]}
        device = context.worker_device()
        return PerImage(SIMILARITY, keys, predictor(context), "features of RoIs", names, device=device)

    rows, title = place / f"similarity-{split}.h5", "how alike proposals are to the detector"
    yield Step(rows, SIMILARITY, split, recipe.part(RowSettings), inputs, ImageByImage(work), title)
    path, write, title = (
        place / f"similarity-{split}.json",
        partial(_write_figures, rows),
        "sets of proposals side by side",
    )
    figures = Step(path, FIGURES, split, RecipeModel(), {"eval-similarity": rows}, write, title)
    yield figures
    path, shown = place / f"similarity-{split}.png", recipe.part(PlotSettings)
    plot, title = lambda job: _write_plot(predictor(job.context), key, job), "heat maps of one image"
    yield Step(path, PLOT, split, shown, inputs, plot, title)
    found = preview(figures, STAGE, context)
    if isinstance(found, Standing) and found.state is State.FRESH:
        _show(json.loads(figures.path.read_bytes()), context.console)


def _inputs(sets: Mapping[str, Path], context: Context, split: str) -> dict[str, Path]:
    model = context.run.folder("wsod") / "model.safetensors"
    named = {"data": context.run.input("data", split), "wsod-model": model}
    features = model.with_name("feature_model.safetensors")
    if read_receipt(features) is not None:  # of a network that has one
        named["wsod-features"] = features
    return named | {f"propose-{name}": path for name, path in sets.items()}


def _sets(names: Sequence[str] | None, context: Context, split: str) -> dict[str, Path]:
    run, found = context.run, {}
    there = [variant or PLAIN for variant in run.variants_of("propose")]
    for name in there if names is None else names:
        if name not in there:
            raise unknown(f"{run.root} has no proposals {name!r}", name, there, where="sets")
        path = run.with_variant("propose", "" if name == PLAIN else name).output("propose", split)
        if read_receipt(path) is not None:
            found[name] = path
        elif names is not None:
            remedy = "Run weaksam propose"
            raise UserError("there are no complete proposals", where=str(path), remedy=remedy)
    if not found:
        raise UserError(
            f"there are no proposals of {split}", where=str(run.root), remedy="Run weaksam propose"
        )
    return found


def _chosen(keys: Sequence[str], wanted: int | None) -> list[str]:
    count = len(keys) if wanted is None else min(wanted, len(keys))
    return [keys[index] for index in np.linspace(0, len(keys) - 1, count).astype(int)]


@dataclass(frozen=True)
class SimilarityPredictor:
    """The pairs of proposals of one image.

    Attributes:
        settings: which pairs.
        model: of the detector.
        split: of the images.
        sets: name -> artifact.
        seed: of what is drawn.
        is_training: the detector has learnt from the split.
        device: where a network goes that is not small.
    """

    settings: PairSettings
    model: Path
    split: Split
    sets: Mapping[str, Path]
    seed: int
    is_training: bool
    device: str

    def open(self) -> Callable[[str], ImageRows]:
        """Load the detector once a process."""
        compare = self.comparer(self.split.read())

        def rows(key: str) -> ImageRows:
            found = compare(key)
            columns = {
                "set": np.arange(len(found)),
                "proposals": np.asarray([len(matrix) for matrix, _ in found.values()]),
                "mean_cosine": np.asarray([mean_off_diagonal(matrix) for matrix, _ in found.values()]),
                "mean_iou": np.asarray([overlap for _, overlap in found.values()]),
            }
            return ImageRows(columns)

        return rows

    def comparer(self, labels: Labels) -> Callable[[str], dict[str, tuple[FloatArray, float]]]:
        """From an image's key to the cosine matrix (n, n) of each set, and the mean IoU of the same boxes.

        Raises:
            UserError: the detector or proposals are damaged.
        """
        receipt = read_receipt(self.model)
        if receipt is None:
            raise UserError("there is no trained detector", where=str(self.model), remedy="Run weaksam wsod")
        recipe: Any = recorded_recipe(receipt).recipe
        settings, images = self.settings, labels.by_key()
        trained = TrainedDetector(
            recipe, self.model.parent, labels.class_names, self.is_training, self.device
        )
        features = recipe.network.region_features(trained, settings.layer)
        proposals = {name: proposals_of(path, labels) for name, path in self.sets.items()}

        def compare(key: str) -> dict[str, tuple[FloatArray, float]]:
            boxes = [
                largest_first(found[key].boxes, settings.min_side)
                if key in found
                else np.zeros((0, 4), np.float32)
                for found in proposals.values()
            ]
            most = (
                min(settings.most, *map(len, boxes)) if len(boxes) > 1 else min(settings.most, len(boxes[0]))
            )
            drawn = [item[sample_rows(len(item), most, self.seed, key)] for item in boxes]
            vectors = features(key, labels.read_image(images[key]), drawn)
            return {
                name: (cosine_matrix(item), mean_off_diagonal(iou(rows, rows)))
                for name, item, rows in zip(proposals, vectors, drawn, strict=True)
            }

        return compare


def _write_figures(rows: Path, job: Job) -> Outcome:
    with open_artifact(rows, SIMILARITY) as artifact:
        names, images = artifact.table("set_names"), len(artifact)
        cosines, overlaps, counts = (
            artifact.column(name).astype(np.float64).reshape(images, len(names))
            for name in ("mean_cosine", "mean_iou", "proposals")
        )
    content = {
        "format": FIGURES.name,
        "format_version": FIGURES.version,
        "dataset": job.context.dataset,
        "split": job.identity.split,
        "proposals": float(counts.mean()) if images else None,
        "sets": comparison(names, cosines, overlaps),
    }
    job.context.ops.write_atomically(job.path, json.dumps(content, indent=1).encode() + b"\n")
    return Outcome(images)


def _write_plot(predictor: SimilarityPredictor, key: str, job: Job) -> Outcome:
    found = predictor.comparer(predictor.split.read())(key)
    count = len(next(iter(found.values()))[0])
    title = f"{predictor.settings.layer} features of {count} proposals each, image {key}"
    matrices = {name: matrix for name, (matrix, _) in found.items()}
    job.context.ops.write_atomically(job.path, draw_matrices(matrices, title))
    return Outcome(1)


def _show(found: Mapping[str, Any], console: Console) -> None:
    first = found["sets"][0]["set"]
    header = [
        "proposals",
        "images",
        "mean cosine",
        "deviation",
        f"lower than {first}",
        "in of the images",
        "mean IoU",
    ]
    rows = []
    for item in found["sets"]:
        cells = [_figure(item[name]) for name in ("mean", "deviation")]
        lower = f"{_figure(item['lower'])} ± {_figure(item['lower_error'])}"
        share = "-" if item["lower_share"] is None else f"{100 * item['lower_share']:.0f} %"
        paired = ["-", "-"] if item["set"] == first else [lower, share]
        rows.append([item["set"], str(item["images"]), *cells, *paired, _figure(item["mean_iou"])])
    title = (
        f"{found['dataset']} {found['split']}: {_figure(found['proposals'])} proposals of each set an image"
    )
    console.table(title, header, rows)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
