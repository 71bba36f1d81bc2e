"""`weaksam export` and `weaksam import`: boxes and points to and from the files of other programs."""

from __future__ import annotations

from pathlib import Path

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.receipt import read_receipt, refuse_foreign
from weaksam_cli.cli.options import CommonOptions
from weaksam_cli.console import Console, size
from weaksam_cli.data.artifact_labels import labels_in_run, labels_of, no_labels
from weaksam_cli.data.image_names import first_names, open_artifact_of
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.steps import make
from weaksam_cli.errors import UserError
from weaksam_cli.exchange import formats
from weaksam_cli.exchange.annotated import Annotated, Options, annotated_detections, annotated_proposals
from weaksam_cli.exchange.writing import images_wish, place, refuse_unused, write
from weaksam_cli.models.weights.catalogue import WeightsFinder

TORCHSCRIPT = "torchscript"
"""The format of a model; all others are of boxes and points."""


def export_file(
    options: CommonOptions,
    console: Console,
    *,
    file: Path,
    layout: str,
    out: Path,
    labels: Path | None,
    order: Path | None,
    min_score: float | None,
    scores: bool,
    images: str,
) -> None:
    """Write an artifact as the files of another program.

    Raises:
        UserError: an unknown format, an artifact that does not fit it, an option that it has no use for, another file at
            `out`.
    """
    if layout == TORCHSCRIPT:
        unused = {
            "labels": labels is not None,
            "order": order is not None,
            "min-score": min_score is not None,
            "scores": scores,
            "images": images != "none",
        }
        for option, given in unused.items():
            refuse_unused(None, option, layout, given=given)
        _export_model(options, console, file, out)
        return
    module = formats.chosen(layout, formats.writers())
    if hasattr(module, "SCHEMA"):
        for option, given in (
            ("min-score", min_score is not None),
            ("scores", scores),
            ("images", images != "none"),
        ):
            refuse_unused(module, option, layout, given=given)
        _export_rows(options, console, file=file, layout=layout, out=out, labels=labels, order=order)
        return
    refuse_unused(module, "order", layout, given=order is not None)
    wishes = Options(scores=scores, images=images_wish(images))
    annotated, failed = _annotated(file, labels)
    export = write(annotated, layout, out, wishes, min_score=min_score, overwrite=options.overwrite)
    if failed:
        console.warn(f"{len(failed)} images failed and are left out: {first_names(failed)}", images=failed)
    for remark in export.remarks:
        console.warn(remark)
    if export.is_fresh:
        console.info(f"{out}: fresh, nothing to do", artifact=str(out), state="fresh")
        return
    left = annotated.boxes - export.boxes
    masks = f", {export.masks} masks" if export.masks else ""
    console.info(
        f"{out}: {export.images} images, {export.boxes} boxes{f' of {annotated.boxes}' if left else ''} of "
        f"{len(annotated.classes)} classes{masks} ({module.WRITES[layout]}), {size(export.bytes)}",
        file=str(out),
        images=export.images,
        rows=export.boxes,
        masks=export.masks,
    )
    for hint in export.hints:
        console.info(f"  {hint}")


def _export_model(options: CommonOptions, console: Console, file: Path, out: Path) -> None:
    """Write a retrained detector, given as its file or its run, for `torch.jit.load`.

    Raises:
        UserError: it is none, or something else stands at `out`.
    """
    from weaksam_cli.predict.chain import retrained_inference
    from weaksam_cli.predict.trained import find_detector
    from weaksam_cli.retrain.torchscript import scripted_bytes

    trained = find_detector(file, "retrain" if file.is_dir() else None)
    if trained.use != "retrain":
        what = "is the detector of wsod, which works on proposals and is no single network"
        raise UserError(
            what, where=str(file), remedy="Give the retrained one, or detect with weaksam predict"
        )
    inference = retrained_inference(trained).inference
    if inference.augment:
        console.warn("test-time augmentation is left out: the file looks at an image once")
    data = scripted_bytes(trained.model, inference, trained.class_names)
    if place(out, {"": data}, {}, "none", overwrite=options.overwrite, ops=FileOps()):
        console.info(f"{out}: fresh, nothing to do", artifact=str(out), state="fresh")
        return
    console.info(
        f"{out}: {len(trained.categories)} classes, shorter side {inference.short_side} (TorchScript), {size(len(data))}",
        file=str(out),
        classes=trained.class_names,
    )


def _annotated(file: Path, labels: Path | None) -> tuple[Annotated, list[str]]:
    """The images and boxes of proposals, detections or pseudo ground truth, and the images that failed.

    Raises:
        UserError: something else, or its images are not known.
    """
    if not file.is_file():
        raise UserError("there is no such file", where=str(file))
    known = labels_of(file) if labels is None else labels_in_run(labels, labels.absolute().parent.parent)
    if file.suffix == ".json":
        if known is None:
            raise no_labels(file)
        return annotated_detections(file, known), []
    record = read_receipt(file)
    noted = record.identity.inputs.get("images") if record else None
    opened = open_artifact(file, PROPOSALS) if known is None else open_artifact_of(known, file, PROPOSALS)
    with opened as artifact:
        folder = file.parent / noted.path if noted else None
        return annotated_proposals(artifact, known, folder), list(artifact.failed)


def _export_rows(
    options: CommonOptions,
    console: Console,
    *,
    file: Path,
    layout: str,
    out: Path,
    labels: Path | None,
    order: Path | None,
) -> None:
    """Write proposals or points as one other program reads them."""
    module = formats.chosen(layout, formats.writers())
    known = None if labels is None else read_labels(labels, Path())
    with open_artifact(file, module.SCHEMA, verify=False) as artifact:
        every = len(artifact) + len(artifact.failed)
    opened = (
        open_artifact(file, module.SCHEMA) if known is None else open_artifact_of(known, file, module.SCHEMA)
    )
    with opened as artifact:
        outgoing = formats.Outgoing.of(artifact, known, order)
        written, masks = module.write(outgoing, layout), outgoing.masks
    left_out = every - len(outgoing.keys)
    if place(out, written.files, {}, "none", overwrite=options.overwrite, ops=FileOps()):
        console.info(f"{out}: fresh, nothing to do", artifact=str(out), state="fresh")
        return
    if empty := outgoing.empty:
        what = f"{len(empty)} images failed and stand in the file without rows: {first_names(empty)}"
        console.warn(what, images=empty)
    if left_out:
        console.warn(f"{left_out} images are not in the {'list' if order else 'labels'} and are left out")
    for remark in written.remarks:
        console.warn(remark)
    if masks:
        console.warn(f"{masks} masks are left out: the format has boxes alone (--format coco has masks)")
    console.info(
        f"{out}: {len(outgoing.keys)} images, {written.rows} {formats.row_name(module)} ({module.WRITES[layout]}), "
        f"{size(sum(map(len, written.files.values())))}",
        file=str(out),
        images=len(outgoing.keys),
        rows=written.rows,
    )


def import_file(
    options: CommonOptions,
    console: Console,
    *,
    file: Path,
    layout: str,
    out: Path,
    labels: Path,
    order: Path | None,
    kind: str | None,
) -> None:
    """Read a foreign file into an artifact that stages accept with `--input`.

    Raises:
        UserError: an unknown format, a file that does not fit, another file at `out`.
    """
    module = formats.chosen(layout, formats.readers())
    for option, value in (("order", order), ("kind", kind)):
        refuse_unused(module, option, layout, given=value is not None)
    if out.suffix != ".h5":
        raise UserError("an artifact is an .h5 file", where=str(out), remedy="Give -o NAME.h5")
    for path in (file, order):
        if path is not None and not (path.is_file() or path.is_dir()):  # a pipe, or a device, might never end
            raise UserError("there is no such file", where=str(path))
    refuse_foreign(out, overwrite=options.overwrite)
    known = read_labels(labels, Path())
    step = formats.import_step(layout, formats.Source(file, order, kind), out, known)
    make(step, formats.IMPORT, _context(known, layout, options, console))


def _context(labels: Labels, layout: str, options: CommonOptions, console: Console) -> Context:
    """Paths in the receipt are relative to the run that the labels are of."""
    info, root = labels.file.info, labels.path.absolute().parent.parent
    return Context(
        dataset=info.dataset,
        run=RunDirectory(root, given={"data": labels.path}, given_split=info.split),
        console=console,
        ops=FileOps(),
        weights=WeightsFinder(()),
        recipe_name=f"import-{layout}",
        overwrite=options.overwrite,
        allow_stale=options.allow_stale,
    )
