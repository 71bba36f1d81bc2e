"""What a run holds, read once for its page; what is missing or damaged is noted and left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from weaksam_cli.artifacts.receipt import Receipt
from weaksam_cli.core.files import read_bytes
from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.data.detections import has_masks, read_detections
from weaksam_cli.data.ground_truth import read_ground_truth
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.data.source import Source, image_root
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.freshness import Freshness
from weaksam_cli.engine.overview import run_artifacts
from weaksam_cli.engine.stages import STAGE_NAMES, load_stage
from weaksam_cli.errors import UserError
from weaksam_cli.eval.results import Results, read_results
from weaksam_cli.eval.stage import artifacts_of
from weaksam_cli.report.board import Board, read_boards
from weaksam_cli.retrain.choice import Choice, read_choice

T = TypeVar("T")
Masks = Sequence[bytes | None]
"""Compressed RLE of each annotated object of an image, None where it has none."""
_BOX_STAGES = ("wsod", "pgt", "retrain", "both")
_MAX_METRICS_BYTES = 50 * 1000**2


@dataclass(frozen=True)
class ArtifactLine:
    """An artifact that is there, or that the pipeline would make."""

    name: str
    stage: str
    state: str
    why: str
    receipt: Receipt | None


@dataclass(frozen=True)
class SplitRun:
    """A split with all that was found of it.

    Attributes:
        truth: image key to annotated objects; empty where there are none.
        truth_masks: from image keys to the masks of their objects; None where the run has no masks to be compared with them,
            for the annotations are read once more.
        paths: `stage` or `stage@variant` -> complete artifact.
        boxes: the same -> image key -> detections or pseudo boxes; in the order of the pipeline.
        results: what `eval` measured.
        choice: which detector of the run is handed over, where that was judged.
    """

    name: str
    labels: Labels
    truth: Mapping[str, GroundTruth] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)
    boxes: Mapping[str, Mapping[str, Detections]] = field(default_factory=dict)
    results: Results = field(default_factory=Results)
    choice: Choice | None = None
    truth_masks: Callable[[Sequence[str]], dict[str, Masks]] | None = None

    @property
    def final(self) -> str:
        """The artifact of the detector that is handed over, else with the last detections; '' where there are none."""
        found = [name for name in self.boxes if not name.startswith("pgt")]
        if self.choice is not None and self.choice.use in found:
            return self.choice.use
        plain = [name for name in found if "@" not in name]
        return (plain or found or [""])[-1]


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        trainings: folder of the model -> rows of its `metrics.json`.
        boards: leaderboards, each with its plot as a data URI.
        problems: what could not be read, a line each.
    """

    root: Path
    dataset: str
    artifacts: tuple[ArtifactLine, ...]
    splits: tuple[SplitRun, ...]
    trainings: Mapping[str, list[dict[str, float]]]
    boards: Sequence[tuple[Board, str]]
    problems: tuple[str, ...]

    def split_of_role(self, role: str) -> SplitRun | None:
        """The first split of a role."""
        return next((item for item in self.splits if item.labels.file.info.role == role), None)

    @property
    def last(self) -> SplitRun | None:
        """The test split where it has detections, else the training split."""
        test = self.split_of_role("test")
        return test if test is not None and test.final else self.split_of_role("train")


def read_run(context: Context) -> Run:
    """Read all of a run but the images.

    Raises:
        UserError: there is no run, or its labels cannot be read.
    """
    problems: list[str] = []
    splits = tuple(_read_split(context, name, problems) for name in context.source().splits)
    return Run(
        root=context.run.root,
        dataset=splits[0].labels.file.info.dataset if splits else context.dataset,
        artifacts=tuple(_lines(context)),
        splits=splits,
        trainings=_trainings(context.run.root, problems),
        boards=_boards(context, problems),
        problems=tuple(dict.fromkeys(problems)),
    )


def _lines(context: Context) -> Iterable[ArtifactLine]:
    freshness, root = Freshness(context.run.root), context.run.root
    stages = {load_stage(name).folder: name for name in STAGE_NAMES}
    for path in run_artifacts(context):
        name = path.relative_to(root).as_posix()
        stage = stages.get(name.partition("/")[0].partition("@")[0], "")
        try:
            found = freshness.of(path)
        except UserError as error:
            yield ArtifactLine(name, stage, "damaged", error.what, None)
        else:
            yield ArtifactLine(name, stage, found.state.value, "; ".join(found.reasons), found.receipt)


def _read_split(context: Context, name: str, problems: list[str]) -> SplitRun:
    run, source = context.run, context.source()
    labels = read_labels(run.output("data", name), run.root / source.splits[name].image_root)

    def attempt(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except UserError as error:
            problems.append(error.one_line())
            return otherwise

    def truth() -> dict[str, GroundTruth]:
        found = read_ground_truth(run.root, source, labels)
        return {key: image.objects for key, image in found.images.items()} if found else {}

    attempt(lambda: image_root(run.root, source.splits[name]), run.root)
    nothing: dict[str, Path] = {}
    paths = attempt(lambda: artifacts_of(context, name), nothing)
    boxes: dict[str, dict[str, Detections]] = {}
    for stage, path in paths.items():
        if stage.partition("@")[0] in _BOX_STAGES:
            read = attempt(lambda path=path: read_detections(path, labels, masks=True), None)  # type: ignore[misc]
            if read is not None:
                boxes[stage] = read
    results = attempt(lambda: read_results(run.output("eval", name)), Results())
    choice = attempt(lambda: read_choice(run), None)
    no_truth: dict[str, GroundTruth] = {}
    known = attempt(truth, no_truth)
    masks = None
    if known and any(map(has_masks, boxes.values())):
        masks = partial(_truth_masks, run.root, source, labels)
    return SplitRun(name, labels, known, paths, boxes, results, choice, masks)


def _truth_masks(root: Path, source: Source, labels: Labels, keys: Sequence[str]) -> dict[str, Masks]:
    """The masks of the annotated objects of some images.

    Raises:
        UserError: see `read_ground_truth`.
    """
    wanted = set(keys)
    images = [image for image in labels.file.images if image.key in wanted]
    some = replace(labels, file=labels.file.model_copy(update={"images": images}))
    found = read_ground_truth(root, source, some, masks=True)
    return {key: image.masks or () for key, image in found.images.items()} if found else {}


def _boards(context: Context, problems: list[str]) -> list[tuple[Board, str]]:
    try:
        return read_boards(context.run.root, list(context.source().splits))
    except UserError as error:
        problems.append(error.one_line())
        return []


def _trainings(root: Path, problems: list[str]) -> dict[str, list[dict[str, float]]]:
    from weaksam_cli.training.metrics import METRICS_FILE

    row, found = TypeAdapter(dict[str, FiniteFloat]), {}
    for path in sorted(root.glob(f"*/{METRICS_FILE}")):
        try:
            lines = read_bytes(path, _MAX_METRICS_BYTES).splitlines()
            found[path.parent.name] = [row.validate_json(line) for line in lines if line.strip()]
        except (UserError, ValidationError):
            problems.append(f"{path}: is no metrics.json of a training")
    return found
