"""Foreign files as artifacts like our own, with a receipt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Final

from weaksam_cli.artifacts import digest, hdf5
from weaksam_cli.artifacts.class_maps import KINDS
from weaksam_cli.artifacts.points import POINTS, points_to_rows
from weaksam_cli.artifacts.proposals import PROPOSALS, SOURCES, Proposals, proposals_to_rows
from weaksam_cli.artifacts.receipt import InputDigest
from weaksam_cli.artifacts.schema import ImageRows, Schema, concatenate
from weaksam_cli.artifacts.shards import Outcome as MergeCount
from weaksam_cli.core.types import Points
from weaksam_cli.data.labels import Labels
from weaksam_cli.data.pickles import read_pickle
from weaksam_cli.engine.legacy import Job, Product
from weaksam_cli.errors import UserError
from weaksam_cli.exchange import proposal_pickles as pickles
from weaksam_cli.exchange.fitting import Remarks, fit_boxes, match_images
from weaksam_cli.exchange.image_names import ImageNames, read_order
from weaksam_cli.exchange.point_files import point_folders, read_point_folder

IMPORT_FORMATS: Final = ("detectron2", "wetectron", "mmdet", "points")
_ROWS_AT_ONCE: Final = 64


class ImportStage:
    """Who made an imported artifact, for its receipt."""

    name: ClassVar[str] = "import"
    version: ClassVar[int] = 1
    train_only: ClassVar[bool] = False
    recipe_types: ClassVar[Mapping[str, type[Any]]] = {}

    def products(self, recipe: Any, context: Any, split: str) -> Any:
        """An import is asked for by the user; no run makes it."""
        yield from ()


@dataclass
class Imported:
    """What was read.

    Attributes:
        form: format of the artifact.
        rows: key -> rows, for the images of the split that the file holds, in the order of the split.
        tables: tables of names that stand in the artifact.
        remarks: what is to be told.
    """

    schema: Schema
    rows: dict[str, ImageRows]
    tables: dict[str, Sequence[str]]
    remarks: Remarks = field(default_factory=Remarks)

    @property
    def count(self) -> int:
        """Rows of all images."""
        first = self.schema.columns[0].name
        return sum(len(item.columns[first]) for item in self.rows.values())


def read_proposal_file(path: Path, layout: str, labels: Labels, order: Path | None) -> Imported:
    """Proposals of a detectron2, wetectron or mmdet pickle, for the images of a split.

    Raises:
        UserError: a file that is refused (`read_pickle`), of another layout, of other images; `order` missing for
            mmdet, or given for a file that has ids of its own.
    """
    entries = _entries(path, layout, order)
    remarks, images = Remarks(), labels.by_key()
    positions = match_images(
        [entry.name for entry in entries], ImageNames.of_labels(labels), remarks, where=str(path)
    )
    rows = {}
    for key, position in positions.items():
        entry = fit_boxes(entries[position], images[key], remarks, where=str(path))
        proposals = Proposals.from_boxes(entry.boxes, "import", entry.predicted_iou)
        rows[key] = proposals_to_rows(proposals, (images[key].height, images[key].width))
    return Imported(PROPOSALS, rows, {"source_names": SOURCES}, remarks)


def _entries(path: Path, layout: str, order: Path | None) -> list[pickles.ImageBoxes]:
    where = str(path)
    if layout == "mmdet":
        if order is None:
            raise UserError(
                "an mmdet file is a bare list: which images is it of?",
                where="--order",
                remedy="Give the list of images that it was made from: --order trainval.txt",
            )
        return pickles.read_mmdet(read_pickle(path), read_order(order), where=where, order=str(order))
    if order is not None:
        raise UserError(f"a {layout} file has image ids of its own", where="--order", remedy="Leave it away")
    content = read_pickle(path, calls=pickles.DETECTRON2_GLOBALS)
    if layout == "detectron2":
        return pickles.read_detectron2(content, where=where)
    return pickles.read_wetectron(content, where=where)


def read_points(folder: Path, kind: str | None, labels: Labels) -> Imported:
    """Points of text files, for the images of a split that have a file of any kind.

    Raises:
        UserError: see `point_folders` and `read_point_folder`.
    """
    images, remarks = labels.by_key(), Remarks()
    by_image: dict[str, list[tuple[int, Points]]] = {}
    for place in point_folders(folder, kind):
        found = Remarks()
        for key, points in read_point_folder(place, labels, found).items():
            by_image.setdefault(key, []).append((place.kind, points))
        remarks.strangers += [f"{place.folder.name}/{name}" for name in found.strangers]
    rows = {
        key: points_to_rows(by_image[key], (image.height, image.width))
        for key, image in images.items()
        if key in by_image
    }
    remarks.missing = [key for key in images if key not in rows]
    return Imported(POINTS, rows, {"class_names": labels.class_names, "kind_names": KINDS}, remarks)


def source_digest(path: Path, layout: str, order: Path | None, kind: str | None) -> str:
    """Digest of everything that is imported: the pickle and its list of images, or all text files."""
    if layout == "points":
        parts = {
            f"{KINDS[place.kind]}/{file.name}": digest.of_file(file)
            for place in point_folders(path, kind)
            for file in place.files
        }
    else:
        parts = {name: digest.of_file(file) for name, file in (("file", path), ("order", order)) if file}
    return digest.of_json(parts)


def import_product(
    path: Path,
    out: Path,
    layout: str,
    labels: Labels,
    *,
    order: Path | None,
    kind: str | None,
    told: Callable[[Imported], None],
) -> Product:
    """The artifact that an import makes; the file is read when it has to be made.

    Args:
        path: the foreign file or folder.
        out: the artifact.
        layout: one of `IMPORT_FORMATS`.
        labels: images of the split.
        order: list of images of an mmdet file.
        kind: kind of the points of a flat folder.
        told: gets what was read, before it is written.
    """
    schema = POINTS if layout == "points" else PROPOSALS

    def make(job: Job) -> MergeCount:
        imported = (
            read_points(path, kind, labels)
            if layout == "points"
            else read_proposal_file(path, layout, labels, order)
        )
        told(imported)
        failed = [(key, f"is not in {path.name}") for key in imported.remarks.missing]
        _write(job, imported, failed)
        return MergeCount(len(imported.rows), tuple(failed))

    return Product(
        path=out,
        format_name=schema.name,
        format_version=schema.version,
        split=labels.file.info.split,
        recipe={"method": "import", "layout": layout, "kind": kind},
        inputs={"data": labels.path},
        digests={"source": InputDigest(path=path.name, sha256=source_digest(path, layout, order, kind))},
        make=make,
        what="imported rows",
    )


def _write(job: Job, imported: Imported, failed: list[tuple[str, str]]) -> None:
    import h5py

    ops, schema = job.context.ops, imported.schema

    def fill(temporary: Path) -> None:
        ops.before("write", temporary)
        with h5py.File(temporary, "w") as handle:
            hdf5.create(handle, schema, job.attributes(), imported.tables)
            hdf5.append(handle, schema, concatenate(schema, [], failed))
            rows = iter(imported.rows.items())
            while part := list(islice(rows, _ROWS_AT_ONCE)):
                hdf5.append(handle, schema, concatenate(schema, part))

    ops.build_atomically(job.path, fill)
