"""What a method knows of each proposal beside its features, computed once an image: the step that makes it, and its reader.

It is the same for both networks, and in an artifact of its own, so that methods and variants that ask for the same share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SerializeAsAny

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.computed import Rows
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.schema import ANY, Column, ImageRows, Schema
from weaksam_cli.data.image_names import open_artifact_of
from weaksam_cli.data.labels import LabelChoice, Split
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.predictors import ImageFunction
from weaksam_cli.engine.sharded import ImageByImage, PerImage
from weaksam_cli.engine.steps import Step, rows_of
from weaksam_cli.errors import UserError
from weaksam_cli.wsod.method import Evidence, Method, Seen
from weaksam_cli.wsod.settings import DetectorSettings, ProposalSettings

if TYPE_CHECKING:
    from torch import Tensor

EvidenceOf = Callable[[str], "Tensor | None"]
"""From an image's key to float32 (R, k), or None where the method asks for nothing."""


def evidence_schema(width: int = ANY) -> Schema:
    """The columns of each proposal that is used."""
    return Schema("weaksam/region-evidence", 1, columns=(Column("values", "float32", (width,)),))


class EvidenceSettings(LabelChoice):
    """What decides the columns; `kind` tells settings apart that have the same keys."""

    kind: str
    proposals: ProposalSettings
    evidence: SerializeAsAny[Evidence]


def evidence_steps(
    settings: DetectorSettings, method: Method, context: Context, split: str
) -> Iterator[Step]:
    """What makes the columns that a detector of this method needs to be trained, and to look at a split."""
    if learnt := training_evidence(settings, method, context):
        yield learnt
        tested = test_evidence(settings, method, context, split)
        if tested and split != learnt.split:
            yield tested


def training_evidence(settings: DetectorSettings, method: Method, context: Context) -> Step | None:
    """What makes the columns of the training split; None where the method asks for nothing."""
    return (
        None if method.evidence is None else _step(settings, method.evidence, context, context.train_split())
    )


def test_evidence(settings: DetectorSettings, method: Method, context: Context, split: str) -> Step | None:
    """What makes the columns of a split to detect in; None where the method asks for nothing there."""
    known = method.evidence
    return _step(settings, known, context, split) if known is not None and known.at_test else None


def _step(settings: DetectorSettings, evidence: Evidence, context: Context, split: str) -> Step:
    how = EvidenceSettings(
        kind=type(evidence).__name__,
        proposals=settings.proposals,
        evidence=evidence,
        difficult=settings.difficult,
    )
    images, proposals = context.split(split), context.rows("propose", split)
    maps = context.rows("cam", split) if evidence.needs_maps else None
    named = {"data": images.labels, "propose": proposals, "cam": maps}
    inputs = {name: item for name, item in named.items() if isinstance(item, Path)}
    path = context.run.folder("wsod") / f"evidence-{split}.h5"
    run = ImageByImage(lambda _: _work(EvidencePredictor(how, images, proposals, maps)))
    return Step(path, evidence_schema(), split, how, inputs, run, "what is known of each proposal")


@dataclass(frozen=True)
class EvidencePredictor:
    """The columns of one image."""

    settings: EvidenceSettings
    split: Split
    proposals: Rows
    maps: Rows | None

    def open(self) -> ImageFunction:
        """Open what is read, once a process."""
        from weaksam_cli.artifacts.class_maps import cam_schema, read_class_maps
        from weaksam_cli.wsod.used_proposals import image_loader

        settings, labels = self.settings, self.split.read(self.settings.difficult)
        images, count = labels.by_key(), len(labels.class_names)
        proposals = open_artifact_of(labels, self.proposals, PROPOSALS, verify=False)
        maps = None if self.maps is None else open_artifact(self.maps, cam_schema(count), verify=False)
        load = image_loader(labels, proposals, settings.proposals)

        def compute(image_id: str) -> ImageRows:
            pixels, used = load(image_id)
            classes = labels.class_indexes(images[image_id])
            own = None if maps is None else read_class_maps(maps, image_id)
            return ImageRows({"values": settings.evidence.columns(Seen(pixels, used, classes, count, own))})

        return compute


def _work(predictor: EvidencePredictor) -> PerImage:
    labels = predictor.split.read()
    with open_artifact_of(labels, predictor.proposals, PROPOSALS) as proposals:
        ids = proposals.image_ids
    schema = evidence_schema(predictor.settings.evidence.width(len(labels.class_names)))
    return PerImage(schema, ids, predictor, "looking at proposals")


def evidence_reader(rows: Rows | None) -> EvidenceOf:
    """From an image's key to its columns; what is returned raises a UserError for an image that has none.

    Args:
        rows: of a step of this module; None where the method asks for nothing.
    """
    if rows is None:
        return no_evidence
    import torch

    artifact = open_artifact(rows, verify=False)

    def read(key: str) -> Tensor:
        if key not in artifact:
            what = f"{key}: nothing is known of its proposals"
            raise UserError(what, where=str(artifact.path), remedy="weaksam inspect says why it failed")
        return torch.from_numpy(artifact.rows(key, "values").astype("float32"))

    return read


def no_evidence(_: str) -> None:
    """Of an image, where the method asks for nothing."""
    return


def evidence_rows(step: Step | None, context: Context, inputs: dict[str, Path]) -> Rows | None:
    """What a later step reads of one of this module, which becomes one of its `inputs`; None where there is none."""
    if step is None:
        return None
    rows = rows_of(step, context)
    inputs["wsod-evidence"] = step.path
    return rows
