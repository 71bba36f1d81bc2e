"""Losses of RoIs against what is wrong with them: the evidence for RoI drop (supplement section 2 and Fig. 2; spec 06 §A.7).

A foreground RoI learns from the pseudo box that it overlaps most. It is wrong when that pseudo box is: when no annotated box
reaches an IoU of 0.5 with it, of whatever class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core.boxes import FloatArray, iou

ERRORS: Final = ("IoU < 0.5", "IoU <= 0.25", "IoU <= 0.7")
"""When a pseudo box counts as wrong, by its largest IoU with an annotated box; the first is the paper's."""
LOSSES: Final = ("classification", "regression")
Normalisation = Literal["min_max", "max"]
FloatVector = NDArray[np.float32]
Flags = NDArray[np.bool_]


def pseudo_box_quality(
    regions: FloatArray,
    pseudo: FloatArray,
    truth: FloatArray,
    *,
    plus_one: bool,
    assigned: NDArray[np.int32] | None = None,
) -> tuple[NDArray[np.int32], FloatVector]:
    """The pseudo box of each RoI, and how well that fits an annotated one.

    Args:
        regions: float32 (R, 4), xyxy pixel edges.
        pseudo: float32 (P, 4).
        truth: float32 (T, 4), whatever their class.
        plus_one: IoU with sides x2 - x1 + 1, as the published script has it.
        assigned: int32 (R,), the pseudo box of each, where something else than the overlap decided it.

    Returns:
        int32 (R,), the pseudo box of largest IoU, the first of equals, -1 where there is none; float32 (R,), the largest IoU
        of that pseudo box with an annotated box, 0 where there is none.
    """
    if not len(pseudo):
        return np.full(len(regions), -1, np.int32), np.zeros(len(regions), np.float32)
    chosen = assigned
    if chosen is None:
        chosen = iou(regions, pseudo, plus_one=plus_one).argmax(axis=1).astype(np.int32)
    quality = iou(pseudo, truth, plus_one=plus_one).max(axis=1, initial=0).astype(np.float32)
    return chosen, quality[chosen]


def errors_of(quality: FloatVector) -> NDArray[np.uint8]:
    """Whether RoIs of that quality (R,) are wrong, uint8 (R, 3), by each of `ERRORS`."""
    flags = np.stack([quality < 0.5, quality <= 0.25, quality <= 0.7], axis=1)
    return flags.astype(np.uint8)


@dataclass(frozen=True)
class ForegroundRegions:
    """The foreground RoIs of all images.

    Attributes:
        classification, regression: float32 (F,), their losses.
        wrong: bool (F, 3), see `ERRORS`.
    """

    classification: FloatVector
    regression: FloatVector
    wrong: Flags

    def __len__(self) -> int:
        return len(self.classification)

    def loss(self, name: str) -> FloatVector:
        """One of the `LOSSES`."""
        return self.regression if name == "regression" else self.classification


def normalised(values: FloatVector, how: Normalisation) -> NDArray[np.float64]:
    """Losses (n,) in [0, 1]: `min_max` over the set, or divided by its largest; 0 where all are equal (or 0)."""
    exact = values.astype(np.float64)
    low = exact.min(initial=np.inf) if how == "min_max" and len(exact) else 0.0
    width = exact.max(initial=low) - low
    return (exact - low) / width if width > 0 else np.zeros(len(exact))


@dataclass(frozen=True)
class LossBins:
    """How many RoIs have a loss, and how many of these are wrong.

    Attributes:
        regions: int64 (bins,), over equal parts of [0, 1] of the normalised loss, right ends belong to the next part.
        wrong: int64 (bins,), of those.
    """

    regions: NDArray[np.int64]
    wrong: NDArray[np.int64]


def loss_bins(values: NDArray[np.float64], wrong: Flags, bins: int) -> LossBins:
    """RoIs and wrong RoIs by normalised loss (n,)."""
    place = np.minimum((values * bins).astype(np.int64), bins - 1)
    return LossBins(np.bincount(place, minlength=bins), np.bincount(place[wrong], minlength=bins))


def wilson(wrong: NDArray[np.int64], regions: NDArray[np.int64], z: float = 1.96) -> NDArray[np.float64]:
    """Wilson's interval of shares, (2, n), lower and upper end; NaN for no RoI."""
    count = np.where(regions > 0, regions, np.nan)
    share = wrong / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    ends: NDArray[np.float64] = np.stack([centre - half, centre + half])
    return ends


def ranking(values: FloatVector, wrong: Flags) -> float | None:
    """How well a loss tells wrong RoIs: the area under its ROC curve, 0.5 for not at all; None where all are alike."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(wrong, values)) if wrong.any() and not wrong.all() else None


def dropped_sets(regions: ForegroundRegions, tau_cls: float, tau_reg: float) -> dict[str, Flags]:
    """What each semantics of RoI drop leaves out of the foreground, bool (F,); `separate` has a set for each loss."""
    classification, regression = regions.classification > tau_cls, regions.regression > tau_reg
    return {
        "intersection": classification & regression,
        "separate, from classification": classification,
        "separate, from regression": regression,
        "union_fg": classification | regression,
    }


def shares(regions: ForegroundRegions, chosen: Flags) -> dict[str, Any]:
    """What is known of the chosen foreground RoIs, as JSON: how many, which share of all, and the share that is wrong."""
    count = int(chosen.sum())
    wrong = {name: int(regions.wrong[chosen, index].sum()) for index, name in enumerate(ERRORS)}
    return {
        "regions": count,
        "share": count / len(regions) if len(regions) else None,
        "wrong": {name: number / count if count else None for name, number in wrong.items()},
    }


def percentile_cut(costs: FloatVector, tau: int) -> float:
    """The cost above which `(100 - tau) * F // 100` of F foreground queries are dropped (spec 06 B.4); inf for none."""
    falling = np.sort(costs)[::-1]
    return float(falling[(100 - tau) * len(costs) // 100]) if len(costs) else float("inf")


def evidence(
    regions: ForegroundRegions,
    dropped: Mapping[str, Flags],
    taus: Mapping[str, float | None],
    bins: int,
    how: Normalisation,
) -> dict[str, Any]:
    """All figures of the analysis, as they stand in its file.

    Args:
        regions: the foreground.
        dropped: what each rule leaves out, bool (F,).
        taus: the thresholds `tau_cls` and `tau_reg`; None for one that no rule has.
        bins: of the curves.
        how: losses are normalised for the curves.
    """
    everything = np.ones(len(regions), np.bool_)
    return {
        **taus,
        "foreground": shares(regions, everything),
        "dropped": {name: shares(regions, chosen) for name, chosen in dropped.items()},
        "ranking": {name: ranking(regions.loss(name), regions.wrong[:, 0]) for name in LOSSES},
        "curves": {name: _curve(regions, name, bins, how) for name in LOSSES},
    }


def _curve(regions: ForegroundRegions, name: str, bins: int, how: Normalisation) -> Mapping[str, Any]:
    values = regions.loss(name)
    found = loss_bins(normalised(values, how), regions.wrong[:, 0], bins)
    low = float(values.min(initial=np.inf)) if how == "min_max" and len(values) else 0.0
    return {
        "lowest": low,
        "highest": float(values.max(initial=low)),
        "regions": found.regions.tolist(),
        "wrong": found.wrong.tolist(),
    }
