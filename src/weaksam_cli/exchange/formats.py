"""Formats of other programs: what their modules share, and how they are found.

A format is a module of this package, found by listing it. It binds

* `SCHEMA`: the artifact that it is about; none where it is about boxes of any artifact;
* to be written: `WRITES`, name for `--format` -> what its numbers mean, and `write(outgoing, name) -> Written`, or
  without a schema `write(annotated, out, options) -> Written` and `SUFFIX`, that of its file, "" for a folder;
* to be read, under the module's own name: `read(source, labels) -> Incoming`; and where the source is a folder
  `files(source)`, all that `read` will open;
* `TAKES`: the options of `weaksam import` and `export` that it has a use for, if any.

No other file knows the formats.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts import digest, hdf5
from weaksam_cli.artifacts.proposals import PROPOSALS, SOURCES, Proposals, proposals_to_rows
from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.artifacts.receipt import InputDigest
from weaksam_cli.artifacts.schema import ImageRows, Schema, concatenate
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.core.boxes import FloatArray, as_boxes, clip
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.image_names import ImageNames, first_names, read_order
from weaksam_cli.data.labels import LabelledImage, Labels
from weaksam_cli.data.pickled_values import shown
from weaksam_cli.engine.context import Job
from weaksam_cli.engine.stages import Stage
from weaksam_cli.engine.steps import Step
from weaksam_cli.errors import UserError, unknown

MAX_OVERHANG: Final = 2.0
"""Boxes may reach this many pixels over the image's edge: rounding, and files that count pixels from 1, do."""

_ROWS_AT_ONCE: Final = 64


@cache
def _formats() -> dict[str, ModuleType]:
    package = __name__.rpartition(".")[0]
    names = [item.name for item in pkgutil.iter_modules([str(Path(__file__).parent)])]
    modules = {name: importlib.import_module(f"{package}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "WRITES")}


def writers() -> dict[str, ModuleType]:
    """Name for `export --format` -> module."""
    return dict(sorted((name, module) for module in _formats().values() for name in module.WRITES))


def readers() -> dict[str, ModuleType]:
    """Name for `import --format` -> module."""
    return {name: module for name, module in _formats().items() if hasattr(module, "read")}


def chosen(name: str, formats: Mapping[str, ModuleType]) -> ModuleType:
    """The module of a format.

    Raises:
        UserError: there is none of that name.
    """
    if name not in formats:
        raise unknown(f"there is no format {name!r}", name, list(formats), where="--format")
    return formats[name]


@dataclass(frozen=True)
class ImageBoxes:
    """Boxes of one image in a file.

    Attributes:
        name: the image's id or key in the file; its name in the list for a bare list.
        boxes: float32 (n, 4), xyxy pixel edges.
        predicted_iou: float32 (n,), NaN where nobody estimated it.
    """

    name: object
    boxes: FloatArray
    predicted_iou: NDArray[np.float32]


# ---------------------------------------------------------------- writing
@dataclass(frozen=True)
class Written:
    """What a format made of an artifact.

    Attributes:
        files: place below the output -> bytes; where the output is a file, that is "", and the others lie beside it.
        rows: boxes or points in it.
        remarks: what else is to be told.
        images: place below the output -> file of the image that belongs there.
        hints: what to do with it in the other program.
    """

    files: Mapping[str, bytes]
    rows: int
    remarks: Sequence[str] = ()
    images: Mapping[str, Path] = field(default_factory=dict)
    hints: Sequence[str] = ()


@dataclass(frozen=True)
class Outgoing:
    """What is written: images of an artifact, in an order.

    Images that failed are among them, without rows: readers look every image up, or count on a list's order.

    Attributes:
        artifact: open.
        keys: the images.
        names: gives images their integer ids.
        has_labels: these are ids of labels, else they are the digits of VOC's keys.
        order: the list that the images were chosen by; None for all of the artifact.
    """

    artifact: Artifact
    keys: tuple[str, ...]
    names: ImageNames
    has_labels: bool
    order: Path | None

    @classmethod
    def of(cls, artifact: Artifact, labels: Labels | None, order: Path | None) -> Outgoing:
        """The images of an artifact (opened as of `labels`, where they are given), or those of them that a list names.

        Raises:
            UserError: a list of other images.
        """
        keys = (*artifact.image_ids, *artifact.failed)
        name = artifact.path.name
        names = ImageNames.of_keys(artifact.path, keys) if labels is None else ImageNames.of_labels(labels)
        if order is not None:
            wanted = read_order(order)
            found = names.resolve(wanted, where=str(order))
            known = set(keys)
            strangers = [text for text, key in zip(wanted, found, strict=True) if key not in known]
            if strangers:
                remedy = "Give that of the split that the artifact is of"
                what = f"{len(strangers)} images of the list ({first_names(strangers)}) are not in {name}"
                raise UserError(f"{what} ({names.first()})", where=str(order), remedy=remedy)
            keys = tuple(key for key in found if key is not None)
        return cls(artifact, keys, names, labels is not None, order)

    @property
    def empty(self) -> list[str]:
        """Images that failed."""
        return [key for key in self.keys if key in self.artifact.failed]

    @property
    def masks(self) -> int:
        """How many of the proposals have a mask, in the whole artifact: formats of proposals have no place for any."""
        offsets = f"{PROPOSALS.blobs[0].name}_offsets"
        if self.artifact.format_name != PROPOSALS.name or offsets not in self.artifact.names:
            return 0
        return int((np.diff(self.artifact.column(offsets)) > 0).sum())

    def boxes(self, by: Literal["key", "id"]) -> list[ImageBoxes]:
        """The proposals of each image, named by its key or its integer id.

        Raises:
            UserError: an image without an id, or two with one.
        """
        names = self._ids() if by == "id" else self.keys
        boxes = self.artifact.column("boxes")
        predicted_iou = self.artifact.column("predicted_iou").astype(np.float32)
        found = []
        for key, name in zip(self.keys, names, strict=True):
            span = slice(0, 0) if key in self.artifact.failed else self.artifact.span(key)
            found.append(ImageBoxes(name, as_boxes(boxes[span]), predicted_iou[span]))
        return found

    def _ids(self) -> list[int]:
        found = [self.names.ids[key] for key in self.keys if key in self.names.ids]
        fault = ""
        if len(found) < len(self.keys):
            without = next(key for key in self.keys if key not in self.names.ids)
            fault = f"image {without!r} has no integer id, and the format knows images by integers"
        elif len(set(found)) < len(found):
            fault = "two images have the same digits, so they have no integer ids"
        if fault:
            remedy = "Give --labels labels/<split>.json, which has their ids"
            raise UserError(fault, where=self.names.source, remedy=remedy)
        return found


# ---------------------------------------------------------------- reading
@dataclass(frozen=True)
class Source:
    """What is read.

    Attributes:
        path: the foreign file or folder.
        order: list of images that a file was made from, for a format that names none.
        kind: kind of class activation maps, for points whose files do not say.
    """

    path: Path
    order: Path | None = None
    kind: str | None = None

    def files(self) -> dict[str, Path]:
        """Name -> file, of all that is read; a format of folders has a function of its own for this."""
        return {name: path for name, path in (("file", self.path), ("order", self.order)) if path}


@dataclass
class Remarks:
    """What was noticed on the way, to be told at the end.

    Attributes:
        missing: images of the split that the file does not hold.
        strangers: names in the file that are no images of the split.
        cut: key -> boxes that reached over the edge and were cut to the image.
        empty: key -> boxes without area, which were left out.
    """

    missing: list[str] = field(default_factory=list)
    strangers: list[object] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    empty: dict[str, int] = field(default_factory=dict)

    def lines(self, source: str) -> Iterator[str]:
        """One sentence for each kind of remark; missing images stand in the artifact and are told from there."""
        if self.strangers:
            names = first_names(self.strangers)
            yield f"{len(self.strangers)} images of the file are not in {source} and are left out: {names}"
        for counts, what in (
            (self.cut, "reach over the edge of the image and were cut to it"),
            (self.empty, "have no area and are left out"),
        ):
            if counts:
                total = sum(counts.values())
                yield f"{total} boxes of {len(counts)} images {what}: {first_names(counts)}"


@dataclass(frozen=True)
class Incoming:
    """What was read.

    Attributes:
        rows: key -> rows, for the images of the split that the file holds, in the order of the split.
        tables: tables of names that stand in the artifact.
        remarks: what is to be told.
    """

    rows: dict[str, ImageRows]
    tables: dict[str, Sequence[str]]
    remarks: Remarks


def match_images(
    names: Sequence[object], images: ImageNames, remarks: Remarks, *, where: str
) -> dict[str, int]:
    """Key -> position in the file, for the images of the split that the file holds, in the order of the split.

    Raises:
        UserError: when the two have no image in common, or a name is ambiguous.
    """
    keys = images.resolve(names, where=where)
    positions = {key: position for position, key in enumerate(keys) if key is not None}
    remarks.strangers += [name for name, key in zip(names, keys, strict=True) if key is None]
    if not positions:
        raise UserError(
            f"no image of the file ({first_names(names) or 'it is empty'}) is in {images.source} ({images.first()})",
            where=where,
            remedy="Give the labels of the split that the file was made for",
        )
    remarks.missing += [key for key in images.keys if key not in positions]
    return {key: positions[key] for key in images.keys if key in positions}


def fit_boxes(entry: ImageBoxes, image: LabelledImage, remarks: Remarks, *, where: str) -> ImageBoxes:
    """Boxes cut to the image, those without area left out; both are counted.

    Raises:
        UserError: for a box that ends before it begins, or that leaves the image by more than `MAX_OVERHANG`.
    """
    boxes = entry.boxes
    wrong = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    if wrong.size:
        box = f"box {int(wrong[0])} ({_text(boxes[wrong[0]])}, pixel edges)"
        what = f"image {shown(entry.name)}: {box} ends before it begins"
        raise UserError(what, where=where, remedy="Are these boxes xywh?")
    size = np.asarray([image.width, image.height], np.float32)
    worst = np.concatenate([-boxes[:, :2], boxes[:, 2:] - size], axis=1).max(axis=1, initial=0)
    if len(boxes) and worst.max() > MAX_OVERHANG:
        number = int(worst.argmax())
        raise UserError(
            f"image {shown(entry.name)} ({image.key!r}) is {image.width} x {image.height} pixels, and box {number} "
            f"({_text(boxes[number])}, pixel edges) leaves it by {worst[number]:g}",
            where=where,
            remedy="The file belongs to other images, or to another list of images",
        )
    cut = clip(boxes, image.height, image.width)
    filled = (cut[:, 2:] > cut[:, :2]).all(axis=1)
    if (worst > 0).any():
        remarks.cut[image.key] = int((worst > 0).sum())
    if not filled.all():
        remarks.empty[image.key] = int((~filled).sum())
    return ImageBoxes(entry.name, cut[filled], entry.predicted_iou[filled])


def _text(box: FloatArray) -> str:
    return " ".join(f"{value:g}" for value in box)


def incoming_boxes(entries: Sequence[ImageBoxes], source: Source, labels: Labels) -> Incoming:
    """The entries of a file as proposals of the images of a split.

    Raises:
        UserError: they are of other images; see `match_images` and `fit_boxes`.
    """
    where, remarks, images, rows = str(source.path), Remarks(), labels.by_key(), {}
    names = [entry.name for entry in entries]
    for key, position in match_images(names, ImageNames.of_labels(labels), remarks, where=where).items():
        entry = fit_boxes(entries[position], images[key], remarks, where=where)
        proposals = Proposals.from_boxes(entry.boxes, "import", entry.predicted_iou)
        rows[key] = proposals_to_rows(proposals, (images[key].height, images[key].width))
    return Incoming(rows, {"source_names": SOURCES}, remarks)


IMPORT: Final = Stage("import", 1, "", "", PROPOSALS)
"""Who made an imported artifact, for its receipt."""


class _Settings(RecipeModel):
    method: Literal["import"] = "import"
    layout: str
    kind: str | None


def row_name(module: ModuleType) -> str:
    """What the rows of its artifact are called."""
    return "points" if hasattr(module, "SCHEMA") and module.SCHEMA.name.endswith("points") else "boxes"


def import_step(name: str, source: Source, out: Path, labels: Labels) -> Step:
    """The step that makes an artifact of a foreign file; it is read when the artifact has to be made.

    Args:
        name: of the format.
        source: the file.
        out: the artifact.
        labels: images of the split.
    """
    module = chosen(name, readers())
    schema, first = module.SCHEMA, module.SCHEMA.columns[0].name
    files = getattr(module, "files", Source.files)(source)
    sha256 = digest.of_json({part: digest.of_file(path) for part, path in files.items()})

    def run(job: Job) -> Outcome:
        incoming, console = module.read(source, labels), job.context.console
        for line in incoming.remarks.lines(labels.path.name):
            console.warn(line)
        images, rows = len(incoming.rows), sum(len(item.columns[first]) for item in incoming.rows.values())
        console.info(f"{rows} {row_name(module)} of {images} images", images=images, rows=rows)
        failed = [(key, f"is not in {source.path.name}") for key in incoming.remarks.missing]
        _write(job, schema, incoming, failed)
        return Outcome(images, tuple(failed))

    return Step(
        path=out,
        schema=schema,
        split=labels.file.info.split,
        settings=_Settings(layout=name, kind=source.kind),
        inputs={"data": labels.path},
        run=run,
        title="imported rows",
        given={"source": InputDigest(path=source.path.name, sha256=sha256, file=False)},
    )


def _write(job: Job, schema: Schema, incoming: Incoming, failed: list[tuple[str, str]]) -> None:
    import h5py

    def fill(temporary: Path) -> None:
        job.context.ops.before("write", temporary)
        with h5py.File(temporary, "x") as handle:
            hdf5.create(handle, schema, job.attributes(), incoming.tables)
            hdf5.append(handle, schema, concatenate(schema, [], failed))
            rows = iter(incoming.rows.items())
            while part := list(islice(rows, _ROWS_AT_ONCE)):
                hdf5.append(handle, schema, concatenate(schema, part))

    job.context.ops.build_atomically(job.path, fill)
