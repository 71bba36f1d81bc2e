"""CLIP-ES (CVPR 2023, arXiv 2212.09506): class activation maps from a frozen CLIP (spec 01 §c); nothing is trained.

The words that CLIP reads for classes and backgrounds are those of `clip_text.py` (spec 01 §c.1), re-typed. `sknowboard` is
the published misspelling; `class_prompts` of the recipe mends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.cam.stage import LabelSettings, maps_step
from weaksam_cli.core.settings import RecipeModel, Side
from weaksam_cli.data.labels import Split
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.predictors import Overlapped
from weaksam_cli.engine.steps import Step
from weaksam_cli.errors import UserError, unknown

if TYPE_CHECKING:
    from weaksam_cli.cam.clip_es.maps import ClipEs

Template = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]
"""A prompt with one `{}` for the name of a class."""


Synonyms = Literal["voc", "coco", "none"]

BACKGROUND: Final = (
    *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea"),
    *("railway", "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean", "road"),
    *("rock", "street", "valley", "bridge", "sign"),
)
"""VOC's 25. COCO's 23 lack `keyboard` and `sign`: the words that occur in names of its classes."""

_VOC: Final = (
    "bird=bird avian;chair=chair seat;person=person with clothes,people,human;tvmonitor=tvmonitor screen"
)
_COCO: Final = (
    "backpack=backpack,bag;umbrella=umbrella,parasol;handbag=handbag,purse;tie=necktie;snowboard=sknowboard;"
    "baseball glove=glove;spoon=dessertspoon;remote=remote control;hair drier=hairdrier,blowdrier"
)
_COCO_SPELLINGS: Final = (
    "motorcycle=motorbike;airplane=aeroplane;couch=sofa;potted plant=pottedplant;dining table=diningtable;"
    "tv=tvmonitor screen"
)
"""The published code calls six classes of COCO by their names in VOC; here are COCO's own."""


def _table(*texts: str) -> dict[str, str]:
    """Entries `name=words`, parted by semicolons."""
    entries = (entry.partition("=") for text in texts for entry in text.split(";"))
    return {name: words for name, _, words in entries}


SYNONYMS: Final[Mapping[Synonyms, Mapping[str, str]]] = {
    "voc": _table(_VOC),
    "coco": _table(_VOC, _COCO, _COCO_SPELLINGS),
    "none": {},
}
"""Class name -> what CLIP reads in its place; classes that are not here are read by their own names."""


class AffinitySettings(RecipeModel):
    """Fine maps of CLIP-ES: coarse ones spread along attention.

    Attributes:
        blocks: the attention of how many blocks is averaged, counted from the end.
        rounds: how often columns, then rows, are normalised.
        box_threshold: cells above this fraction of a map's largest value make the boxes that values spread from.
        cover_border: let boxes reach the last column and row, which the published code never does.
    """

    blocks: int = Field(default=8, ge=1, le=100)
    rounds: int = Field(default=3, ge=1, le=100)
    box_threshold: float = Field(default=0.4, ge=0, lt=1)
    cover_border: bool = False


class Recipe(LabelSettings):
    """CLIP-ES: Grad-CAM of a frozen CLIP against background names, spread along its attention; nothing is trained.

    Attributes:
        weights: file name of CLIP's checkpoint, or its path.
        templates: prompts; a class's text embedding is the mean over them.
        synonyms: the table of words that CLIP reads for classes; names that are not in it are read as they are.
        class_prompts: class name -> the words that CLIP reads for it, before any table.
        background: names of what is no class; null for the published ones. Words of class names are left out of them.
        max_side: an image whose longer side is larger is shrunk to it; the published code shows all at full size.
        half_positions: round interpolated position embeddings to float16, as published.
        affinity: how fine maps are made.
        predicted_threshold: probability (softmax over all classes and backgrounds) from which a class is predicted; the
            best class always is.
    """

    method: Literal["clip_es"] = "clip_es"
    weights: str = "ViT-B-16.pt"
    templates: Annotated[tuple[Template, ...], Field(min_length=1, max_length=100)] = ("a clean origami {}.",)
    synonyms: Synonyms = "voc"
    class_prompts: dict[str, Annotated[str, Field(min_length=1)]] = Field(
        default_factory=dict, max_length=10_000
    )
    background: Annotated[tuple[str, ...], Field(min_length=1, max_length=10_000)] | None = None
    max_side: Side = 1024
    half_positions: bool = True
    affinity: AffinitySettings = AffinitySettings()
    predicted_threshold: float = Field(default=0.1, gt=0, lt=1)

    def words(self, class_names: Sequence[str]) -> dict[str, list[str]]:
        """What CLIP reads for a dataset: the words of each class, in order, and the background names."""
        background = BACKGROUND if self.background is None else self.background
        return {
            "class_prompts": class_words(class_names, synonyms=self.synonyms, overrides=self.class_prompts),
            "background_prompts": background_words(background, class_names),
        }


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The maps of a split; they need its labels and the weights alone, no training split."""
    weights = context.weights.require(recipe.weights)
    yield maps_step(
        context,
        split,
        recipe,
        {"weights": weights},
        lambda images, device: Predictor(recipe, images, weights, device),
        tables=recipe.words,
    )


@dataclass(frozen=True)
class Predictor:
    """Class activation maps of one image."""

    recipe: Recipe
    split: Split
    weights: Path
    device: str

    def open(self) -> Overlapped[NDArray[np.uint8]]:
        """Load the network and embed the texts once a process."""
        from weaksam_cli.cam.clip_es.maps import class_maps

        labels = self.split.read(self.recipe.difficult)
        images = labels.by_key()
        clip = load_clip_es(self.recipe, labels.class_names, self.weights, self.device)

        def load(image_id: str) -> NDArray[np.uint8]:
            return labels.read_image(images[image_id])

        def compute(image_id: str, pixels: NDArray[np.uint8]) -> ImageRows:
            given = self.recipe.given(labels, images[image_id])
            return class_maps(clip, pixels, given, self.recipe).to_rows()

        return Overlapped(load, compute)


def load_clip_es(recipe: Recipe, class_names: Sequence[str], weights: Path, device: str) -> ClipEs:
    """The image half of the network, with the embeddings of the recipe's words that the text half gives.

    Raises:
        UserError: the checkpoint does not fit, or has fewer blocks than the recipe takes attention from.
    """
    from weaksam_cli.cam.clip_es.maps import ClipEs
    from weaksam_cli.models.clip import load_clip

    network = load_clip(weights, device=device)
    blocks = len(network.visual.transformer.resblocks)
    if recipe.affinity.blocks > blocks:
        raise UserError(
            f"affinity.blocks is {recipe.affinity.blocks}, the network has {blocks}",
            where=str(weights),
            remedy=f"Give --set affinity.blocks={blocks} or less",
        )
    return ClipEs.of(network, recipe, class_names, recipe.templates)


def class_words(names: Sequence[str], *, synonyms: Synonyms, overrides: Mapping[str, str]) -> list[str]:
    """What CLIP reads for each class.

    A name in `overrides` is read as it says, a name in the table of synonyms as that says (in any case), and all others
    as they are, with spaces for underscores.

    Args:
        names: the classes.
        synonyms: which table.
        overrides: class name -> words.

    Raises:
        UserError: an override is of no class.
    """
    for name in overrides:
        if name not in names:
            what = f"class_prompts: the dataset has no class {name!r}"
            raise unknown(what, name, names, where="recipe of cam")
    table = SYNONYMS[synonyms]
    return [overrides.get(name) or table.get(_plain(name).casefold(), _plain(name)) for name in names]


def background_words(background: Sequence[str], names: Sequence[str]) -> list[str]:
    """The background names that are not words of a class name.

    A background that is a class would take half of the class's probability. CLIP-ES leaves `keyboard` and `sign` out for
    COCO, which has the classes `keyboard` and `stop sign`; this is the rule behind it, for any classes.

    Raises:
        UserError: none is left: a lone class would have nothing to be compared with.
    """
    taken = {word for name in names for word in (_plain(name).casefold(), *_plain(name).casefold().split())}
    left = [word for word in background if _plain(word).casefold() not in taken]
    if not left:
        raise UserError(
            "every background name is a class of the dataset",
            where="recipe of cam",
            remedy="Name some that are not: --set 'background=[ground, sky]'",
        )
    return left


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split())
