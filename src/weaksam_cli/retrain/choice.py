"""Which detector of a run is handed over, the weakly supervised or the retrained one: judged without any box.

No ground truth is at hand where a user trains. What is: the classes in each image. The best score of a class in an image
ranks the images, and the mean average precision of these rankings tells a detector that confuses classes, or that has
learnt nothing, from one that works. It says nothing of how well the boxes fit, which is what retraining improves, so the
retrained detector is handed over unless its ranking is clearly worse.
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
from weaksam_cli.data.detections import read_detections
from weaksam_cli.data.labels import read_labels
from weaksam_cli.data.source import read_source
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.steps import Step

Use = Literal["wsod", "retrain"]
USES: Final[tuple[Use, ...]] = ("retrain", "wsod")
"""Stages that train a detector; the first is handed over where nothing speaks against it."""
SCHEMA: Final = Schema("weaksam/choice", 1, ())
_Share = Annotated[float, Field(ge=0, le=1)]


class ChoiceSettings(RecipeModel):
    """What decides the choice besides detections and labels.

    Attributes:
        choice_margin: so much image-level mean average precision the retrained detector may lose and is handed over still.
    """

    choice_margin: _Share = 0.05


class Choice(BaseModel):
    """Which detector is handed over, and why.

    Attributes:
        use: the detector.
        split: whose labels were asked.
        images: of that split, with known labels.
        wsod, retrain: mean average precision of the images ranked by each detector, a fraction.
    """

    model_config = ConfigDict(frozen=True, strict=True)
    use: Use
    split: str
    images: int
    wsod: _Share
    retrain: _Share

    def reason(self) -> str:
        """Why this one, in words."""
        return (
            f"by the labels of {self.images} images of {self.split}, image-level mAP "
            f"{100 * self.wsod:.1f} % (wsod) and {100 * self.retrain:.1f} % (retrain)"
        )


_CHOICE: Final = TypeAdapter(Choice)


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


def choose(
    found: Mapping[Use, Mapping[str, Detections]],
    truth: Mapping[str, NDArray[np.bool_]],
    settings: ChoiceSettings,
    split: str,
) -> Choice:
    """The choice between the detections of both detectors; see `image_level_map`."""
    wsod, retrain = (image_level_map(found[use], truth) for use in ("wsod", "retrain"))
    use: Use = "wsod" if retrain < wsod - settings.choice_margin else "retrain"
    return Choice(use=use, split=split, images=len(truth), wsod=wsod, retrain=retrain)


def choice_step(settings: ChoiceSettings, detections: Path, context: Context, split: str) -> Step | None:
    """The step that chooses by the labels of a split.

    Args:
        settings: of the recipe.
        detections: of the retrained detector, which are made by then.
        context: of the command.
        split: whose labels are asked.

    Returns:
        None where there is nothing to choose by: no detections of WSOD in the run, pseudo boxes that are not of this run, no
        image with a known class.
    """
    run, train = context.run, context.train_split()
    wsod, labels = run.input("wsod", split), run.input("data", split)
    if run.given_for(train) or read_receipt(wsod) is None:
        return None
    if not any(image.labels for image in read_labels(labels, Path()).file.images):
        return None
    return Step(
        path=run.folder("retrain") / "choice" / f"{split}.json",
        schema=SCHEMA,
        split=split,
        settings=settings,
        inputs={"data": labels, "wsod": wsod, "retrain": detections},
        run=partial(_write_choice, settings, {"wsod": wsod, "retrain": detections}, labels),
        title="which detector is handed over",
    )


def _write_choice(settings: ChoiceSettings, paths: Mapping[Use, Path], file: Path, job: Job) -> Outcome:
    labels = read_labels(file, Path())
    found = {use: read_detections(path, labels) for use, path in paths.items()}
    choice = choose(found, labels.known_classes(), settings, labels.file.info.split)
    job.context.ops.write_atomically(job.path, choice.model_dump_json(indent=1).encode() + b"\n")
    job.context.console.info(f"handed over: the detector of {choice.use}, {choice.reason()}", use=choice.use)
    return Outcome(choice.images)


def read_choice(run: RunDirectory) -> Choice | None:
    """The choice of a run, by a split that was not learnt from where there is one; None where nothing chose.

    Raises:
        UserError: its file is damaged.
    """
    roles = {name: part.role for name, part in read_source(run.root).splits.items()}
    for split in sorted(roles, key=lambda name: roles[name] == "train"):
        path = run.folder("retrain") / "choice" / f"{split}.json"
        if path.is_file():
            return read_json(path, _CHOICE, remedy="Make it again: weaksam retrain --overwrite")
    return None
