"""`weaksam data`: read a dataset, write `labels/<split>.json` and `labels/source.json`.

Its methods are the layouts, see `dataset`. A dataset is read as a whole; then each split is a step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts.receipt import InputDigest
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.dataset import DatasetSplit
from weaksam_cli.data.labels import (
    LABELS_FORMAT,
    LABELS_VERSION,
    LabelsFile,
    common_root,
    labels_bytes,
    labels_file,
)
from weaksam_cli.data.reading import read_splits
from weaksam_cli.data.source import Source, SplitSource, write_source
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.methods import load_method, method_names
from weaksam_cli.engine.recipes import LoadedRecipe
from weaksam_cli.engine.stages import Stage
from weaksam_cli.engine.steps import Step, make
from weaksam_cli.errors import UserError, unknown

STAGE = Stage("data", 2, "labels", "{split}.json", Schema(LABELS_FORMAT, LABELS_VERSION, ()))
_SHOWN_REMARKS = 5


def choose_layout(source: str, given: str | None) -> str:
    """The layout that was named, else the likeliest for what lies at `source`.

    Raises:
        UserError: an unknown layout, a missing folder, or nothing that is recognised.
    """
    names = method_names("data")
    if given is not None:
        if given not in names:
            raise unknown(f"there is no layout {given!r}", given, names, where="--layout")
        return given
    layouts = {name: load_method("data", name, where="--layout") for name in names}
    likeness = {name: layout.likeness(Path(source)) for name, layout in layouts.items()}
    best = max(names, key=likeness.__getitem__)
    if likeness[best] > 0:
        return best
    if not Path(source).exists():
        raise UserError("no such file or folder", where=source, remedy="Check the path of the dataset")
    looked = "; ".join(layout.LOOKS_LIKE for layout in layouts.values())
    raise UserError(
        f"the layout of the dataset is not recognised; looked for: {looked}",
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
    splits: Sequence[DatasetSplit] = read_splits(layout.read(place, recipe, folder, boxes=False), recipe)
    if only is not None:
        names = [split.name for split in splits]
        if only not in names:
            raise unknown(f"the dataset has no split {only!r}", only, names, where="--split")
        splits = [split for split in splits if split.name == only]
    root = common_root(splits)
    for split in splits:
        if split.role == "train" and not any(image.labels for image in split.images):
            raise UserError(
                "no image of this training split has a label",
                where=f"split {split.name}",
                remedy="Image-level labels are what everything is learnt from; check the annotations",
            )
        file = labels_file(context.dataset, split, root, recipe.max_pixels)
        make(_step(file, loaded.recipe, source, context), STAGE, context)
        _summarise(split, context)
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
        for split in splits
    }
    write_source(context.ops, context.run.root, Source(splits=noted))


def _step(file: LabelsFile, recipe: RecipeModel, source: str, context: Context) -> Step:
    data = labels_bytes(file)

    def run(job: Job) -> Outcome:
        job.context.ops.write_atomically(job.path, data)
        return Outcome(len(file.images), tuple((item.image, item.reason) for item in file.failed))

    return Step(
        path=context.run.output("data", file.info.split),
        schema=STAGE.schema,
        split=file.info.split,
        settings=recipe,
        inputs={},
        run=run,
        title="images and image-level labels",
        given={"source": InputDigest(path=source, sha256=digest.of_bytes(data), file=False)},
    )


def _place_in_run(path: Path, context: Context) -> str:
    """A path as `source.json` notes it: what lies in the run directory moves with it."""
    root = context.run.root.absolute()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _summarise(split: DatasetSplit, context: Context) -> None:
    counts = Counter(label for image in split.images for label in image.labels or ())
    absent = [name for name in split.class_names if not counts[name]]
    without = sum(image.labels == () for image in split.images)
    unlabelled = sum(image.labels is None for image in split.images)
    lines = []
    if split.role == "train" and absent:
        lines.append(f"split {split.name}: no image shows {', '.join(absent)}; they cannot be learnt")
    if without:
        lines.append(f"split {split.name}: {without} images show none of the classes")
    if split.role == "train" and unlabelled:
        lines.append(f"split {split.name}: {unlabelled} images have unknown labels and are not learnt from")
    remarks = [f"{remark.key}: {remark.reason}" if remark.key else remark.reason for remark in split.warnings]
    lines += remarks[:_SHOWN_REMARKS]
    if len(remarks) > _SHOWN_REMARKS:
        lines.append(f"split {split.name}: {len(remarks) - _SHOWN_REMARKS} more remarks of this kind")
    for line in lines:
        context.console.warn(line)
