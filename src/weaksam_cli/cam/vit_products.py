"""What `weaksam cam` makes with WeakTr and MCTformer: one artifact a split, from a checkpoint or a network trained first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from weaksam_cli.artifacts.class_maps import cam_schema, cam_tables
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.artifacts.shards import Outcome as MergeCount
from weaksam_cli.cam.vit_recipe import VitRecipe
from weaksam_cli.cam.vit_training.product import model_product
from weaksam_cli.cam.vit_views import Views, make_views
from weaksam_cli.data.labels import read_labels
from weaksam_cli.data.source import image_root
from weaksam_cli.engine.execution import Overlapped
from weaksam_cli.engine.legacy import WEIGHTS_INPUT, Context, Job, Product, ShardedMaker


@dataclass(frozen=True)
class VitWork:
    """Class activation maps of one image."""

    recipe: VitRecipe
    labels: Path
    image_root: Path
    weights: Path
    device: str

    def open(self) -> Overlapped[Views]:
        """Load the network once a process."""
        from weaksam_cli.cam.vit_images import class_maps, open_network

        labels = read_labels(self.labels, self.image_root)
        images = labels.by_key()
        clues = open_network(self.recipe, self.weights, labels.file.categories, self.device)
        source = self.recipe.label_source
        use_labels = source == "given" or (source == "auto" and labels.is_train)

        def load(image_id: str) -> Views:
            pixels = labels.read_image(images[image_id])
            patch = clues.network.shape.patch
            return make_views(pixels, self.recipe.scales, max_side=self.recipe.max_side, patch=patch)

        def compute(image_id: str, views: Views) -> ImageRows:
            image = images[image_id]
            given = labels.class_indexes(image) if use_labels and image.labels is not None else None
            return class_maps(clues, views, given).to_packed_rows()

        return Overlapped(load, compute)


def vit_products(recipe: VitRecipe, context: Context, split: str) -> Iterator[Product]:
    """The network, where the recipe has no weights; then the maps of the split, from its labels and the weights alone."""
    path = context.run.input("data", split)
    if recipe.weights is None:
        model = model_product(recipe, context)
        yield model
        weights, source = model.path, "cam-model"
    else:
        weights, source = context.weights.require(recipe.weights), WEIGHTS_INPUT

    def make(job: Job) -> MergeCount:
        root = image_root(context.run.root, context.source())
        labels, device = read_labels(path, root), context.torch_device()
        work = VitWork(recipe, path, root, weights, device)
        tables = cam_tables(labels.class_names, packed=True)
        schema = cam_schema(len(labels.class_names), packed=True)
        return ShardedMaker(schema, labels.keys, work, "maps", tables, device=device)(job)

    schema = cam_schema(0, packed=True)
    yield Product(
        path=context.run.output("cam", split),
        format_name=schema.name,
        format_version=schema.version,
        split=split,
        recipe=recipe.model_dump(mode="json", exclude={"fit"}),
        inputs={"data": path, source: weights},
        make=make,
        what="class activation maps",
    )
