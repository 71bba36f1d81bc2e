"""What `weaksam cam` makes with CLIP-ES: one artifact a split, nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.class_maps import KINDS, cam_schema
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.artifacts.shards import Outcome as MergeCount
from weaksam_cli.cam.clip_es.prompts import background_words, class_words
from weaksam_cli.cam.clip_es.vocabulary import BACKGROUND
from weaksam_cli.cam.recipe import ClipEsRecipe
from weaksam_cli.data.labels import read_labels
from weaksam_cli.data.source import image_root
from weaksam_cli.engine.execution import Overlapped
from weaksam_cli.engine.legacy import Context, Job, Product, ShardedMaker
from weaksam_cli.errors import UserError

if TYPE_CHECKING:
    from weaksam_cli.cam.clip_es.images import ClipEs


@dataclass(frozen=True)
class Words:
    """What CLIP reads: words of each class, in the order of the dataset, and background names."""

    classes: tuple[str, ...]
    background: tuple[str, ...]

    @classmethod
    def of(cls, recipe: ClipEsRecipe, class_names: list[str]) -> Words:
        """The words for a dataset's classes."""
        background = BACKGROUND if recipe.background is None else recipe.background
        return cls(
            tuple(class_words(class_names, synonyms=recipe.synonyms, overrides=recipe.class_prompts)),
            tuple(background_words(background, class_names)),
        )


def load_clip_es(recipe: ClipEsRecipe, words: Words, weights: Path, device: str) -> ClipEs:
    """The image half of the network, with the embeddings of `words` that the text half gives.

    Raises:
        UserError: the checkpoint does not fit, or has fewer blocks than the recipe takes attention from.
    """
    from weaksam_cli.models.clip.checkpoint import load_clip

    network = load_clip(weights, device=device)
    blocks = len(network.visual.transformer.resblocks)
    if recipe.affinity.blocks > blocks:
        raise UserError(
            f"affinity.blocks is {recipe.affinity.blocks}, the network has {blocks}",
            where=str(weights),
            remedy=f"Give --set affinity.blocks={blocks} or less",
        )
    return clip_of(network, words, recipe.templates)


def clip_of(network: Any, words: Words, templates: Sequence[str]) -> ClipEs:
    """The image half of a network of `load_clip`, with the words' embeddings, each the mean over the templates."""
    from weaksam_cli.cam.clip_es.images import ClipEs
    from weaksam_cli.models.clip.text import embed_words

    embedded = embed_words(network, [*words.classes, *words.background], templates)
    classes, background = embedded.split([len(words.classes), len(words.background)])
    return ClipEs(network.visual, network.logit_scale, classes, background)


@dataclass(frozen=True)
class ClipEsWork:
    """Class activation maps of one image."""

    recipe: ClipEsRecipe
    words: Words
    labels: Path
    image_root: Path
    weights: Path
    device: str

    def open(self) -> Overlapped[NDArray[np.uint8]]:
        """Load the network and embed the texts once a process."""
        from weaksam_cli.cam.clip_es.images import class_maps

        labels = read_labels(self.labels, self.image_root)
        images = labels.by_key()
        clip = load_clip_es(self.recipe, self.words, self.weights, self.device)
        source = self.recipe.label_source
        use_labels = source == "given" or (source == "auto" and labels.is_train)

        def load(image_id: str) -> NDArray[np.uint8]:
            return labels.read_image(images[image_id])

        def compute(image_id: str, pixels: NDArray[np.uint8]) -> ImageRows:
            image = images[image_id]
            given = labels.class_indexes(image) if use_labels and image.labels is not None else None
            return class_maps(clip, pixels, given, self.recipe).to_rows()

        return Overlapped(load, compute)


def clip_es_products(recipe: ClipEsRecipe, context: Context, split: str) -> Iterator[Product]:
    """The maps of a split; they need its labels and the weights alone, no training split."""
    path = context.run.input("data", split)
    weights = context.weights.require(recipe.weights)

    def make(job: Job) -> MergeCount:
        root = image_root(context.run.root, context.source())
        labels = read_labels(path, root)
        words = Words.of(recipe, labels.class_names)
        device = context.torch_device()
        tables = {
            "class_names": labels.class_names,
            "kind_names": list(KINDS),
            "class_prompts": list(words.classes),
            "background_prompts": list(words.background),
        }
        schema = cam_schema(len(labels.class_names))
        work = ClipEsWork(recipe, words, path, root, weights, device)
        return ShardedMaker(schema, labels.keys, work, "maps", tables, device=device)(job)

    schema = cam_schema(0)
    yield Product(
        path=context.run.output("cam", split),
        format_name=schema.name,
        format_version=schema.version,
        split=split,
        recipe=recipe.model_dump(mode="json"),
        inputs={"data": path, "weights": weights},
        make=make,
        what="class activation maps",
    )
