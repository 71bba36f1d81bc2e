"""What can be said about the extraction of point prompts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from weaksam_cli.engine.recipes import RecipeModel


class KindSettings(RecipeModel):
    """Peaks of one kind of maps.

    Attributes:
        window: side of the window of the maximum filter, pixels of the image; an even side grows by one.
        threshold: least value of the normalised map.
        max_points: length of the list before thinning (K of Algorithm 1).
        emit_fillers: let pixels that are no maxima fill a short list, as the published code does.
    """

    window: int = Field(ge=1)
    threshold: float = Field(gt=0, le=1)
    max_points: int = Field(default=25, ge=1)
    emit_fillers: bool = True


class ClusterSettings(RecipeModel):
    """k-means over the points of the cross-attention maps.

    Attributes:
        enabled: cluster at all.
        within_class: cluster each class by itself, so that centres keep their class.
        fallback_point: prompt at pixel (100, 100) where an image has no point, as the published code does.
        points_per_cluster: points that share a centre on average.
    """

    enabled: bool = True
    within_class: bool = False
    fallback_point: bool = False
    points_per_cluster: int = Field(default=5, ge=1)


class PeaksRecipe(RecipeModel):
    """Algorithm 1 on each kind of maps; null skips a kind."""

    method: Literal["peaks"] = "peaks"
    coarse: KindSettings | None
    fine: KindSettings | None
    cross: KindSettings | None
    cluster: ClusterSettings
