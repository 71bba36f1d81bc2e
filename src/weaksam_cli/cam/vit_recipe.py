"""What can be said about class activation maps of WeakTr and MCTformer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from weaksam_cli.cam.vit_training.settings import FitSettings, WeakTrFitSettings
from weaksam_cli.engine.recipes import RecipeModel


def _without_repetition(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(values)) != len(values):
        raise ValueError("expected each value once")
    return values


Scales = Annotated[
    tuple[Annotated[float, Field(gt=0, le=8)], ...], Field(min_length=1), AfterValidator(_without_repetition)
]
Layers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], AfterValidator(_without_repetition)]


class VitRecipe(RecipeModel):
    """What both methods share.

    Attributes:
        weights: file name of the checkpoint, or its path; null trains the network on the dataset first.
        fit: that training.
        scales: sizes of the views as factors of the image's, in the order in which they decide on classes.
        flip: show every view mirrored, too.
        max_side: an image whose longer side is larger is shrunk to it first; the published code shows all at full size.
        attention_type: which map becomes the fine one: class attention times patch map, the patch map alone, or the class
            attention alone (anything but the first two in the published code).
        cross_layers: 0-based layers whose attention makes cross maps, one for each head; none for no cross maps.
        heads: attention heads of a block; null for what the checkpoint tells, else heads of 64 channels, as in DeiT.
        label_source: whose classes get maps: `auto` takes labels in training splits and predictions in others.
        logit_threshold: class-token logit above which a class is predicted.
        precision: float32 is exact; auto is float16 autocast on a GPU, as published, and float32 on a CPU.
    """

    method: str
    weights: str | None
    fit: FitSettings = FitSettings()
    scales: Scales
    flip: bool = True
    max_side: int = Field(default=1024, ge=32)
    attention_type: Literal["fused", "patchcam", "attention"] = "fused"
    cross_layers: Layers = (8, 9)
    heads: int | None = Field(default=None, ge=1)
    label_source: Literal["auto", "given", "predicted"] = "auto"
    logit_threshold: float = -0.5
    precision: Literal["float32", "auto"] = "float32"


class WeakTrRecipe(VitRecipe):
    """WeakTr: fine maps spread by gated attentions.

    Attributes:
        scales: as published.
        fusion: auto takes the adaptive attention fusion that the checkpoint holds (v1 or v3, or none); none averages all
            attentions, which are the maps of the published engine with weights of the other variant.
        pool: how the fusion pools; no tensor tells it.
    """

    method: Literal["weaktr"] = "weaktr"
    fit: WeakTrFitSettings = WeakTrFitSettings()
    scales: Scales = (1.0, 0.8, 1.2)
    fusion: Literal["auto", "none"] = "auto"
    pool: Literal["avg", "max"] = "max"


class MCTformerRecipe(VitRecipe):
    """MCTformer: class attention of the last layers, spread by the attentions of all.

    V1 has no patch head, so its attention type is `attention`.

    Attributes:
        version: V1 or V2; the checkpoint must fit it.
        scales: as published.
        class_layers: how many layers, counted from the end, give the class attention.
    """

    method: Literal["mctformer"] = "mctformer"
    version: Literal["v1", "v2"]
    scales: Scales = (1.0,)
    class_layers: int = Field(default=3, ge=1)

    @field_validator("version")
    @classmethod
    def _v1_has_no_patch_map(cls, version: str, info: ValidationInfo) -> str:
        attention_type = info.data.get("attention_type")
        if version == "v1" and attention_type not in ("attention", None):
            raise ValueError(f"V1 has attention_type 'attention' alone, not {attention_type!r}")
        return version
