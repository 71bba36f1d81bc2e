"""Losses of RoIs, or of DINO's queries, against what is wrong with them: a row each, figures, a plot.

Supplement Fig. 2; spec 06 §A.7. A query's box is the pseudo box that it is matched with; what query drop leaves out is told
as if all images were one batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field

from weaksam_cli.artifacts.reader import open_artifact
from weaksam_cli.artifacts.receipt import InputDigest, read_receipt
from weaksam_cli.artifacts.schema import Column, ImageRows, Schema
from weaksam_cli.artifacts.shards import Outcome, shards_root
from weaksam_cli.core.settings import RecipeModel, Side, Weight
from weaksam_cli.data.detections import read_detections
from weaksam_cli.data.labels import Split
from weaksam_cli.data.source import Source
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.freshness import Standing, State
from weaksam_cli.engine.sharded import ImageByImage, PerImage
from weaksam_cli.engine.steps import Step, preview
from weaksam_cli.errors import UserError
from weaksam_cli.eval.case import load_ground_truth
from weaksam_cli.eval.loss_plot import draw_losses, show_losses
from weaksam_cli.eval.region_errors import (
    ERRORS,
    ForegroundRegions,
    Normalisation,
    dropped_sets,
    errors_of,
    evidence,
    percentile_cut,
    pseudo_box_quality,
)
from weaksam_cli.eval.stage import STAGE
from weaksam_cli.training.batches import generator_of

LOSSES: Final = Schema(
    "weaksam/region-losses",
    1,
    columns=(
        Column("boxes", "float32", (4,)),
        Column("class_index", "int32", low=-1, table="class_names"),
        Column("classification", "float32", low=0),
        Column("regression", "float32", low=0, unknown=True),
        Column("pseudo_box", "int32", low=-1),
        Column("true_iou", "float32", low=0, high=1, unknown=True),
        Column("wrong", "uint8", (len(ERRORS),), high=1),
    ),
    image_columns=(Column("image_size", "int32", (2,), low=1),),
    tables=("class_names", "error_names"),
    known={"error_names": ERRORS},
)
"""A row a sampled RoI. `class_index` is the class that it is to be, -1 for background, of which `regression`, `pseudo_box`
and `true_iou` are NaN or -1, and nothing is wrong. `pseudo_box` counts the image's pseudo boxes; `true_iou` is that box's
largest IoU with an annotated box."""
FIGURES: Final = Schema("weaksam/loss-analysis", 1, ())
PLOT: Final = Schema("weaksam/loss-plot", 1, ())


class SamplingSettings(RecipeModel):
    """What decides the rows, besides the detector.

    Attributes:
        regions: RoIs of an image.
        foreground: largest share of them that is foreground.
        short_side: of the images as the network sees them; null: the largest of the training.
        plus_one: IoU with sides x2 - x1 + 1.
    """

    regions: Annotated[int, Field(ge=1, le=10_000)] = 50
    foreground: Annotated[float, Field(gt=0, le=1)] = 0.9
    short_side: Side | None = None
    plus_one: bool = True


class FigureSettings(RecipeModel):
    """What decides the figures, besides the rows.

    Attributes:
        tau_cls, tau_reg: thresholds of RoI drop, `tau_cls` also of a query's cross-entropy; null: those that the detector is
            trained with.
        bins: of the plot.
        normalisation: of the losses to [0, 1]: `min_max` over all RoIs, or `max`, divided by the largest.
    """

    tau_cls: Weight | None = None
    tau_reg: Weight | None = None
    bins: Annotated[int, Field(ge=2, le=1000)] = 20
    normalisation: Normalisation = "min_max"


class Recipe(SamplingSettings, FigureSettings):
    """How RoIs are sampled, and what is told of them.

    Attributes:
        model: a model.safetensors of `retrain`, or a checkpoint.pt of its training; null: the run's.
    """

    method: Literal["loss_analysis"] = "loss_analysis"
    model: str | None = None


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """Rows, figures and plot of the split that was learnt from; of others there is nothing to tell.

    Raises:
        UserError: no training has begun, or `model` is not there.
    """
    if split != context.train_split():
        context.console.info(f"{split}: the detector does not learn from it, so it has no losses there")
        return
    name, model = _detector(recipe.model, context)
    sampling, figures = recipe.part(SamplingSettings), recipe.part(FigureSettings)
    rows = _rows_step(sampling, {name: model}, context, split)
    yield rows
    place = rows.path.parent
    told = Step(
        path=place / f"losses-{split}.json",
        schema=FIGURES,
        split=split,
        settings=figures,
        inputs={"eval-losses": rows.path, name: model},
        run=partial(_write_figures, figures, rows.path, model),
        title="what share of RoIs is wrong",
    )
    yield told
    yield Step(
        path=place / f"losses-{split}.png",
        schema=PLOT,
        split=split,
        settings=RecipeModel(),
        inputs={"eval-figures": told.path},
        run=partial(_write_plot, told.path),
        title="wrong RoIs against their losses",
    )
    found = preview(told, STAGE, context)
    shown = (State.FRESH, State.STALE) if context.allow_stale else (State.FRESH,)
    if isinstance(found, Standing) and found.state in shown:
        show_losses(json.loads(told.path.read_bytes()), context.console)


def _detector(given: str | None, context: Context) -> tuple[str, Path]:
    """The name of the input and the file: the one given, the run's detector, or the newest checkpoint of its training."""
    model = context.run.folder("retrain") / "model.safetensors"
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise UserError("there is no such file", where=f"model = {given}")
        return "weights-detector", path.absolute()
    if read_receipt(model) is not None:
        return "retrain-model", model
    begun = sorted(shards_root(model).glob("*/checkpoint.pt"), key=lambda path: path.stat().st_mtime)
    if not begun:
        remedy = f"Train it first: weaksam retrain --dataset {context.dataset}"
        raise UserError("there is no detector, and no training has begun", where=str(model), remedy=remedy)
    return "weights-checkpoint", begun[-1]


def _rows_step(settings: SamplingSettings, detector: dict[str, Path], context: Context, split: str) -> Step:
    run, source = context.run, context.source()
    labels = context.split(split).read()
    truth = load_ground_truth(run.root, source, labels)
    if not truth.objects:
        raise UserError("this dataset has no boxes, so nothing is known to be wrong", where=str(run.root))
    (model,) = detector.values()

    def work(context: Context) -> PerImage:
        device = context.worker_device()
        predictor = LossPredictor(
            settings,
            model,
            run.input("pgt", split),
            context.split(split),
            run.root,
            source,
            context.seed,
            device,
        )
        tables = {"class_names": labels.class_names, "error_names": ERRORS}
        return PerImage(LOSSES, labels.keys, predictor, "losses of RoIs", tables, device=device)

    digest = InputDigest(path=source.splits[split].path, sha256=truth.digest(), file=False)
    return Step(
        path=run.folder("eval") / f"losses-{split}.h5",
        schema=LOSSES,
        split=split,
        settings=settings,
        inputs={"data": run.input("data", split), "pgt": run.input("pgt", split), **detector},
        run=ImageByImage(work),
        title="losses of RoIs, and whether they are wrong",
        given={"source": digest},
    )


@dataclass(frozen=True)
class LossPredictor:
    """The RoIs of one image.

    Attributes:
        settings: how they are sampled.
        model: a detector, or a checkpoint of its training.
        pgt: what it learns from.
        split: of the images.
        run_root, source: where ground truth is read.
        seed: of the sampling.
        device: where the network goes.
    """

    settings: SamplingSettings
    model: Path
    pgt: Path
    split: Split
    run_root: Path
    source: Source
    seed: int
    device: str

    def open(self) -> Callable[[str], ImageRows]:
        """Load the network once a process.

        Raises:
            UserError: the detector is damaged, or for other classes.
        """
        from weaksam_cli.retrain.region_losses import Sampling, load_region_losses

        labels, settings = self.split.read(), self.settings
        images, pseudo = labels.by_key(), read_detections(self.pgt, labels)
        truth = load_ground_truth(self.run_root, self.source, labels).objects
        sampling = Sampling(settings.regions, settings.foreground, settings.short_side)
        losses = load_region_losses(self.model, labels.class_names, sampling, self.device)

        def rows(key: str) -> ImageRows:
            image = labels.read_image(images[key])
            seed = int(generator_of(self.seed, key, "regions").integers(2**31))
            found = losses(image, pseudo[key], seed)
            boxes = pseudo[key].boxes
            chosen, quality = pseudo_box_quality(
                found.boxes,
                boxes,
                truth[key].boxes,
                plus_one=settings.plus_one,
                assigned=found.assigned,
            )
            foreground = found.class_index >= 0
            columns = {
                "boxes": found.boxes,
                "class_index": found.class_index,
                "classification": found.classification,
                "regression": found.regression,
                "pseudo_box": np.where(foreground, chosen, -1),
                "true_iou": np.where(foreground, quality, np.nan),
                "wrong": errors_of(quality) * foreground[:, None],
            }
            return ImageRows(columns, {"image_size": np.asarray(image.shape[:2], np.int32)})

        return rows


def read_foreground(path: Path) -> ForegroundRegions:
    """The foreground RoIs of an artifact of `LOSSES`.

    Raises:
        UserError: it is damaged, or another artifact.
    """
    with open_artifact(path, LOSSES) as artifact:
        kept = artifact.column("class_index").astype(np.int32) >= 0
        return ForegroundRegions(
            artifact.column("classification")[kept].astype(np.float32),
            artifact.column("regression")[kept].astype(np.float32),
            artifact.column("wrong")[kept].astype(np.bool_),
        )


def _write_figures(settings: FigureSettings, rows: Path, model: Path, job: Job) -> Outcome:
    from weaksam_cli.retrain.region_losses import read_description

    taus: dict[str, float | None]
    told, regions = read_description(model), read_foreground(rows)
    if told.roi_drop is not None:
        tau_cls = told.roi_drop.tau_cls if settings.tau_cls is None else settings.tau_cls
        tau_reg = told.roi_drop.tau_reg if settings.tau_reg is None else settings.tau_reg
        dropped, taus = dropped_sets(regions, tau_cls, tau_reg), {"tau_cls": tau_cls, "tau_reg": tau_reg}
    else:  # as if all images were one batch
        cut = percentile_cut(regions.classification, told.percentile or 100)
        tau_cls = cut if settings.tau_cls is None else settings.tau_cls
        dropped = {"things": regions.classification > tau_cls}
        taus = {"tau_cls": tau_cls, "tau_reg": None}
    with open_artifact(rows, LOSSES, verify=False) as artifact:
        images, count = len(artifact), int(artifact.offsets[-1])
    content: dict[str, Any] = {
        "format": FIGURES.name,
        "format_version": FIGURES.version,
        "dataset": job.context.dataset,
        "split": job.identity.split,
        "images": images,
        "iterations": told.iterations,
        "regions": count,
        **evidence(regions, dropped, taus, settings.bins, settings.normalisation),
    }
    job.context.ops.write_atomically(job.path, json.dumps(content, indent=1).encode() + b"\n")
    return Outcome(images)


def _write_plot(figures: Path, job: Job) -> Outcome:
    content = json.loads(figures.read_bytes())
    job.context.ops.write_atomically(job.path, draw_losses(content))
    return Outcome(int(content["images"]))
