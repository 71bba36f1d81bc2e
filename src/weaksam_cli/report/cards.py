"""An image of the page: every stage's view of it, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from markupsafe import Markup

from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps, cam_schema, class_heat, read_class_maps
from weaksam_cli.artifacts.points import POINTS, read_points
from weaksam_cli.artifacts.proposals import PROPOSALS, read_proposals
from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.core.types import Detections, Points
from weaksam_cli.data.image_names import open_artifact_of
from weaksam_cli.errors import UserError
from weaksam_cli.eval.recall import best_first
from weaksam_cli.report import choose, panels
from weaksam_cli.report.collect import Masks, SplitRun

_MOST_MAPS = 3
_MOST_VARIANTS = 3
_TITLES = {
    "propose": "Proposals",
    "wsod": "WSOD",
    "pgt": "Pseudo ground truth",
    "retrain": "Retrained",
    "both": "Both detectors",
}


@dataclass(frozen=True)
class Card:
    """One image.

    Attributes:
        key, split: which.
        labels: names of its classes; None where nobody said.
        sure: see `choose.confidences`.
        verdict: how the last detector's boxes compare with the truth, in words; '' without truth.
        photo: where the photograph stands.
        panels: the stages' views.
    """

    key: str
    split: str
    labels: list[str] | None
    sure: float | None
    verdict: str
    photo: panels.Photo
    panels: tuple[Markup, ...]


@dataclass
class SplitCards:
    """Makes the cards of one split.

    Attributes:
        split: with all boxes.
        most: boxes an image that are shown at first.
        photo_bytes: of a photograph, at most.
        problems: what could not be read is added.
    """

    split: SplitRun
    most: float
    photo_bytes: int
    problems: list[str] = field(default_factory=list)
    _masks: Mapping[str, Masks] = field(default_factory=dict)

    @cached_property
    def sure(self) -> dict[str, float]:
        """How sure the last detector is of each image; empty without detections."""
        final = self.split.boxes.get(self.split.final)
        return choose.confidences(final, self.split.labels) if final else {}

    @cached_property
    def counts(self) -> dict[str, tuple[int, int, int]]:
        """For each image with truth: objects found, objects, boxes shown; empty without truth or detections."""
        final = self.split.boxes.get(self.split.final)
        if not final or not self.split.truth:
            return {}
        seen = choose.shown(final, self.most)
        return {key: choose.found_objects(truth, seen[key]) for key, truth in self.split.truth.items()}

    @cached_property
    def agreement(self) -> dict[str, float]:
        """F1 of each image with truth."""
        return {key: choose.agreement(*counts) for key, counts in self.counts.items()}

    def make(self, keys: list[str], first: int) -> Iterator[Card]:
        """A card for each key; photographs are numbered from `first`."""
        if self.split.truth_masks is not None:
            try:
                self._masks = self.split.truth_masks(keys)
            except UserError as error:
                self.problems.append(error.one_line())
        with ExitStack() as opened:
            files = {
                stage: artifact
                for stage, path in self.split.paths.items()
                if (artifact := self._opened(opened, stage, path)) is not None
            }
            for number, key in enumerate(keys, start=first):
                yield self._card(key, number, files)

    def _opened(self, opened: ExitStack, stage: str, path: Path) -> Artifact | None:
        schema = _SCHEMAS.get(stage.partition("@")[0])
        if schema is None:
            return None
        wanted = cam_schema(len(self.split.labels.class_names)) if schema is _MAPS else schema
        try:
            return opened.enter_context(open_artifact_of(self.split.labels, path, wanted))
        except UserError as error:
            self.problems.append(error.one_line())
            return None

    def _card(self, key: str, number: int, files: dict[str, Artifact]) -> Card:
        labels = self.split.labels
        entry = labels.by_key()[key]
        try:
            pixels = labels.read_image(entry)
        except UserError as error:
            self.problems.append(error.one_line())
            pixels = None
        photo = panels.Photo.of(f"p{number}", pixels, (entry.height, entry.width), self.photo_bytes)
        parts: list[Markup] = []
        for view in (self._original, self._maps, self._proposals, self._boxes):
            try:
                parts += view(key, photo, files)
            except UserError as error:
                self.problems.append(error.one_line())
        return Card(
            key, self.split.name, entry.labels, self.sure.get(key), self._verdict(key), photo, tuple(parts)
        )

    def _verdict(self, key: str) -> str:
        if key not in self.counts:
            return ""
        hits, objects, boxes = self.counts[key]
        more = f", {counted(boxes - hits, 'box')} on none" if boxes > hits else ""
        return f"finds {hits} of {counted(objects, 'object')}{more}"

    def _original(self, key: str, photo: panels.Photo, _: dict[str, Artifact]) -> list[Markup]:
        truth = self.split.truth.get(key)
        if truth is None:
            return [panels.panel(photo, "Image", [])]
        note, names = f"{len(truth)} annotated", self.split.labels.class_names
        layer = panels.truth_layer(photo, truth, self._masks.get(key, ()), names)
        return [panels.panel(photo, "Image and truth", [layer], note)]

    def _maps(self, key: str, photo: panels.Photo, files: dict[str, Artifact]) -> list[Markup]:
        names, found = self.split.labels.class_names, []
        cam, prompt = files.get("cam"), files.get("prompt")
        points: dict[str, Points] = read_points(prompt, key) if prompt and key in prompt else {}
        if cam is None or key not in cam:
            return []
        maps = read_class_maps(cam, key)
        for index, heat in _fused(maps)[:_MOST_MAPS]:
            peaks = sum(int((item.class_index == index).sum()) for item in points.values())
            layers = [panels.map_layer(photo, heat), panels.points_layer(photo, points, index)]
            note = counted(peaks, "peak") if prompt else ""
            found.append(panels.panel(photo, f"Map: {names[index]}", layers, note))
        return found

    def _proposals(self, key: str, photo: panels.Photo, files: dict[str, Artifact]) -> list[Markup]:
        found = []
        for stage in [name for name in files if name.partition("@")[0] == "propose"][:_MOST_VARIANTS]:
            if key not in files[stage]:
                continue
            boxes = best_first(read_proposals(files[stage], key))
            truth = self.split.truth.get(key)
            layer, hits = panels.proposals_layer(photo, boxes, truth)
            note = f"{len(boxes)}"
            if truth is not None:
                note += f", for {hits} of {int((~truth.difficult).sum())} objects"
            found.append(panels.panel(photo, title_of(stage), [layer], note))
        return found

    def _boxes(self, key: str, photo: panels.Photo, _: dict[str, Artifact]) -> list[Markup]:
        names, found = self.split.labels.class_names, []
        for stage, every in self.split.boxes.items():
            boxes = every[key]
            if stage.startswith("pgt"):
                layer = panels.pseudo_layer(photo, boxes, names)
                found.append(panels.panel(photo, title_of(stage), [layer], counted_boxes(boxes)))
            else:
                places = self._ranks[stage][key]
                layer = panels.boxes_layer(photo, boxes, places, names, self.most)
                found.append(panels.panel(photo, title_of(stage), [layer]))
        return found

    @cached_property
    def _ranks(self) -> dict[str, dict[str, choose.Ranks]]:
        return {stage: choose.ranks(every) for stage, every in self.split.boxes.items()}


def compared(photo: panels.Photo, rows: Mapping[str, Detections], names: list[str]) -> tuple[Markup, ...]:
    """Several selections of pseudo labels of an image, by their names."""
    return tuple(
        panels.panel(photo, name, [panels.pseudo_layer(photo, found, names)], counted_boxes(found))
        for name, found in rows.items()
    )


def counted_boxes(found: Detections) -> str:
    """`1 box`, `2 masks`."""
    return counted(len(found), "box" if found.masks is None else "mask")


def counted(number: int, word: str) -> str:
    """`1 box`, `2 boxes`."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}{'es' if word.endswith('x') else 's'}"


def title_of(stage: str) -> str:
    """`propose@edges` as `Proposals (edges)`."""
    name, _, variant = stage.partition("@")
    return f"{_TITLES.get(name, name)} ({variant})" if variant else _TITLES.get(name, name)


def _fused(maps: ClassMaps) -> list[tuple[int, np.ndarray]]:
    """(class, map) of the first kind that there is, small."""
    size = panels.map_size(*maps.image_size)
    for kind in (KINDS.index("fine"), KINDS.index("coarse"), KINDS.index("cross")):
        heat = class_heat(maps, kind, *size)
        if heat is not None:
            return list(zip(maps.classes(), heat, strict=True))
    return []


_MAPS = cam_schema()
_SCHEMAS: dict[str, Schema] = {"cam": _MAPS, "prompt": POINTS, "propose": PROPOSALS}
