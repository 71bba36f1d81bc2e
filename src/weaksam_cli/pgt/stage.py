"""`weaksam pgt`: detections on the training images become pseudo ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import PGT, annotations_bytes, read_detections
from weaksam_cli.data.labels import LabelChoice, Labels
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.runs import BOXES_INPUT
from weaksam_cli.engine.stages import Stage
from weaksam_cli.engine.steps import Step
from weaksam_cli.errors import UserError
from weaksam_cli.pgt.masks import MaskChoice, mask_step, with_masks

STAGE = Stage("pgt", 2, "pgt", "{split}.json", PGT, train_only=True)

Select = Callable[[Detections, Sequence[int]], Detections]
"""From the detections of one image and the classes of its labels to its pseudo boxes."""


def pgt_steps(
    recipe: MaskChoice, selection: LabelChoice, context: Context, split: str, select: Select
) -> Iterator[Step]:
    """The steps of every method: pseudo boxes; where masks are asked for, masks of them, or of boxes that are given.

    Args:
        recipe: the whole recipe.
        selection: its part that decides the boxes.
        context: what the command was told.
        split: the training split.
        select: the method.

    Raises:
        UserError: boxes are given and no masks asked for.
    """
    given = context.run.given_for(split).get(BOXES_INPUT)
    document = context.run.output("pgt", split)
    if not recipe.masks.enabled:
        if given is not None:
            remedy = "Add --masks, or leave the boxes out"
            raise UserError("the boxes are prompts for masks", where=f"--input boxes={given}", remedy=remedy)
        yield _selection(selection, document, context, split, select)
        return
    boxes = given
    if boxes is None:
        boxes = context.run.folder("pgt") / "boxes" / f"{split}.json"
        yield _selection(selection, boxes, context, split, select)
    prompted = mask_step(recipe.masks, boxes, context, split)
    yield prompted
    yield _instances(recipe, prompted.path, context, split)


def _selection(settings: LabelChoice, path: Path, context: Context, split: str, select: Select) -> Step:
    """Reads the detections of a split, selects image by image, and writes COCO-JSON with scores."""
    detections = context.run.input("wsod", split)

    def run(job: Job) -> Outcome:
        labels = context.split(split).read(settings.difficult)
        found = read_detections(detections, labels)
        kept = {
            image.key: select(found[image.key], labels.class_indexes(image)) for image in labels.file.images
        }
        return _write(kept, labels, job)

    return _document(path, settings, {"wsod": detections}, run, context, split)


def _instances(recipe: MaskChoice, prompted: Path, context: Context, split: str) -> Step:
    """Reads boxes with the segmenter's masks, and writes COCO-JSON of those that are masks; it names the others."""

    def run(job: Job) -> Outcome:
        labels = context.split(split).read()
        found = read_detections(prompted, labels, masks=True)
        made = {
            image.key: with_masks(found[image.key], image.height, image.width, recipe.masks)
            for image in labels.file.images
        }
        dropped = [
            (key, f"no pseudo mask of the {labels.class_names[index]}: {reason}")
            for key, (_, reasons) in made.items()
            for index, reason in reasons
        ]
        return _write({key: kept for key, (kept, _) in made.items()}, labels, job, dropped)

    path = context.run.output("pgt", split)
    return _document(path, recipe, {"pgt-masks": prompted}, run, context, split)


def _document(
    path: Path,
    settings: RecipeModel,
    inputs: Mapping[str, Path],
    run: Callable[[Job], Outcome],
    context: Context,
    split: str,
) -> Step:
    data = {"data": context.run.input("data", split)}
    return Step(path, STAGE.schema, split, settings, {**inputs, **data}, run, "pseudo ground truth")


def _write(
    kept: Mapping[str, Detections], labels: Labels, job: Job, dropped: Sequence[tuple[str, str]] | None = None
) -> Outcome:
    """Write the document and say what is in it; `dropped` is None where there are boxes alone."""
    job.context.ops.write_atomically(job.path, annotations_bytes(kept, labels))
    count, covered = sum(map(len, kept.values())), sum(len(item) > 0 for item in kept.values())
    what, told = ("boxes", "") if dropped is None else ("masks", f", {len(dropped)} dropped")
    job.context.console.info(
        f"  {count} pseudo {what} in {covered} images{told}",
        **{what: count, "covered": covered, "dropped": len(dropped or ())},
    )
    return Outcome(len(kept), left_out=tuple(dropped or ()))
