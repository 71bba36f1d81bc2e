"""Which detector of a run is handed over, the weakly supervised, the retrained one or both: judged without any box.

No ground truth is at hand where a user trains. What is: the classes in each image, and the class maps.

* **Ranking.** The best score of a class in an image ranks the images; the mean average precision of these rankings tells a
  detector that confuses classes, or that has learnt nothing, from one that works.
* **Agreement.** The best box of each class that an image shows, against the warm part of the class map there: a detector
  that learnt wrong boxes by heart still names the classes, and looks elsewhere.

Their product is the quality of a detector. The maps lead the mining of the weakly supervised one, so it is ahead a little
where all are equally good: another is handed over unless its quality is clearly lower, both together before the retrained
one. A detector that was retrained on a few images is not: of twenty it was worse in each of six runs, and in one of them by
4 points of AP50 at equal quality.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.core.json_files import read_json
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import holds_masks, read_detections
from weaksam_cli.data.fused_maps import FusedMaps, best_maps
from weaksam_cli.data.labels import read_labels
from weaksam_cli.data.source import read_source
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.freshness import Freshness, State
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.steps import Step

Use = Literal["wsod", "retrain", "both"]
USES: Final[tuple[Use, ...]] = ("both", "retrain", "wsod")
"""What can be handed over; the first that there is, where nothing speaks against it."""
TRAINED: Final[tuple[Use, ...]] = ("retrain", "wsod")
"""Stages that train a detector."""
SCHEMA: Final = Schema("weaksam/choice", 1, ())
_BOTH: Final = "retrain-both"
_TRAIN: Final = "data-train"
_Share = Annotated[float, Field(ge=0, le=1)]


class ChoiceSettings(RecipeModel):
    """What decides the choice besides detections, labels and maps.

    Attributes:
        choice_margin: such a share of the weakly supervised detector's quality another one may lack.
        choice_images: with fewer training images the weakly supervised detector is handed over.
    """

    choice_margin: _Share = 0.05
    choice_images: Annotated[int, Field(ge=0, le=10**9)] = 60


class Quality(BaseModel):
    """What is known of a detector without any box.

    Attributes:
        ranking: image-level mean average precision, a fraction.
        agreement: mean IoU of best boxes and warm parts of class maps; None where there are no maps.
    """

    model_config = ConfigDict(frozen=True, strict=True)
    ranking: _Share
    agreement: _Share | None

    @property
    def product(self) -> float:
        """Both in one figure."""
        return self.ranking * (1.0 if self.agreement is None else self.agreement)


class Choice(BaseModel):
    """Which detector is handed over, and why.

    Attributes:
        use: the detector.
        split: whose labels were asked.
        images: of that split, with known labels.
        wsod, retrain, both: what is known of each; None where both are not used together.
        few: training images, where there were too few of them to look at anything else.
    """

    model_config = ConfigDict(frozen=True, strict=True)
    use: Use
    split: str
    images: int
    wsod: Quality
    retrain: Quality
    both: Quality | None = None
    few: int | None = None

    def reason(self) -> str:
        """Why this one, in words: the figures of WSOD, and what retraining made of them."""
        old, new = self.wsod, self.both if self.use == "both" and self.both is not None else self.retrain
        shares = f"image-level mAP {100 * old.ranking:.1f} -> {100 * new.ranking:.1f} %"
        if old.agreement is not None and new.agreement is not None:
            shares += f", agreement with the class maps {old.agreement:.3f} -> {new.agreement:.3f}"
        told = f"by the labels of {self.images} images of {self.split}: {shares}"
        return told if self.few is None else f"for {self.few} training images are too few; {told}"


_CHOICE: Final = TypeAdapter(Choice)


def named(use: Use) -> str:
    """What is handed over, for people."""
    return "both detectors" if use == "both" else f"the detector of {use}"


def image_level_map(found: Mapping[str, Detections], truth: Mapping[str, NDArray[np.bool_]]) -> float:
    """Mean over the classes of the average precision of images, each ranked by its best score of the class, in [0, 1].

    Args:
        found: key -> detections of the image.
        truth: key -> bool (classes,), which classes the image shows; at least one image shows one.
    """
    from sklearn.metrics import average_precision_score

    shown = np.stack([*truth.values()])
    scores = np.stack([found[key].best_scores(shown.shape[1]) for key in truth])
    counted = shown.any(axis=0)
    return float(average_precision_score(shown[:, counted], scores[:, counted], average="macro"))


def map_agreement(found: Mapping[str, Detections], maps: Mapping[str, FusedMaps]) -> float:
    """Mean over all maps of the IoU of the best box of the map's class and the cells above half of the map's largest value.

    Args:
        found: key -> detections of the image; a class that was not found counts 0.
        maps: key -> maps of classes that the image shows; at least one.
    """
    values = []
    for key, image in maps.items():
        boxes = found[key]
        for index, heat in zip(image.class_index, image.maps, strict=True):
            own = boxes.class_index == index
            if not own.any():
                values.append(0.0)
                continue
            height, width = heat.shape
            cells = np.array([width / image.width, height / image.height] * 2)
            left, top, right, bottom = boxes.boxes[own][boxes.scores[own].argmax()] * cells
            x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
            inside = (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
            warm = heat > heat.max() / 2
            both, either = int(np.sum(inside & warm)), int(np.sum(inside | warm))
            values.append(both / max(either, 1))
    return float(np.mean(values))


def choose(
    found: Mapping[Use, Mapping[str, Detections]],
    truth: Mapping[str, NDArray[np.bool_]],
    maps: Mapping[str, FusedMaps],
    settings: ChoiceSettings,
    split: str,
    *,
    training_images: int,
    draws_masks: bool = False,
) -> Choice:
    """The choice between the detections of both detectors, and of both together; see `image_level_map`, `map_agreement`.

    Where the retrained one `draws_masks` it is handed over: whoever trains it wants masks, and WSOD has none.
    """
    known: dict[Use, Quality] = {
        use: Quality(
            ranking=image_level_map(item, truth), agreement=map_agreement(item, maps) if maps else None
        )
        for use, item in found.items()
    }
    least = (1 - settings.choice_margin) * known["wsod"].product
    are_few = training_images < settings.choice_images and not draws_masks
    use: Use = "wsod"
    if draws_masks:
        use = "retrain"
    elif not are_few:
        use = next(use for use in USES if use in known and (use == "wsod" or known[use].product >= least))
    few = training_images if are_few else None
    return Choice(use=use, split=split, images=len(truth), few=few, **known)


def choice_step(
    settings: ChoiceSettings, detections: Path, both: Path | None, context: Context, split: str
) -> Step | None:
    """The step that chooses by the labels of a split.

    Args:
        settings: of the recipe.
        detections: of the retrained detector, which are made by then.
        both: detections of both detectors together, where they are.
        context: of the command.
        split: whose labels are asked.

    Returns:
        None where there is nothing to choose by: no detections of WSOD in the run, pseudo boxes that are not of this run, no
        image with a known class.
    """
    run, train = context.run, context.train_split()
    wsod, labels, cam = (run.input(stage, split) for stage in ("wsod", "data", "cam"))
    if run.given_for(train) or read_receipt(wsod) is None:
        return None
    if not read_labels(labels, Path()).are_known:
        return None
    inputs = {"data": labels, _TRAIN: run.input("data", train), "wsod": wsod, "retrain": detections}
    if both is not None:
        inputs[_BOTH] = both
    if read_receipt(cam) is not None:
        inputs["cam"] = cam
    return Step(
        path=run.folder("retrain") / "choice" / f"{split}.json",
        schema=SCHEMA,
        split=split,
        settings=settings,
        inputs=inputs,
        run=partial(_write_choice, settings, inputs),
        title="which detector is handed over",
    )


def _write_choice(settings: ChoiceSettings, inputs: Mapping[str, Path], job: Job) -> Outcome:
    labels = read_labels(inputs["data"], Path())
    paths: dict[Use, Path | None] = {use: inputs.get(_BOTH if use == "both" else use) for use in USES}
    found = {use: read_detections(path, labels) for use, path in paths.items() if path is not None}
    maps = best_maps(inputs["cam"], labels) if "cam" in inputs else {}
    split, draws_masks = labels.file.info.split, holds_masks(inputs["retrain"])
    learnt = len(read_labels(inputs[_TRAIN], Path()).known_classes())
    known = labels.known_classes()
    choice = choose(found, known, maps, settings, split, training_images=learnt, draws_masks=draws_masks)
    job.context.ops.write_atomically(job.path, choice.model_dump_json(indent=1).encode() + b"\n")
    job.context.console.info(f"handed over: {named(choice.use)}, {choice.reason()}", use=choice.use)
    return Outcome(choice.images)


def read_choice(run: RunDirectory) -> Choice | None:
    """The choice of a run, by a split that was not learnt from where there is one; None where nothing chose, or a choice is
    not about the detectors as they are now.

    Raises:
        UserError: its file is damaged.
    """
    source, freshness = read_source(run.root), Freshness(run.root)
    for split in (*source.role_names("test"), *source.role_names("train")):
        path = run.folder("retrain") / "choice" / f"{split}.json"
        if freshness.of(path).state is State.FRESH:
            return read_json(path, _CHOICE, remedy="Make it again: weaksam retrain --overwrite")
    return None
