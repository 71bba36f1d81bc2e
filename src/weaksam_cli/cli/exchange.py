"""`weaksam export` and `weaksam import`: proposals and points to and from the files of other programs."""

from __future__ import annotations

from pathlib import Path

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.receipt import refuse_foreign
from weaksam_cli.cli.options import CommonOptions
from weaksam_cli.console import Console, size
from weaksam_cli.data.image_names import first_names, open_artifact_of
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.steps import make
from weaksam_cli.errors import UserError
from weaksam_cli.exchange import formats
from weaksam_cli.models.weights.catalogue import WeightsFinder


def export_file(
    options: CommonOptions,
    console: Console,
    *,
    file: Path,
    layout: str,
    out: Path,
    labels: Path | None,
    order: Path | None,
) -> None:
    """Write an artifact as the files of another program.

    Raises:
        UserError: an unknown format, an artifact that does not fit it, another file at `out`.
    """
    module = formats.chosen(layout, formats.writers())
    known = None if labels is None else read_labels(labels, Path())
    with open_artifact(file, module.SCHEMA, verify=False) as artifact:
        every = len(artifact) + len(artifact.failed)
    opened = (
        open_artifact(file, module.SCHEMA) if known is None else open_artifact_of(known, file, module.SCHEMA)
    )
    with opened as artifact:
        outgoing = formats.Outgoing.of(artifact, known, order)
        written = module.write(outgoing, layout)
    left_out = every - len(outgoing.keys)
    targets = {out / name if name else out: data for name, data in written.files.items()}
    if all(path.is_file() and path.read_bytes() == data for path, data in targets.items()):
        console.info(f"{out}: fresh, nothing to do", artifact=str(out), state="fresh")
        return
    for path, data in targets.items():
        if not path.is_file() or path.read_bytes() != data:
            refuse_foreign(path, overwrite=options.overwrite)
    for path, data in targets.items():
        FileOps().write_atomically(path, data)
    if empty := outgoing.empty:
        what = f"{len(empty)} images failed and stand in the file without rows: {first_names(empty)}"
        console.warn(what, images=empty)
    if left_out:
        console.warn(f"{left_out} images are not in the {'list' if order else 'labels'} and are left out")
    for remark in written.remarks:
        console.warn(remark)
    console.info(
        f"{out}: {len(outgoing.keys)} images, {written.rows} {formats.row_name(module)} ({module.WRITES[layout]}), "
        f"{size(sum(map(len, targets.values())))}",
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
        if value is not None and option not in getattr(module, "TAKES", ()):
            what = f"the format {layout} has no use for it"
            raise UserError(what, where=f"--{option}", remedy="Leave it away")
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
