"""What can be said about class activation maps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from weaksam_cli.cam.clip_es.vocabulary import Synonyms
from weaksam_cli.engine.recipes import RecipeModel

Side = Annotated[int, Field(ge=32)]


class HeadSettings(RecipeModel):
    """The multi-label head.

    Attributes:
        short_side: the training images' shorter side.
        flip: learn from the mirrored images, too.
        penalty: weight of the squared norm of the weights.
        iterations: most L-BFGS iterations.
    """

    short_side: Side = 320
    flip: bool = True
    penalty: float = Field(default=5e-3, ge=0)
    iterations: int = Field(default=60, ge=1)


class FineTuneSettings(RecipeModel):
    """Training of the backbone's last stages with the head, before the final head is fitted.

    Attributes:
        epochs: passes over the training images; 0 keeps the backbone frozen.
        stages: how many of the backbone's seven stages learn, counted from the end, besides its last convolution.
        batch_size: images a step.
        learning_rate: of AdamW, cosine to zero.
        weight_decay: of AdamW.
    """

    epochs: int = Field(default=0, ge=0)
    stages: int = Field(default=1, ge=0, le=7)
    batch_size: int = Field(default=16, ge=2)
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)


class FineSettings(RecipeModel):
    """Fine maps: the coarse ones spread over cells with similar features.

    Attributes:
        threshold: cosines of cells up to it count for nothing.
        power: above 1 it favours the most similar cells.
        rounds: how often the maps are multiplied by the affinity.
    """

    threshold: float = Field(default=0.2, lt=1)
    power: float = Field(default=2.0, gt=0)
    rounds: int = Field(default=2, ge=0)


class Lite0Recipe(RecipeModel):
    """EfficientNet-Lite0 with a linear head; maps at several sizes with their mirror images.

    Attributes:
        head: the classifier.
        fine_tune: training of the backbone; off as it stands.
        short_sides: sizes of the images whose maps are made, the largest last.
        fine: how fine maps are made.
        label_source: whose classes get maps: `auto` takes labels in training splits and predictions in others.
        predicted_threshold: probability from which a class is predicted; the best class always is.
    """

    method: Literal["lite0"] = "lite0"
    head: HeadSettings = HeadSettings()
    fine_tune: FineTuneSettings = FineTuneSettings()
    short_sides: Annotated[tuple[Side, ...], Field(min_length=1)] = (320, 480)
    fine: FineSettings = FineSettings()
    label_source: Literal["auto", "given", "predicted"] = "auto"
    predicted_threshold: float = Field(default=0.3776, gt=0, lt=1)


Template = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]
"""A prompt with one `{}` for the name of a class."""


class AffinitySettings(RecipeModel):
    """Fine maps of CLIP-ES: coarse ones spread along attention.

    Attributes:
        blocks: the attention of how many blocks is averaged, counted from the end.
        rounds: how often columns, then rows, are normalised.
        box_threshold: cells above this fraction of a map's largest value make the boxes that values spread from.
        cover_border: let boxes reach the last column and row, which the published code never does.
    """

    blocks: int = Field(default=8, ge=1)
    rounds: int = Field(default=3, ge=1)
    box_threshold: float = Field(default=0.4, ge=0, lt=1)
    cover_border: bool = False


class ClipEsRecipe(RecipeModel):
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
        label_source: whose classes get maps: `auto` takes labels in training splits and predictions in others.
        predicted_threshold: probability (softmax over all classes and backgrounds) from which a class is predicted; the
            best class always is.
    """

    method: Literal["clip-es"] = "clip-es"
    weights: str = "ViT-B-16.pt"
    templates: Annotated[tuple[Template, ...], Field(min_length=1)] = ("a clean origami {}.",)
    synonyms: Synonyms = "voc"
    class_prompts: dict[str, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)
    background: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    max_side: Side = 1024
    half_positions: bool = True
    affinity: AffinitySettings = AffinitySettings()
    label_source: Literal["auto", "given", "predicted"] = "auto"
    predicted_threshold: float = Field(default=0.1, gt=0, lt=1)
