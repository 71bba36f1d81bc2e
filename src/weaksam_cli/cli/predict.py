"""`weaksam predict IMAGES -o FILE`: a trained detector on images that belong to no dataset."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import yaml

from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts.receipt import InputDigest, Receipt, read_receipt, refuse_foreign
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.cli.drawing import png_bytes
from weaksam_cli.cli.new_images import (
    IMAGES_INPUT,
    digest_of,
    read_images,
    refuse_other_images,
    renew_place,
)
from weaksam_cli.cli.options import CommonOptions, build_context
from weaksam_cli.console import Console
from weaksam_cli.core.drawing import draw_detections
from weaksam_cli.core.names import first_few, leaves_folder
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.detections import RESULTS
from weaksam_cli.data.labels import Labels
from weaksam_cli.data.unlabelled import SPLIT, UnlabelledSplit, list_images
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.freshness import file_digest
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.sharded import SHARD_IMAGES, ImageByImage, PerImage
from weaksam_cli.engine.steps import Step, make, preview, recorded_inputs, run_steps
from weaksam_cli.errors import IncompleteError, UserError, unknown
from weaksam_cli.exchange.annotated import Annotated, annotated_detections, within
from weaksam_cli.exchange.writing import Export, box_format, check_out, write
from weaksam_cli.predict.chain import NEW_IMAGES, Prediction, predict
from weaksam_cli.predict.threshold import STAGE, Threshold, threshold_of
from weaksam_cli.predict.trained import Trained, find_detector
from weaksam_cli.retrain.choice import USES, Use, named

_LEAST_SHARDS: Final = 32
_LONGEST: Final = 1600
"""Pixels of the longer side of a picture, at most."""


def predict_images(
    options: CommonOptions,
    console: Console,
    *,
    images: list[Path],
    output: Path | None,
    model: Path | None,
    use: str | None,
    layout: str,
    min_score: float | None,
    draw: Path | None,
) -> Path:
    """Detect in images with a detector of a run, then write what is at least as sure as its threshold.

    Returns:
        The file or folder that was written.

    Raises:
        UserError: no detector, no image, a target that holds something else.
        IncompleteError: images failed and `--strict` was given; the files are written all the same.
    """
    listing, context = list_images(*images), build_context(options, None, console)
    suffix = box_format(layout).SUFFIX
    target = Path(f"{listing.name}-detections{suffix}") if output is None else output
    check_out(target, suffix)
    trained = find_detector(model or context.run.root, _use(use))
    _say_which(trained, console)
    threshold = Threshold(score=min_score or 0, share=0)
    if min_score is None:
        threshold = threshold_of(trained, context, keep=not options.dry_run)
    split = read_images(listing, console, categories=trained.categories, name=NEW_IMAGES)
    results = target.with_name(f"{target.stem}.results.json")
    given = digest_of(listing, split, target)
    refuse_other_images(results, given, "detections", context)
    if suffix:
        refuse_foreign(target, overwrite=context.overwrite)
    prediction = predict(trained, split, context)
    detecting = _detecting(results, prediction, given)
    context = replace(
        context,
        dataset=trained.dataset,
        run=RunDirectory(target.parent, {}, {}, SPLIT),
        recipe_name=trained.use,
    )
    if options.dry_run:
        _preview(detecting, prediction, layout, target, threshold, context)
        return target
    patient = replace(context, strict=False)
    for record in run_steps(lambda _: iter([detecting]), STAGE, patient, [SPLIT]):
        renew_place(record, detecting, context)
        labels = _without(split, record)
        whole = _believed(annotated_detections(results, labels), threshold)
        _write(whole, layout, target, results, threshold, patient)
        sure, _ = within(whole)
        _tell(sure, threshold, target, console)
        if layout == "coco":
            again = f"weaksam export {shlex.quote(str(target))} --format yolo -o FOLDER"
            console.info(f"  in another format, without a second look at the images: {again}")
        if draw is not None:
            _draw(draw, sure, labels, context)
        if record.failed and context.strict:
            what = f"{len(record.failed)} of {record.images + len(record.failed)} images failed"
            raise IncompleteError(what, where=str(target))
    return target


def _use(name: str | None) -> Use | None:
    for use in USES:
        if name == use:
            return use
    if name is not None:
        raise unknown(f"there is no detector {name!r}", name, list(USES), where="--use")
    return None


def _say_which(trained: Trained, console: Console) -> None:
    how = "" if trained.use == "retrain" else ", which makes class maps and proposals of the images first"
    if trained.use == "wsod":
        how += "; its scores rank boxes and are no probabilities"
    names = first_few(trained.class_names)
    text = f"predict: {named(trained.use)}{how}: {trained.model} ({len(trained.categories)} classes: {names})"
    console.info(text, use=trained.use, model=str(trained.model), classes=trained.class_names)


def _detecting(results: Path, prediction: Prediction, images: InputDigest) -> Step:
    """What makes the results file: all detections, as the stages write them."""

    def work(_: Context) -> PerImage:
        whole = prediction.work()
        part = max(len(whole.image_ids) // _LEAST_SHARDS, 1)
        return replace(whole, shard_images=min(part, whole.shard_images, SHARD_IMAGES))

    return Step(
        path=results,
        schema=RESULTS,
        split=SPLIT,
        settings=prediction.settings,
        inputs={},
        run=ImageByImage(work),
        title="detections",
        given={IMAGES_INPUT: images, **_digests(prediction, recorded_inputs(results))},
    )


def _preview(
    detecting: Step, prediction: Prediction, layout: str, target: Path, threshold: Threshold, context: Context
) -> None:
    """What decides the detections, and how the files stand that would be written."""
    settings = prediction.settings.model_dump(mode="json")
    lines = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, allow_unicode=True)
    context.console.result(
        f"# predict: {len(prediction.steps)} steps an image, what is below {threshold.score:.3g} left out "
        f"({threshold.reason()})",
        *lines.splitlines(), settings=settings, min_score=threshold.score,
    )  # fmt: skip
    found = preview(detecting, STAGE, context)
    name, fields = context.run.relative(detecting.path), {"artifact": str(detecting.path)}
    if isinstance(found, UserError):
        context.console.result(f"{name}: {found.one_line()}", state="blocked", **fields)
        return
    told = "; ".join([found.state.value, *found.reasons])
    context.console.result(f"{name}: {told}", state=found.state.value, what=detecting.title, **fields)
    context.console.result(f"{target}: would be written from it ({layout})", output=str(target))


def _digests(prediction: Prediction, recorded: Mapping[str, InputDigest]) -> dict[str, InputDigest]:
    """Those of models and weights, which belong to another run: it alone can judge how they stand to each other."""
    found = {}
    for name, path in prediction.inputs.items():
        place, receipt = str(path.absolute()), read_receipt(path)
        if receipt is None:
            item = file_digest(path, place, recorded.get(name)).model_copy(update={"file": False})
        else:
            item = InputDigest(path=place, sha256=receipt.sha256, file=False)
        found[name] = item
    return found


def _without(split: UnlabelledSplit, record: Receipt) -> Labels:
    """The images that did not fail."""
    labels, failed = split.read(), {item.image for item in record.failed}
    images = [image for image in labels.file.images if image.key not in failed]
    return replace(labels, file=labels.file.model_copy(update={"images": images}))


def _believed(whole: Annotated, threshold: Threshold) -> Annotated:
    images = [image.take(threshold.believes(image.detections())) for image in whole.images]
    return replace(whole, images=tuple(images))


def _write(
    whole: Annotated, layout: str, target: Path, results: Path, threshold: Threshold, context: Context
) -> None:
    """The one file of a format, unless it is fresh; or its folder."""
    if box_format(layout).SUFFIX:
        make(_writing(target, layout, results, threshold, whole), STAGE, replace(context, part=None))
    else:
        _tell_remarks(write(whole, layout, target, overwrite=context.overwrite), context.console)


def _writing(target: Path, layout: str, results: Path, threshold: Threshold, whole: Annotated) -> Step:
    """What makes the one file of a format; another threshold makes it anew."""

    def run(job: Job) -> Outcome:
        written = write(whole, layout, job.path, overwrite=True, ops=job.context.ops)
        _tell_remarks(written, job.context.console)
        return Outcome(written.images)

    least = InputDigest(
        path=f"--min-score {threshold.score:g}",
        sha256=digest.of_json([threshold.score, threshold.share]),
        file=False,
    )
    return Step(
        path=target,
        schema=Schema(f"{layout}/detections", 1, ()),
        split=SPLIT,
        settings=RecipeModel(),
        inputs={"results": results},
        run=run,
        title="images with boxes",
        given={"threshold": least},
    )


def _tell_remarks(export: Export, console: Console) -> None:
    for remark in export.remarks:
        console.warn(remark)
    for hint in export.hints:
        console.info(hint)


def _tell(sure: Annotated, threshold: Threshold, target: Path, console: Console) -> None:
    """What a person wants to know in the end."""
    rows, boxes = [], [image.detections() for image in sure.images]
    for index, name in enumerate(sure.classes):
        own = [found.scores[found.class_index == index] for found in boxes]
        scores = np.concatenate([np.zeros(0, np.float32), *own])
        if len(scores):
            images = sum(len(item) > 0 for item in own)
            rows.append((name, f"{len(scores):,}", f"{images:,}", f"{scores.max():.2f}"))
    if rows:
        console.table("", ("class", "boxes", "images", "best score"), rows)
    empty = sum(not len(image) for image in sure.images)
    half = f" and {threshold.share:.0%} of the best of the class in the image" if threshold.share else ""
    text = (
        f"{target}: {sure.boxes:,} boxes{' with masks' if sure.masks else ''} in {len(sure.images)} images, {empty} of "
        "them without any; scores from "
        f"{threshold.score:.3g} on{half}: {threshold.reason()}"
    )
    fields = {
        "boxes": sure.boxes,
        "masks": sure.masks,
        "images": len(sure.images),
        "empty": empty,
        "min_score": threshold.score,
    }
    console.result(text, output=str(target), **fields)


def _draw(folder: Path, sure: Annotated, labels: Labels, context: Context) -> None:
    """A picture of each image, `folder/KEY.png`."""
    images = labels.by_key()
    with context.console.progress("pictures", len(sure.images)) as progress:
        for image in sure.images:
            path = folder / f"{_below(image.key)}.png"
            refuse_foreign(path, overwrite=context.overwrite)
            pixels = labels.read_image(images[image.key])
            drawn = draw_detections(pixels, image.detections(), sure.classes, longest=_LONGEST)
            context.ops.write_atomically(path, png_bytes(drawn))
            progress.advance()
    context.console.info(f"{folder}: {len(images)} images drawn", pictures=len(images), folder=str(folder))


def _below(key: str) -> str:
    """A path below a folder: that of an image that lies elsewhere is its name, with a digest of the whole."""
    if not leaves_folder(key):
        return key
    return f"{PurePosixPath(key).name}-{digest.of_bytes(key.encode())[:8]}"
