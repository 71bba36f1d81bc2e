"""MCTformer (CVPR 2022) V1 and V2: class attention of the last layers, spread by the attentions of all (spec 01 §b)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator

from weaksam_cli.cam.class_tokens.method import (
    AttentionType,
    HeadsSettings,
    MapSettings,
    Scales,
    TrainingSettings,
    class_token_steps,
)
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step

if TYPE_CHECKING:
    from weaksam_cli.models.vit.checkpoint import VitCheckpoint, VitShape
    from weaksam_cli.models.vit.mctformer import MCTformer


class VersionSettings(HeadsSettings):
    """On which weights and maps both depend.

    Attributes:
        version: V1 or V2; the checkpoint must fit it.
    """

    version: Literal["v1", "v2"]


class MCTformerTraining(VersionSettings, TrainingSettings):
    """What decides the weights."""

    def new_network(self, shape: VitShape) -> MCTformer:
        """See `TrainingSettings.new_network`."""
        from weaksam_cli.models.vit.mctformer import MCTformer

        return MCTformer(shape, self.version)


class MCTformerMaps(VersionSettings, MapSettings):
    """What decides the maps.

    Attributes:
        scales: as published.
        attention_type: see `MapSettings`; V1 has no patch map, so its type is `attention`.
        class_layers: how many layers, counted from the end, give the class attention.
    """

    scales: Scales = (1.0,)
    attention_type: AttentionType = Field(default="fused", validate_default=True)
    class_layers: int = Field(default=3, ge=1, le=100)

    @field_validator("version", "attention_type")
    @classmethod
    def _v1_has_no_patch_map(cls, value: str, info: ValidationInfo) -> str:
        known = {**info.data, str(info.field_name): value}  # the later of the two sees both
        attention_type = known.get("attention_type", "attention")
        if known.get("version") == "v1" and attention_type != "attention":
            raise ValueError(f"V1 has attention_type 'attention' alone, not {attention_type!r}")
        return value

    def load_network(self, checkpoint: VitCheckpoint) -> MCTformer:
        """See `MapSettings.load_network`."""
        from weaksam_cli.models.vit.mctformer import load_mctformer

        return load_mctformer(
            checkpoint,
            self.version,
            class_layers=self.class_layers,
            attention_type=self.attention_type,
            heads=self.heads,
        )


class Recipe(MCTformerTraining, MCTformerMaps):
    """MCTformer.

    Attributes:
        weights: file name of the checkpoint, or its path; null trains the network on the dataset first.
    """

    method: Literal["mctformer"] = "mctformer"
    weights: str | None


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """See `class_token_steps`."""
    training, maps = recipe.part(MCTformerTraining), recipe.part(MCTformerMaps)
    return class_token_steps(recipe.weights, training, maps, context, split)
