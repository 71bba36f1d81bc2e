"""`weaksam data`: read a dataset, write `labels/<split>.json` and `labels/source.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts.receipt import InputDigest
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome as MergeCount
from weaksam_cli.data.conversion import common_root, labels_file
from weaksam_cli.data.image_labels import detect_layout, read_labels
from weaksam_cli.data.labels import LABELS_FORMAT, LABELS_VERSION, LabelsFile, labels_bytes
from weaksam_cli.data.recipe import CocoRecipe, DataRecipe, DemoRecipe, FolderRecipe, VocRecipe
from weaksam_cli.data.source import Source, write_source
from weaksam_cli.data.types import DatasetSplit, Layout, ReadOptions
from weaksam_cli.engine.legacy import Context, Job, Product, make_product
from weaksam_cli.engine.recipes import RecipeModel
from weaksam_cli.engine.stages import Stage
from weaksam_cli.errors import UserError, suggestion

LAYOUTS = ("voc", "coco", "folder", "demo")
DEMO = "demo"
DEMO_FOLDER = "images"


def choose_layout(source: str, given: str | None) -> str:
    """The layout that was named, else what lies at `source`.

    Raises:
        UserError: an unknown layout, a missing folder, or nothing that is recognised.
    """
    if given is not None and given not in LAYOUTS:
        raise UserError(
            f"there is no layout {given!r}{suggestion(given, LAYOUTS)}",
            where="--layout",
            remedy=f"Allowed: {', '.join(LAYOUTS)}",
        )
    if source == DEMO and given in (None, DEMO):
        return DEMO
    return given or detect_layout(Path(source))


@dataclass(frozen=True)
class DataStage:
    """Reads the dataset at `source`; `images` is the folder of its images where that has to be said."""

    source: str = DEMO
    images: Path | None = None

    name: ClassVar[str] = "data"
    version: ClassVar[int] = 1
    train_only: ClassVar[bool] = False
    recipe_types: ClassVar[Mapping[str, type[RecipeModel]]] = {
        "voc": VocRecipe,
        "coco": CocoRecipe,
        "folder": FolderRecipe,
        "demo": DemoRecipe,
    }

    def run(self, recipe: Any, context: Context, only: str | None) -> None:
        """Read the dataset and write the labels of its splits (or of one)."""
        place, layout = self._place(recipe, context)
        options = self._options(recipe)
        splits = read_labels(place, options, layout=layout)
        if only is not None:
            splits = tuple(split for split in splits if split.name == only) or _no_split(only, splits)
        root = common_root(splits)
        for split in splits:
            _check_labels(split)
            product = self._product(labels_file(context.dataset, split, root), recipe, context, split)
            make_product(product, self, context)
            _summarise(split, context)
        write_source(
            context.ops, context.run.root, self._source(recipe, context, place, layout, root, splits)
        )

    def products(self, recipe: DataRecipe, context: Context, split: str) -> Iterator[Product]:
        """The dataset is read as a whole by `run`; no product of it can be known before."""
        yield from ()

    def _place(self, recipe: DataRecipe, context: Context) -> tuple[Path, Layout]:
        if not isinstance(recipe, DemoRecipe):
            return Path(self.source).absolute(), recipe.method
        from weaksam_cli.data.demo.dataset import make_demo_images

        return make_demo_images(recipe, context, DEMO_FOLDER), "voc"

    def _options(self, recipe: DataRecipe) -> ReadOptions:
        if isinstance(recipe, DemoRecipe):
            return ReadOptions(difficult=recipe.difficult)
        values: dict[str, Any] = {
            "splits": recipe.splits,
            "difficult": recipe.difficult,
            "class_names": recipe.classes,
            "images_root": self.images.absolute() if self.images else None,
            "max_pixels": recipe.max_pixels,
        }
        for name in ("year", "task", "subset", "test_share"):
            if hasattr(recipe, name):
                values[name] = getattr(recipe, name)
        return ReadOptions(**values)

    def _product(
        self, file: LabelsFile, recipe: DataRecipe, context: Context, split: DatasetSplit
    ) -> Product:
        data = labels_bytes(file)

        def make(job: Job) -> MergeCount:
            job.context.ops.write_atomically(job.path, data)
            return MergeCount(len(file.images), tuple((item.image, item.reason) for item in file.failed))

        return Product(
            path=context.run.output("data", split.name),
            format_name=LABELS_FORMAT,
            format_version=LABELS_VERSION,
            split=split.name,
            recipe=recipe.model_dump(mode="json"),
            inputs={},
            digests={"source": InputDigest(path=self.source, sha256=digest.of_bytes(data), file=False)},
            make=make,
            what="images and image-level labels",
        )

    def _source(
        self,
        recipe: DataRecipe,
        context: Context,
        place: Path,
        layout: Layout,
        root: Path,
        splits: tuple[DatasetSplit, ...],
    ) -> Source:
        inside = isinstance(recipe, DemoRecipe)
        run_root = context.run.root.absolute()
        options = self._options(recipe)
        return Source(
            layout=layout,
            path=place.absolute().relative_to(run_root).as_posix() if inside else str(place),
            image_root=root.relative_to(run_root).as_posix() if inside else str(root),
            splits={split.name: split.role for split in splits},
            options={
                "splits": dict(options.splits) if options.splits else None,
                "difficult": options.difficult,
                "class_names": list(options.class_names) if options.class_names else None,
                "year": options.year,
                "task": options.task,
                "images_root": str(options.images_root) if options.images_root else None,
                "subset": list(options.subset) if options.subset else None,
                "max_pixels": options.max_pixels,
            },
        )


def _no_split(name: str, splits: tuple[DatasetSplit, ...]) -> tuple[DatasetSplit, ...]:
    names = [split.name for split in splits]
    raise UserError(
        f"the dataset has no split {name!r}{suggestion(name, names)}",
        where="--split",
        remedy=f"Allowed: {', '.join(names)}",
    )


def _check_labels(split: DatasetSplit) -> None:
    if not split.images:
        raise UserError(
            f"split {split.name!r} has no readable image ({len(split.failed)} failed)",
            where=f"split {split.name}",
            remedy=f"First failure: {split.failed[0].reason}"
            if split.failed
            else "Check the list of the split",
        )
    if split.role == "train" and not any(image.labels for image in split.images):
        raise UserError(
            "no image of this training split has a label",
            where=f"split {split.name}",
            remedy="Image-level labels are what everything is learnt from; check the annotations",
        )


def _summarise(split: DatasetSplit, context: Context) -> None:
    counts = Counter(label for image in split.images for label in image.labels or ())
    absent = [name for name in split.class_names if not counts[name]]
    if split.role == "train" and absent:
        context.console.warn(f"split {split.name}: no image shows {', '.join(absent)}; they cannot be learnt")
    if split.without_object:
        context.console.warn(f"split {split.name}: {split.without_object} images show none of the classes")
    if split.unlabelled and split.role == "train":
        context.console.warn(
            f"split {split.name}: {split.unlabelled} images have unknown labels and are not learnt from"
        )
    for remark in split.warnings[:5]:
        context.console.warn(f"{remark.key}: {remark.reason}" if remark.key else remark.reason)
    if len(split.warnings) > 5:
        context.console.warn(f"split {split.name}: {len(split.warnings) - 5} more remarks of this kind")


LEGACY = DataStage()
STAGE = Stage("data", 1, "labels", "{split}.json", Schema(LABELS_FORMAT, LABELS_VERSION, ()))
