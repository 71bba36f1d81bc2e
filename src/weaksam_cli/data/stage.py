"""`weaksam data`: read a dataset, write `labels/<split>.json` and `labels/source.json`.

Its methods are the layouts, see `dataset`. A dataset is read as a whole; then each split is a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts.receipt import InputDigest
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.core.names import first_few
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.annotations import RawDataset, RawSplit
from weaksam_cli.data.archives import refuse_archive
from weaksam_cli.data.dataset import DatasetSplit
from weaksam_cli.data.division import split_off
from weaksam_cli.data.ground_truth import GroundTruthSplit, annotated, read_with_boxes
from weaksam_cli.data.labels import (
    LABELS_FORMAT,
    LABELS_VERSION,
    Labels,
    LabelsFile,
    common_root,
    labels_bytes,
    labels_file,
    read_labels,
)
from weaksam_cli.data.reading import read_splits
from weaksam_cli.data.signs import signs_of_annotations, tables_near
from weaksam_cli.data.source import SOURCE_FILE, Source, SplitSource, read_source, write_source
from weaksam_cli.data.summary import class_table, oddities, shared_images, unlisted_images
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.methods import load_method, method_names
from weaksam_cli.engine.recipes import LoadedRecipe
from weaksam_cli.engine.stages import Stage
from weaksam_cli.engine.steps import Step, make
from weaksam_cli.errors import UserError, unknown

STAGE = Stage("data", 3, "labels", "{split}.json", Schema(LABELS_FORMAT, LABELS_VERSION, ()))
_SHOWN_REMARKS = 5


def choose_layout(source: str, given: str | None) -> str:
    """The layout that was named, else the likeliest for what lies at `source`.

    Raises:
        UserError: an unknown layout, a missing folder, an archive, or nothing that is recognised.
    """
    refuse_archive(Path(source))
    names = method_names("data")
    if given is not None:
        if given.replace("-", "_") not in names:
            raise unknown(f"there is no layout {given!r}", given, names, where="--layout")
        return given.replace("-", "_")
    layouts = {name: load_method("data", name, where="--layout") for name in names}
    likeness = {name: layout.likeness(Path(source)) for name, layout in layouts.items()}
    best = max(names, key=likeness.__getitem__)
    if likeness[best] > 0:
        return best
    if not Path(source).exists():
        raise UserError("no such file or folder", where=source, remedy="Check the path of the dataset")
    if unread := signs_of_annotations(Path(source)) or tables_near(Path(source)):
        raise UserError(
            f"the images seem to be annotated in a way that is not read: {first_few(unread)}",
            where=source,
            remedy="Export COCO JSON, VOC XML or YOLO, or write a table image,label (masks without classes say no label); "
            "--layout folder takes folders as classes",
        )
    looked = "; ".join(layout.LOOKS_LIKE for layout in layouts.values())
    links = sorted(path.name for path in Path(source).glob("*/") if path.is_symlink())
    told = f" (links to folders are not followed: {first_few(links)})" if links else ""
    raise UserError(
        f"the layout of the dataset is not recognised{told}; looked for: {looked}",
        where=source,
        remedy="Name the layout with --layout, or give the folder that holds one of these",
    )


def read_dataset(
    loaded: LoadedRecipe, source: str, images: Path | None, context: Context, only: str | None
) -> None:
    """Read the dataset at `source` and write the labels of its splits (or of one), and where they lie.

    Splits that were read from another place stay: `train` and `valid` may be two folders.

    Args:
        loaded: the recipe, and the layout that reads with it.
        source: the dataset.
        images: the folder of its images where that has to be said.
        context: of the command.
        only: one of its splits.

    Raises:
        UserError: as the layout, for a split that is not there, for a split to train on without a label, and where a split
            of this name was read from another place (without `overwrite`).
    """
    layout, place = loaded.method, Path(source).absolute()
    recipe: Any = loaded.recipe
    if hasattr(layout, "make"):
        place, recipe = layout.make(recipe, context)
        layout = load_method("data", recipe.method, where=source)
    folder = images.absolute() if images is not None else None
    dataset: RawDataset = layout.read(place, recipe, folder, boxes=False)
    splits: Sequence[DatasetSplit] = read_splits(dataset, recipe)
    if recipe.split_off:
        splits = split_off(splits, *next(iter(recipe.split_off.items())))
    if only is not None:
        names = [split.name for split in splits]
        if only not in names:
            raise unknown(f"the dataset has no split {only!r}", only, names, where="--split")
    root = common_root(splits)
    made = [split for split in splits if only in (None, split.name)]
    files = {split.name: labels_file(context.dataset, split, root, recipe.max_pixels) for split in made}
    noted = {
        split.name: SplitSource(
            role=split.role,
            layout=recipe.method,
            path=_place_in_run(place, context),
            image_root=_place_in_run(root, context),
            name=split.origin,
            images=None if folder is None else str(folder),
            recipe=recipe.model_dump(mode="json"),
        )
        for split in made
    }
    source_of_run = joined(noted, files, only, context)
    told = [*dataset.warnings]
    for split in made:
        _require_labels(split)
    for split in made:
        labels = Labels(context.run.output("data", split.name), files[split.name], root)
        truth = _ground_truth(labels, partial(read_with_boxes, layout, place, recipe, folder, split.origin))
        if not isinstance(truth, str):
            told += [item.reason for item in truth.warnings if not item.key and item not in split.warnings]
        make(_step(labels, loaded.recipe, source, truth), STAGE, context)
    write_source(context.ops, context.run.root, source_of_run)
    _summarise(splits, list(files.values()), told, context)


def _require_labels(split: DatasetSplit) -> None:
    if split.role == "test" or any(image.labels for image in split.images):
        return
    remedy = "Image-level labels are what everything is learnt from; check the annotations"
    if hidden := sum(bool(image.difficult) for image in split.images):
        remedy = (
            f"{hidden} of its images show objects that are marked difficult (COCO: crowds) alone; "
            "--set difficult=include counts them"
        )
    raise UserError("no image of this training split has a label", where=f"split {split.name}", remedy=remedy)


def _ground_truth(labels: Labels, read: Callable[[], RawSplit | None]) -> GroundTruthSplit | str:
    """What `eval` will find, or why it will find nothing: counted here, so that it is known early, and kept nowhere."""
    try:
        split = read()
        if split is None:
            return "this dataset has labels and no boxes"
        return annotated(split, labels, masks=False)
    except UserError as error:
        return error.one_line()


def _step(labels: Labels, recipe: RecipeModel, source: str, truth: GroundTruthSplit | str) -> Step:
    file = labels.file
    data = labels_bytes(file)

    def run(job: Job) -> Outcome:
        job.context.ops.write_atomically(job.path, data)
        failed = tuple((item.image, item.reason) for item in file.failed)
        left_out = () if isinstance(truth, str) else truth.left_out(labels)
        if isinstance(truth, str):
            text = f"{truth}: only classification can be evaluated on {file.info.split}"
            job.context.console.info(text)
        return Outcome(len(file.images), failed, left_out=left_out)

    return Step(
        path=labels.path,
        schema=STAGE.schema,
        split=file.info.split,
        settings=recipe,
        inputs={},
        run=run,
        title="images and image-level labels",
        given={"source": InputDigest(path=source, sha256=digest.of_bytes(data), file=False)},
    )


def joined(
    noted: Mapping[str, SplitSource], files: Mapping[str, LabelsFile], only: str | None, context: Context
) -> Source:
    """The splits that were read now with those that the run has from elsewhere; `overwrite` begins anew.

    Raises:
        UserError: a split of this name has other contents and was read from another place, or the splits that stay have
            other classes.
    """
    path = context.run.root / SOURCE_FILE
    if context.overwrite or not path.is_file():
        return Source(splits=dict(noted))
    earlier, places = read_source(context.run.root).splits, {part.path for part in noted.values()}
    remedy = "Give --overwrite to begin anew, or --dataset NAME to keep both"
    for name, file in files.items():
        old, target = earlier.get(name), context.run.output("data", name)
        is_elsewhere = old is not None and old.path not in places and target.is_file()
        if old is not None and is_elsewhere and target.read_bytes() != labels_bytes(file):
            what = f"the split {name!r} of this run was read from {old.path}"
            raise UserError(what, where=str(path), remedy=remedy)
    kept = {
        name: part
        for name, part in earlier.items()
        if name not in noted and (only is not None or part.path not in places)
    }
    for name, part in kept.items():
        context.console.info(f"split {name} stays, as it was read from {part.path}")
        categories = read_labels(context.run.output("data", name), Path()).file.categories
        if (other := next(iter(files.values()))).categories != categories:
            raise UserError(
                f"the splits {name} and {other.info.split} have different classes: "
                f"{first_few(item.name for item in categories)} and {first_few(item.name for item in other.categories)}",
                where=str(path),
                remedy=f"Give one list to both, --set classes=[...]. {remedy}",
            )
    return Source(splits={**kept, **noted})


def _place_in_run(path: Path, context: Context) -> str:
    """A path as `source.json` notes it: what lies in the run directory moves with it."""
    root = context.run.root.absolute()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _summarise(
    splits: Sequence[DatasetSplit], files: Sequence[LabelsFile], warnings: Sequence[str], context: Context
) -> None:
    """Say what was read: on stdout how many images show each class, on stderr what looks like a mistake."""
    context.console.table("", *class_table(splits))
    lines = [*warnings, *oddities(splits), *unlisted_images(splits), *shared_images(files)]
    for split in splits:
        remarks = [
            f"{remark.key}: {remark.reason}" if remark.key else remark.reason for remark in split.warnings
        ]
        lines += remarks[:_SHOWN_REMARKS]
        if len(remarks) > _SHOWN_REMARKS:
            lines.append(f"split {split.name}: {len(remarks) - _SHOWN_REMARKS} more remarks of this kind")
    for line in dict.fromkeys(lines):
        context.console.warn(line)
