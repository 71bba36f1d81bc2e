"""The results file of a split as a typed value: what `eval` prints of it, and what pages and comparisons read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter

from weaksam_cli.artifacts.receipt import read_receipt, verify
from weaksam_cli.core.json_files import read_json


class _OfArtifact(BaseModel):
    stage: str
    variant: str = ""

    @property
    def source(self) -> str:
        """`stage` or `stage@variant`."""
        return f"{self.stage}@{self.variant}" if self.variant else self.stage


class MetricRow(_OfArtifact):
    """A figure of an artifact, as `eval` writes it (`case.Metric`)."""

    name: str
    value: FiniteFloat | None
    share: bool = True
    classes: dict[str, FiniteFloat] = {}

    @property
    def text(self) -> str:
        """The value for people; shares in percent."""
        if self.value is None:
            return "-"
        return f"{100 * self.value:.1f} %" if self.share else f"{self.value:.1f}"


class Curve(_OfArtifact):
    """Recall against the number of proposals (`recall.RecallCurve`)."""

    counts: Annotated[list[FiniteFloat], Field(alias="proposals an image")]
    recall: dict[str, list[FiniteFloat | None]]


class LeftOut(BaseModel):
    """An object that could not be used as ground truth."""

    image: str


class Truth(BaseModel):
    """What was compared with."""

    objects_left_out: list[LeftOut] = []


class Results(BaseModel):
    """A results file, as far as people are shown it."""

    dataset: str = ""
    split: str = ""
    images: int = 0
    ground_truth: Truth = Truth()
    metrics: list[MetricRow] = []
    curves: list[Curve] = []

    def of(self, source: str, name: str) -> MetricRow | None:
        """The first metric of an artifact whose name begins so."""
        return next((row for row in self.metrics if row.source == source and row.name.startswith(name)), None)


def read_results(path: Path) -> Results:
    """The figures of a split; none where it has not been evaluated.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return Results()
    receipt = read_receipt(path)
    if receipt is not None:
        verify(path, receipt)
    return read_json(path, TypeAdapter(Results), remedy="Run `weaksam eval --overwrite`")
