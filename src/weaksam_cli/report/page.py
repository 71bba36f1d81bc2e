"""The page of a run: one HTML file that needs nothing else, and nothing of the network."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from weaksam_cli import __version__
from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.console import duration
from weaksam_cli.data.detections import has_masks
from weaksam_cli.engine.stages import STAGE_NAMES
from weaksam_cli.eval.pseudo_boxes import precision_and_recall
from weaksam_cli.eval.report import named
from weaksam_cli.eval.results import MetricRow
from weaksam_cli.pgt.compared import selections
from weaksam_cli.report import charts, choose
from weaksam_cli.report.cards import Card, SplitCards, compared, title_of
from weaksam_cli.report.classes import boxes_an_image, class_rows, detectors, evaluated
from weaksam_cli.report.collect import ArtifactLine, Run, SplitRun

_PHOTO_BYTES: Final = 2_300_000
"""Of all photographs together; base64 makes a third more of it."""
_LARGEST_PHOTO: Final = 60_000
_MOST_FAILURES: Final = 100
_MOST_CLASSES: Final = 400
_DOES: Final = {
    "data": "reads images and labels, no boxes",
    "cam": "class activation maps",
    "prompt": "peaks of the maps",
    "propose": "class-agnostic boxes",
    "wsod": "weakly supervised detector",
    "pgt": "boxes to learn from",
    "retrain": "detector trained on them",
    "eval": "figures against the truth",
}
_HEADLINES: Final = ("VOC AP50", "mask AP50", "")
"""How the names begin of the metrics that come first."""
_OF_MASKS: Final = ("mask AP50", "mean best mask IoU")
"""How the names begin of the figures that are told of masks first."""
_STATES: Final = ("damaged", "partial", "missing", "stale")
"""The first that an artifact of a stage has is the stage's."""


@dataclass(frozen=True)
class StageView:
    """A stage of the pipeline; `figures` are (name, value)."""

    name: str
    does: str
    state: str
    seconds: float
    recipes: list[str]
    failed: int
    figures: list[tuple[str, str]]

    @property
    def time(self) -> str:
        """How long its artifacts took."""
        return duration(self.seconds) if self.seconds else ""


def render(run: Run, images: int) -> bytes:
    """The page; equal runs give equal bytes.

    Args:
        run: as read.
        images: of each section and split.
    """
    train, last, most = run.split_of_role("train"), run.last, boxes_an_image(run)
    sections, problems = _image_sections(run, images, most)
    stages = [_stage(name, run) for name in STAGE_NAMES]
    photos = {card.photo.name: card.photo for _, cards in sections for card in cards if card.photo.uri}
    content = {
        "run": run,
        "version": __version__,
        "title": f"weaksam: {run.dataset}",
        "splits": [(item.name, len(item.labels.keys)) for item in run.splits],
        "stages": stages,
        "whole_time": duration(sum(stage.seconds for stage in stages)),
        "longest": max([stage.seconds for stage in stages] + [1e-9]),
        "missing": [line.name for line in run.artifacts if line.state in ("missing", "partial")],
        "tiles": _tiles(run, train, last),
        "detectors": [title_of(name) for name in evaluated(last)],
        "has_truth": any(split.truth for split in run.splits),
        "ranks_only": last is not None and last.final == "wsod",
        "classes": class_rows(train, last, most)[:_MOST_CLASSES],
        "class_names": run.splits[0].labels.class_names if run.splits else [],
        "most": most,
        "photos": list(photos.values()),
        "sections": [(name, cards) for name, cards in sections if cards],
        "figure4": _figure4(run, images, sections),
        "recall": charts.recall(run),
        "sizes": charts.sizes(run),
        "training": [charts.training(name, rows) for name, rows in run.trainings.items() if rows],
        "metrics": [(item.name, item.results.metrics) for item in run.splits if item.results.metrics],
        "failures": _failures(run),
        "problems": list(dict.fromkeys([*run.problems, *problems])),
        "recipe_text": _recipe_text,
        "duration": duration,
        "named": named,
    }
    return _html(content)


def _html(content: Mapping[str, Any]) -> bytes:
    folder = files("weaksam_cli.report")
    template, style, script = (
        (folder / name).read_text("utf-8") for name in ("report.html.j2", "report.css", "report.js")
    )
    # Nothing runs but this script, whatever a class is called.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.from_string(template).render(
        style=Markup(style), script=Markup(script), script_digest=digest, **content
    )
    # A file's name may hold bytes that are no text.
    return text.encode("utf-8", "replace")


def _recipe_text(recipe: Mapping[str, Any]) -> str:
    """A recipe as indented JSON."""
    return json.dumps(recipe, indent=1, ensure_ascii=False)


# ---------------------------------------------------------------- images
def _image_sections(run: Run, images: int, most: float) -> tuple[list[tuple[str, list[Card]]], list[str]]:
    """The chosen images; an image that stands in several sections has one photograph."""
    chosen: dict[str, list[tuple[SplitCards, list[str]]]] = {}
    makers = [SplitCards(split, most, _LARGEST_PHOTO) for split in run.splits]
    for maker in makers:
        labels = maker.split.labels
        if not maker.sure:
            chosen.setdefault("Some images", []).append((maker, sorted(labels.keys)[:images]))
            continue
        best = choose.first_by(maker.sure, images, highest=True)
        least = choose.first_by(maker.sure, images)
        worst = choose.first_by(maker.agreement, images)
        more = choose.one_of_each_class([*best, *least, *worst], maker.sure, labels, images)
        chosen.setdefault("Most confident", []).append((maker, best))
        chosen.setdefault("Least confident", []).append((maker, [key for key in least if key not in best]))
        chosen.setdefault("Worst against the truth", []).append((maker, worst))
        chosen.setdefault("Other classes", []).append((maker, more))
    keys = {(id(maker), key) for parts in chosen.values() for maker, part in parts for key in part}
    known: dict[tuple[int, str], Card] = {}
    for maker in makers:
        maker.photo_bytes = min(_LARGEST_PHOTO, _PHOTO_BYTES // max(len(keys), 1))
        wanted = [key for key in maker.split.labels.keys if (id(maker), key) in keys]
        for card in maker.make(wanted, len(known)):
            known[id(maker), card.key] = card
    sections = [
        (name, [known[id(maker), key] for maker, part in parts for key in part])
        for name, parts in chosen.items()
    ]
    return sections, [line for maker in makers for line in maker.problems]


# ---------------------------------------------------------------- pipeline
def _stage(name: str, run: Run) -> StageView:
    lines = [line for line in run.artifacts if line.stage == name]
    states = {line.state for line in lines}
    state = next((item for item in _STATES if item in states), "fresh" if lines else "missing")
    if state == "missing" and states - {"missing"}:
        state = "partial"
    receipts = [line.receipt for line in lines if line.receipt is not None]
    return StageView(
        name=name,
        does=_DOES[name],
        state=state,
        seconds=sum(receipt.wall_seconds for receipt in receipts),
        recipes=list(dict.fromkeys(receipt.identity.recipe_name for receipt in receipts)),
        failed=sum(len(receipt.failed) for receipt in receipts),
        figures=_figures(name, run),
    )


def _figures(stage: str, run: Run) -> list[tuple[str, str]]:
    """Two figures of a stage, and one of masks: of `eval`, else what can be counted."""
    for role in ("test", "train"):
        split = run.split_of_role(role)
        rows = [row for row in split.results.metrics if row.source == stage] if split else []
        rows = [row for row in rows if row.value is not None and ": " not in row.name]
        rows.sort(key=lambda row: next(n for n, name in enumerate(_HEADLINES) if row.name.startswith(name)))
        if split and rows:
            shown = _distinct(rows)
            of_masks = [row for row in shown[2:] if row.name.startswith(_OF_MASKS)]
            return [(f"{named(row.name)[0]} ({split.name})", row.text) for row in (*shown[:2], *of_masks[:1])]
    boxes = [(split.name, split.boxes[stage]) for split in run.splits if stage in split.boxes]
    return [(f"boxes ({name})", f"{sum(map(len, every.values())):,}") for name, every in boxes]


def _distinct(rows: Sequence[MetricRow]) -> list[MetricRow]:
    """Without further protocols of the same metric."""
    return list({named(row.name)[0]: row for row in reversed(rows)}.values())[::-1]


def _tiles(run: Run, train: SplitRun | None, last: SplitRun | None) -> list[tuple[str, str, str]]:
    """(value, what it is, more of it) of what a person wants to know first."""
    tiles = []
    if last is not None:
        rows = [last.results.of(name, "VOC AP50") for name in detectors(last)]
        known = [row for row in rows if row is not None and row.value is not None]
        if known:
            more = " → ".join(f"{title_of(row.source)} {row.text}" for row in known)
            best = last.results.of(last.final, "VOC AP50") or known[-1]
            tiles.append((best.text, f"VOC AP50 on {last.name}", more))
        masks = last.results.of(last.final, "mask AP50")
        if masks is not None and masks.value is not None:
            tiles.append((masks.text, f"mask AP50 on {last.name}", title_of(masks.source)))
        if last.choice is not None:
            tiles.append(
                (title_of(last.choice.use), "what predict uses", last.choice.reason().replace("->", "→"))
            )
    if train is not None and "pgt" in train.boxes:
        every = train.boxes["pgt"]
        count, covered = sum(map(len, every.values())), sum(len(item) > 0 for item in every.values())
        what = "masks" if has_masks(every) else "boxes"
        tiles.append(
            (f"{count:,}", f"pseudo {what} to learn from", f"in {covered:,} of {len(every):,} images")
        )
    counted = [f"{len(item.labels.keys):,} {item.name}" for item in run.splits]
    images = sum(len(item.labels.keys) for item in run.splits)
    tiles.append((f"{images:,}", "images", ", ".join(counted)))
    if train is not None:
        tiles.append((str(len(train.labels.class_names)), "classes", "known by image-level labels alone"))
    return tiles


def _failures(run: Run) -> list[tuple[ArtifactLine, list[tuple[str, str]], int]]:
    """(artifact, (image, reason) of the first, number) of artifacts in which something failed or was left out."""
    found = []
    for line in run.artifacts:
        every = [*line.receipt.failed, *line.receipt.left_out] if line.receipt else []
        if every:
            found.append((line, [(item.image, item.reason) for item in every[:_MOST_FAILURES]], len(every)))
    return found


# ---------------------------------------------------------------- pseudo boxes
def _figure4(run: Run, images: int, sections: list[tuple[str, list[Card]]]) -> dict[str, Any] | None:
    """What several selections make of the same detections, the last what the run was trained on (the paper's Figure 4)."""
    train = run.split_of_role("train")
    if train is None or not {"wsod", "pgt"} <= set(train.boxes):
        return None
    receipt, names = read_receipt(train.paths["pgt"]), train.labels.class_names
    recipe = receipt.identity.recipe if receipt else {}
    rows = selections(train.boxes["wsod"], train.boxes["pgt"], train.labels, recipe)
    best, *_, kept = rows.values()
    lines = []
    for name, every in rows.items():
        text = f"{name}: {sum(map(len, every.values())):,} {'masks' if has_masks(every) else 'boxes'}"
        if train.truth:
            truth = {key: train.truth[key] for key in every if key in train.truth}
            scored = {key: item for key, item in every.items() if key in truth}
            precision, recall = precision_and_recall(truth, scored, names)
            if not math.isnan(precision.total) and not math.isnan(recall.total):
                text += f", {100 * precision.total:.0f} % of them on an object"
                text += f", {100 * recall.total:.0f} % of the objects found"
        lines.append(text)
    cards = {card.key: card for _, every in sections for card in every if card.split == train.name}
    more = {key: float(len(kept[key]) - len(best[key])) for key in cards}
    chosen = [key for key in choose.first_by(more, images, highest=True) if more[key] or len(rows) > 2]
    return {
        "title": ", ".join(rows) if len(rows) > 2 else "Top-1 and this run",
        "triples": len(rows) > 2,
        "lines": lines,
        "cards": [
            replace(
                cards[key],
                panels=compared(cards[key].photo, {name: every[key] for name, every in rows.items()}, names),
            )
            for key in chosen
        ],
    }
