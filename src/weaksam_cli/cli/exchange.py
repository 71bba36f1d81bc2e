"""`weaksam export` and `weaksam import`: proposals and points to and from the files of other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.console import Console, size
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.data.pickles import pickle_bytes
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.legacy import make_product
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.errors import UserError, suggestion
from weaksam_cli.exchange.exporting import EXPORT_FORMATS, Exported, export_proposals
from weaksam_cli.exchange.importing import IMPORT_FORMATS, Imported, ImportStage, import_product
from weaksam_cli.models.weights.finder import WeightsFinder

_CONVENTIONS = {
    "detectron2": "pixel edges, float32",
    "wetectron-voc": "inclusive pixel indexes, uint16",
    "wetectron-coco": "inclusive pixel indexes, whole numbers as float32",
    "mmdet": "inclusive pixel indexes, float32",
}


def export_file(
    file: Path,
    layout: str,
    out: Path,
    *,
    labels: Path | None,
    order: Path | None,
    overwrite: bool,
    console: Console,
) -> None:
    """Write the proposals of an artifact as a pickle of another program.

    Raises:
        UserError: an unknown format, a file that is no proposals, another file at `out`, what `export_proposals` raises.
    """
    _check_format(layout, EXPORT_FORMATS)
    with open_artifact(file, PROPOSALS) as artifact:
        found = export_proposals(artifact, layout, _labels(labels), order)
    data = pickle_bytes(found.content)
    if out.exists() and not overwrite:
        if out.is_file() and out.stat().st_size == len(data) and out.read_bytes() == data:
            console.info(f"{out}: fresh, nothing to do", artifact=str(out), state="fresh")
            return
        raise UserError("there is another file", where=str(out), remedy="Give --overwrite to replace it")
    FileOps().write_atomically(out, data)
    _tell_export(out, layout, found, len(data), console)


def _tell_export(out: Path, layout: str, found: Exported, n_bytes: int, console: Console) -> None:
    if found.empty:
        console.warn(
            f"{len(found.empty)} images failed in propose and stand in the file without boxes: "
            f"{', '.join(found.empty[:5])}",
            images=list(found.empty),
        )
    if found.left_out:
        console.warn(f"{len(found.left_out)} images are not in the list and are left out")
    if found.fractions:
        console.warn(f"{found.fractions} boxes had fractions of pixels and were cut to whole ones")
    console.info(
        f"{out}: {found.images} images, {found.boxes} boxes ({_CONVENTIONS[layout]}), {size(n_bytes)}",
        file=str(out),
        images=found.images,
        boxes=found.boxes,
    )


def import_file(
    file: Path,
    layout: str,
    out: Path,
    *,
    labels: Path,
    order: Path | None,
    kind: str | None,
    overwrite: bool,
    console: Console,
) -> None:
    """Read a foreign file into an artifact that stages accept with `--input`.

    Raises:
        UserError: an unknown format, a file that does not fit, another artifact at `out`.
    """
    _check_format(layout, IMPORT_FORMATS)
    if kind is not None and layout != "points":
        raise UserError("only points have a kind", where="--kind", remedy="Leave it away")
    if order is not None and layout == "points":
        raise UserError("point files are named by their images", where="--order", remedy="Leave it away")
    if out.suffix != ".h5":
        raise UserError("an artifact is an .h5 file", where=str(out), remedy="Give -o NAME.h5")
    for path in (file, order):
        if path is not None and not path.exists():
            raise UserError("there is no such file", where=str(path))
    known = read_labels(labels, Path())
    told: list[Imported] = []
    product = import_product(file, out, layout, known, order=order, kind=kind, told=told.append)
    make_product(product, ImportStage(), _context(known, layout, overwrite, console))
    for imported in told:
        _tell_import(imported, known, console)


def _tell_import(imported: Imported, labels: Labels, console: Console) -> None:
    for line in imported.remarks.lines(labels.path.name):
        console.warn(line)
    what = "points" if imported.schema.name.endswith("points") else "boxes"
    console.info(
        f"{imported.count} {what} of {len(imported.rows)} images",
        images=len(imported.rows),
        rows=imported.count,
    )


def _check_format(layout: str, allowed: Sequence[str]) -> None:
    if layout not in allowed:
        raise UserError(
            f"there is no format {layout!r}{suggestion(layout, allowed)}",
            where="--format",
            remedy=f"Allowed: {', '.join(allowed)}",
        )


def _labels(path: Path | None) -> Labels | None:
    return None if path is None else read_labels(path, Path())


def _context(labels: Labels, layout: str, overwrite: bool, console: Console) -> Context:
    """Paths in the receipt are relative to the run that the labels are of."""
    info = labels.file.info
    return Context(
        dataset=info.dataset,
        run=RunDirectory(
            labels.path.absolute().parent.parent, given={"data": labels.path}, given_split=info.split
        ),
        console=console,
        ops=FileOps(),
        weights=WeightsFinder(()),
        recipe_name=f"import-{layout}",
        overwrite=overwrite,
    )
