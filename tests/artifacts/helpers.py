"""A small sharded step and a disk that fails on command."""

from __future__ import annotations

import errno
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.schema import Column, ImageRows, Schema
from weaksam_cli.console import Console, Mode
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.predictors import ImageFunction
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.sharded import PerImage
from weaksam_cli.engine.stages import Stage
from weaksam_cli.engine.steps import Step
from weaksam_cli.errors import ImageError
from weaksam_cli.models.weights.catalogue import WeightsFinder

SCHEMA = Schema(
    "weaksam/test",
    1,
    columns=(Column("boxes", "float32", (4,)), Column("kind", "int8")),
    image_columns=(Column("score", "float32", (2,)),),
    blobs=(Column("values", "float16"),),
)


def rows_of(image_id: str) -> ImageRows:
    """Rows that are a function of the image's name; the counts 0, 1, 2, 6, 7 all occur."""
    number = int(image_id[1:])
    count = (0, 1, 2, 6, 7)[number % 5]
    generator = np.random.default_rng(number)
    return ImageRows(
        columns={
            "boxes": generator.random((count, 4), dtype=np.float32),
            "kind": np.arange(count, dtype=np.int8),
        },
        image={"score": generator.random(2, dtype=np.float32)},
        blobs={"values": [generator.random(index * 3).astype(np.float16) for index in range(count)]},
    )


@dataclass(frozen=True)
class RowsPredictor:
    """Computes `rows_of`; the images in `broken` cannot be done."""

    broken: tuple[str, ...] = ()

    def open(self) -> ImageFunction:
        def function(image_id: str) -> ImageRows:
            if image_id in self.broken:
                raise ImageError("truncated", where=f"/somewhere/{image_id}")
            return rows_of(image_id)

        return function


STAGE = Stage("cam", 1, "cam", "{split}.h5", SCHEMA)


class Knob(RecipeModel):
    knob: int = 1


def step(path: Path, images: int = 11, broken: tuple[str, ...] = (), knob: int = 1) -> Step:
    ids = [f"i{number}" for number in range(images)]
    run = PerImage(SCHEMA, ids, RowsPredictor(broken), "test", {"kind_names": ["a", "b"]}, shard_images=4)
    return Step(path, SCHEMA, "trainval", Knob(knob=knob), {}, run, "test rows")


def entries(path: Path) -> Step:
    """A step whose artifact is a JSON list."""
    schema = Schema("coco/results", 1, (), json=True)
    ids = [f"i{number}" for number in range(11)]
    run = PerImage(schema, ids, EntriesPredictor(), "test", shard_images=4)
    return Step(path, schema, "trainval", Knob(), {}, run, "test entries")


@dataclass(frozen=True)
class EntriesPredictor:
    def open(self) -> ImageFunction:
        return lambda image_id: [json.dumps({"image": image_id, "number": number}) for number in range(2)]


def context(root: Path, ops: FileOps | None = None, **changes: object) -> Context:
    values: dict[str, object] = {
        "dataset": "demo",
        "run": RunDirectory(root),
        "console": Console(Mode.QUIET, io.StringIO(), io.StringIO()),
        "ops": ops or FileOps(),
        "weights": WeightsFinder(()),
        **changes,
    }
    return Context(**values)  # type: ignore[arg-type]


@dataclass
class FaultyOps(FileOps):
    """Fails at the k-th operation (counted from 0), once; `fail_at` None never fails."""

    fail_at: int | None = None
    kind: int = errno.ENOSPC
    log: list[str] = field(default_factory=list)

    def before(self, operation: str, path: Path) -> None:
        self.log.append(operation)
        if self.fail_at is not None and len(self.log) - 1 == self.fail_at:
            raise OSError(self.kind, "No space left on device", str(path))
