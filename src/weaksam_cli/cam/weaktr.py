"""WeakTr (arXiv 2304.01184): DeiT with class tokens, whose gated attentions spread the maps of a patch head (spec 01 §a)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from weaksam_cli.cam.class_tokens.method import (
    AttentionType,
    FitSettings,
    HeadsSettings,
    MapSettings,
    Scales,
    TrainingSettings,
    class_token_steps,
)
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.errors import UserError

if TYPE_CHECKING:
    from weaksam_cli.models.vit.checkpoint import VitCheckpoint, VitShape
    from weaksam_cli.models.vit.weaktr import WeakTr


class FusionSettings(HeadsSettings):
    """The attention fusion, on which weights and maps both depend.

    Attributes:
        fusion: auto takes the adaptive attention fusion that the checkpoint holds (v1 or v3, or none); none averages all
            attentions, which are the maps of the published engine with weights of the other variant.
        pool: how the fusion pools; no tensor tells it.
        attention_type: see `MapSettings`; the fine map is trained, too.
    """

    fusion: Literal["auto", "none"] = "auto"
    pool: Literal["avg", "max"] = "max"
    attention_type: AttentionType = "fused"


class WeakTrFitSettings(FitSettings):
    """WeakTr's training; `fusion: none` trains without the adaptive attention fusion.

    Attributes:
        fusion_variant: v1 is WeakSAM's copy, v3 WeakTr's repository.
        reduction: the fusion's layer between is so many times narrower than the number of its gates.
    """

    fusion_variant: Literal["v1", "v3"] = "v3"
    reduction: int = Field(default=8, ge=1, le=10_000)


class WeakTrTraining(FusionSettings, TrainingSettings):
    """What decides the weights."""

    fit: WeakTrFitSettings = WeakTrFitSettings()

    def new_network(self, shape: VitShape) -> WeakTr:
        """See `TrainingSettings.new_network`.

        Raises:
            UserError: the fusion is reduced to nothing.
        """
        from weaksam_cli.models.vit.weaktr import FusionShape, WeakTr

        reduction, gates = self.fit.reduction, shape.heads * shape.depth
        fusion = None
        if self.fusion == "auto":
            if reduction > gates:
                raise UserError(
                    f"a reduction of {reduction} leaves nothing of {gates} gates",
                    where="fit.reduction",
                    remedy=f"Give --set fit.reduction={max(1, gates // 2)}, or fusion=none",
                )
            fusion = FusionShape.published(self.fit.fusion_variant, shape, reduction)
        return WeakTr(shape, fusion, pool=self.pool, attention_type=self.attention_type)


class WeakTrMaps(FusionSettings, MapSettings):
    """What decides the maps; the scales are the published ones."""

    scales: Scales = (1.0, 0.8, 1.2)

    def load_network(self, checkpoint: VitCheckpoint) -> WeakTr:
        """See `MapSettings.load_network`."""
        from weaksam_cli.models.vit.weaktr import load_weaktr

        return load_weaktr(
            checkpoint,
            fusion=self.fusion,
            pool=self.pool,
            attention_type=self.attention_type,
            heads=self.heads,
        )


class Recipe(WeakTrTraining, WeakTrMaps):
    """WeakTr.

    Attributes:
        weights: file name of the checkpoint, or its path; null trains the network on the dataset first.
    """

    method: Literal["weaktr"] = "weaktr"
    weights: str | None


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """See `class_token_steps`."""
    training, maps = recipe.part(WeakTrTraining), recipe.part(WeakTrMaps)
    return class_token_steps(recipe.weights, training, maps, context, split)
