"""The trained detectors of a run: which there are, which one is used, and what it needs to look at other images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weaksam_cli.artifacts.receipt import Receipt, read_receipt, verify
from weaksam_cli.data.labels import Category, read_labels
from weaksam_cli.data.source import SOURCE_FILE, read_source
from weaksam_cli.data.unlabelled import DATASET
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.errors import UserError
from weaksam_cli.retrain.both import both_output
from weaksam_cli.retrain.choice import TRAINED, Use, read_choice

_MODEL: Final = "model.safetensors"
_HEADS: Final = "heads."
"""How the names begin of the tensors that every detector of `wsod` has (`wsod.detector.RegionDetector`)."""


@dataclass(frozen=True)
class Trained:
    """A detector that was trained.

    Attributes:
        use: the stage that trained it, or `both`.
        model: its file; of both, the retrained one's.
        categories: the classes, in the model's order, with the ids that the dataset gives them.
        dataset: that it was trained on; `images` for a model's file by itself.
        run: the run that it is part of, with the variant of its stage; None for a retrained model's file by itself.
    """

    use: Use
    model: Path
    categories: tuple[Category, ...]
    dataset: str
    run: RunDirectory | None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        return [category.name for category in self.categories]

    def detections(self) -> list[tuple[str, Path, Receipt]]:
        """What it found in the splits of its run, those that it did not learn from first: split, artifact, receipt."""
        if self.run is None:
            return []
        source, found = read_source(self.run.root), []
        for split in (*source.role_names("test"), *source.role_names("train")):
            path = both_output(self.run, split) if self.use == "both" else self.run.output(self.use, split)
            receipt = read_receipt(path)
            if receipt is not None and path.is_file():
                found.append((split, path, receipt))
        return found


def chosen_detector(run: RunDirectory) -> Use:
    """Which detector of a run is used: what `retrain` chose where both are there, else the one that is.

    Raises:
        UserError: there is none.
    """
    there = [use for use in TRAINED if (run.folder(use) / _MODEL).is_file()]
    if not there:
        what = "there is no trained detector in this run"
        raise UserError(what, where=str(run.root), remedy="Train one: weaksam wsod, weaksam retrain, or all")
    choice = read_choice(run) if len(there) > 1 else None
    return choice.use if choice is not None else there[0]


def find_detector(place: Path, use: Use | None = None) -> Trained:
    """The detector of a run, or of a model's file.

    Args:
        place: the folder of a run, or `model.safetensors` of `wsod` or `retrain`, in its run or (`retrain`) by itself.
        use: which detector of the run; None chooses.

    Raises:
        UserError: there is none, or its file is damaged or foreign.
    """
    if place.is_dir():
        return _in_run(RunDirectory(place), use)
    if not place.is_file():
        remedy = "Give the folder of a run, or a model.safetensors of weaksam wsod or retrain"
        raise UserError("there is no such run or model", where=str(place), remedy=remedy)
    run = run_of(place)
    own, names = _look_into(place)
    if use not in (None, own):
        what = f"is the detector of {own}"
        raise UserError(what, where=str(place), remedy=f"Leave out --use {use}, or give the run")
    if run is not None and run.folder(own) / _MODEL == run.root / place.absolute().relative_to(
        run.root.absolute()
    ):
        return _in_run(run, own)
    if own == "wsod":
        what = "a detector of wsod needs the rest of its run: class maps, prompts, proposals"
        raise UserError(what, where=str(place), remedy="Give it where it lies in its run, or --run-dir")
    categories = [Category(id=number, name=name) for number, name in enumerate(names, 1)]
    return Trained(own, place, tuple(categories), DATASET, None)


def _look_into(model: Path) -> tuple[Use, list[str]]:
    """The stage that trained a model's file, and its classes.

    Raises:
        UserError: it is no detector; `cam` and `wsod` keep other models with class names, too.
    """
    from weaksam_cli.training.checkpoint import read_metadata, read_names

    metadata, where = read_metadata(model), str(model)
    names = metadata.get("class_names")
    remedy = f"Give the {_MODEL} of wsod or retrain, or the folder of their run"
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError("is no detector of weaksam", where=where, remedy=remedy)
    if "detectron2" in metadata:
        return "retrain", names
    if not any(name.startswith(_HEADS) for name in read_names(model)):
        raise UserError("is a model of weaksam, and no detector", where=where, remedy=remedy)
    return "wsod", names


def _in_run(run: RunDirectory, use: Use | None) -> Trained:
    if not (run.root / SOURCE_FILE).is_file():
        what = "is no run of weaksam"
        raise UserError(what, where=str(run.root), remedy="Give the folder of a run (runs/<dataset>)")
    chosen = use or chosen_detector(run)
    for stage in ("wsod", "retrain") if chosen == "both" else (chosen,):
        model = run.folder(stage) / _MODEL
        receipt = read_receipt(model)
        if receipt is None:
            state = "is not whole" if model.is_file() else "is not there"
            raise UserError(f"the detector {state}", where=str(model), remedy=f"Train it: weaksam {stage}")
        verify(model, receipt)
    assert receipt is not None
    labels = read_labels(run.output("data", receipt.identity.split), Path())
    trained = Trained(chosen, model, tuple(labels.file.categories), receipt.identity.dataset, run)
    if chosen == "both" and not trained.detections():
        what = "both detectors were not used together in this run, so how is not known"
        remedy = "Run `weaksam retrain` with a recipe that has `both`, or give --use retrain"
        raise UserError(what, where=str(run.root), remedy=remedy)
    return trained


def run_of(artifact: Path) -> RunDirectory | None:
    """The run that an artifact lies in, with the variant of its stage; None where it lies in none."""
    from weaksam_cli.engine.stages import STAGE_NAMES, load_stage

    path = artifact.absolute()
    root = next((folder for folder in path.parents if (folder / SOURCE_FILE).is_file()), None)
    if root is None:
        return None
    folder, _, variant = path.relative_to(root).parts[0].partition("@")
    stages: Sequence[str] = [name for name in STAGE_NAMES if load_stage(name).folder == folder]
    return RunDirectory(root, dict.fromkeys(stages, variant) if variant else {})
