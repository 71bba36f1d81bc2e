"""What all stages are to the program: products with an identity, made when they are not fresh."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from weaksam_cli import __version__
from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts import receipt as receipts
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.schema import Batch, Schema
from weaksam_cli.artifacts.shards import (
    MergeCount,
    ShardLostError,
    ShardPlan,
    merge_to_bytes,
    merge_to_hdf5,
    remove_shards,
    shards_root,
)
from weaksam_cli.console import Console, duration
from weaksam_cli.data.source import Source, read_source
from weaksam_cli.engine.agenda import Share, UnfinishedError
from weaksam_cli.engine.devices import Seat, assign_seats, gpus_for
from weaksam_cli.engine.execution import Work
from weaksam_cli.engine.freshness import Freshness, State, assess
from weaksam_cli.engine.recipes import RecipeModel
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.workers import show_shards
from weaksam_cli.errors import IncompleteError, UserError
from weaksam_cli.models.weights.finder import WeightsFinder

R = TypeVar("R", bound=RecipeModel)
R_contra = TypeVar("R_contra", bound=RecipeModel, contravariant=True)
SHARD_IMAGES = 8
_SPARE_ATTEMPTS = 10
"""Every shard may be found damaged once, and this many times they may vanish, before the folder is declared unfit."""
WEIGHTS_INPUT = "weights"
"""Name of the input that is a published weights file: it has no receipt."""


@dataclass(frozen=True)
class Context:
    """What a command was told, the same for every stage."""

    dataset: str
    run: RunDirectory
    console: Console
    ops: FileOps
    weights: WeightsFinder
    recipe_name: str = ""
    device: str = "auto"
    workers: int = 1
    seed: int = 0
    overwrite: bool = False
    strict: bool = False
    share: Share | None = None

    def source(self) -> Source:
        """Where the dataset's images and annotations lie, as `weaksam data` noted it."""
        return read_source(self.run.root)

    def train_split(self) -> str:
        """The split that is learnt from.

        Raises:
            UserError: when the dataset has none, or several.
        """
        splits = [split for split, role in self.source().splits.items() if role == "train"]
        if len(splits) != 1:
            raise UserError(
                f"expected one training split, met {len(splits)} ({', '.join(splits) or 'none'})",
                where=f"dataset {self.dataset}",
                remedy="Name the roles: weaksam data SOURCE --set 'splits={trainval: train, test: test}'",
            )
        return splits[0]

    def torch_device(self) -> str:
        """`cuda` where there is one and `auto` was asked for, else `cpu`."""
        import torch

        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(
                "there is no CUDA device on this machine", where="--device", remedy="Use --device cpu"
            )
        return self.device


@dataclass(frozen=True)
class Job:
    """What a maker needs to write one artifact."""

    context: Context
    path: Path
    identity: receipts.Identity

    @property
    def checkpoint(self) -> Path:
        """Where a training that makes the artifact keeps its checkpoint; another recipe or input has another place."""
        return shards_root(self.path) / self.identity.key()[:16] / "checkpoint.pt"

    def attributes(self) -> dict[str, Any]:
        """Root attributes of an HDF5 artifact."""
        identity = self.identity
        return {
            "format": identity.format,
            "format_version": identity.format_version,
            "stage": identity.stage,
            "dataset": identity.dataset,
            "split": identity.split,
            "recipe": digest.canonical_json(identity.recipe),
            "inputs": digest.canonical_json({name: item.sha256 for name, item in identity.inputs.items()}),
            "seed": identity.seed,
            "program_version": __version__,
            "complete": True,
        }


Maker = Callable[[Job], MergeCount]
Summary = Callable[[receipts.Receipt, MergeCount], tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Product:
    """One artifact that a stage makes.

    Attributes:
        path: where it is written.
        format_name, format_version: what it is.
        split: the split that it belongs to.
        recipe: the part of the recipe that decides its contents, as JSON values.
        inputs: name -> file that it is made from; every one must be there.
        digests: name -> digest of inputs that are no artifacts (a dataset that was read).
        make: writes it (atomically, under `Job.path`).
        what: a few words for the person who waits.
        summary: the line that says what was made, with fields for JSON readers; None for the usual one.
    """

    path: Path
    format_name: str
    format_version: int
    split: str
    recipe: Mapping[str, Any]
    inputs: Mapping[str, Path]
    make: Maker
    what: str
    digests: Mapping[str, receipts.InputDigest] = field(default_factory=dict)
    summary: Summary | None = None


class Stage(Protocol[R_contra]):
    """One stage of the pipeline."""

    name: ClassVar[str]
    version: ClassVar[int]
    recipe_types: ClassVar[Mapping[str, type[Any]]]
    train_only: ClassVar[bool]

    def products(self, recipe: R_contra, context: Context, split: str) -> Iterator[Product]:
        """The artifacts of a split, in the order in which they are made; each is made before the next is asked for."""
        ...


@dataclass(frozen=True)
class ShardedMaker:
    """Makes an artifact image by image, in shards, with any number of processes.

    Attributes:
        form: format of the rows.
        image_ids: all images, in order.
        work: what is done to each.
        tables: name -> strings stored in the artifact.
        render: for artifacts that are not HDF5: all batches -> the bytes of the file.
        title: shown beside the progress.
        device: where the work's model lives: each GPU is used by one process; see `assign_seats`.
    """

    schema: Schema
    image_ids: Sequence[str]
    work: Work
    title: str
    tables: Mapping[str, Sequence[str]] = field(default_factory=dict)
    render: Callable[[Iterator[Batch]], bytes] | None = None
    shard_images: int = SHARD_IMAGES
    device: str = "cpu"

    def __call__(self, job: Job) -> MergeCount:
        """Run what is missing, then merge; work that another process removed from under us is looked at again.

        Raises:
            UnfinishedError: `--shard` was given, and shards of other parts are missing.
        """
        context, plan, before = job.context, self.plan(job), receipts.stamp(job.path)
        start, computed, lost, seats = time.monotonic(), 0, "", self.seats(context)
        run = partial(
            show_shards, context.console, self.title, context.ops, plan, self.work, seats, context.share
        )
        for _ in range(len(plan) + _SPARE_ATTEMPTS):
            try:
                computed += run()
                missing = plan.missing() if context.share else []
                if context.share and missing and not self._made_by_others(job, before):
                    raise UnfinishedError(context.share, computed, time.monotonic() - start, plan, missing)
                return replace(self._merge(job, plan), computed=computed)
            except ShardLostError as error:
                made, lost = self._made_by_others(job, before), str(error)
                if made is not None:
                    return replace(made, computed=computed)
        raise plan.unfit_place(lost)

    def plan(self, job: Job) -> ShardPlan:
        """The shards of the work."""
        return ShardPlan(job.path, job.identity.key(), self.schema, tuple(self.image_ids), self.shard_images)

    def seats(self, context: Context) -> tuple[Seat, ...]:
        """The processes that work."""
        return assign_seats(self.device, context.workers, gpus_for(self.device))

    def _merge(self, job: Job, plan: ShardPlan) -> MergeCount:
        if self.render is None:
            return merge_to_hdf5(job.context.ops, plan, job.attributes(), self.tables)
        return merge_to_bytes(job.context.ops, plan, self.render)

    @staticmethod
    def _made_by_others(job: Job, before: tuple[int, int] | None) -> MergeCount | None:
        """What another command made of the same work since the receipt had the stamp `before`; None if nothing."""
        if receipts.stamp(job.path) == before:
            return None
        state = assess(job.path, job.identity)
        if state.state is not State.FRESH or state.receipt is None:
            return None
        failed = tuple((item.image, item.reason) for item in state.receipt.failed)
        return MergeCount(state.receipt.images, failed)


def identify(product: Product, stage: Stage[Any], context: Context) -> receipts.Identity:
    """The identity of a product from its recipe and the digests of its inputs.

    Raises:
        UserError: an input is missing, incomplete, or belongs to another dataset.
    """
    return receipts.Identity(
        stage=stage.name,
        stage_version=stage.version,
        format=product.format_name,
        format_version=product.format_version,
        dataset=context.dataset,
        split=product.split,
        recipe_name=context.recipe_name,
        recipe=dict(product.recipe),
        seed=context.seed,
        inputs={
            **product.digests,
            **{name: _input_digest(name, path, context) for name, path in product.inputs.items()},
        },
    )


def _input_digest(name: str, path: Path, context: Context) -> receipts.InputDigest:
    record = receipts.read_receipt(path)
    relative = context.run.relative(path)
    if record is None:
        if (name in context.run.given or name == WEIGHTS_INPUT) and path.is_file():
            return receipts.InputDigest(path=relative, sha256=digest.of_file(path))
        state = "is not complete" if path.is_file() else "is missing"
        raise UserError(
            f"input {relative} {state}",
            where=str(context.run.root),
            remedy=f"Make it first: weaksam {name.partition('-')[0]} --dataset {context.dataset}",
        )
    if record.identity.dataset != context.dataset:
        raise UserError(
            f"belongs to dataset {record.identity.dataset!r}, not to {context.dataset!r}",
            where=str(path),
            remedy="Give --dataset or --run-dir that fit each other",
        )
    return receipts.InputDigest(path=relative, sha256=record.sha256)


def make_product(product: Product, stage: Stage[Any], context: Context) -> receipts.Receipt:
    """Make one product, or find that it is fresh.

    Raises:
        UserError: a missing input; an artifact of another recipe in its place, without `--overwrite`.
        IncompleteError: images failed and `--strict` was given; the artifact is written all the same.
        UnfinishedError: `--shard` was given, and the parts of others are not done yet.
    """
    identity = identify(product, stage, context)
    fresh = _settle(product, identity, context)
    if fresh is not None:
        return fresh
    context.ops.remove_stale_temporaries(product.path.parent)
    start = time.monotonic()
    count = product.make(Job(context, product.path, identity))
    seconds = time.monotonic() - start
    record = _finish(product, identity, context, count, seconds)
    _report(product, context, record, count)
    return record


def _settle(product: Product, identity: receipts.Identity, context: Context) -> receipts.Receipt | None:
    found = _assess(product.path, identity, context)
    name = context.run.relative(product.path)
    if found.state is State.FRESH and found.receipt is not None:
        if not _may_stay(product.path, found.receipt, context):
            return None
        _renew_timestamp(product)
        context.console.info(f"{name}: fresh, nothing to do", artifact=name, state="fresh")
        return found.receipt
    if found.state is State.STALE:
        why = "; ".join(found.reasons)
        if found.recipe_changed and not context.overwrite:
            raise UserError(
                f"was made with another recipe ({why})",
                where=str(product.path),
                remedy="Give --overwrite to replace it, or --variant NAME to keep both",
            )
        context.console.info(
            f"{name}: stale because {why}", artifact=name, state="stale", reasons=list(found.reasons)
        )
    return None


def _assess(path: Path, identity: receipts.Identity, context: Context) -> Freshness:
    """How the artifact stands; with `--overwrite` one whose receipt cannot be read is made again."""
    try:
        return assess(path, identity)
    except UserError as error:
        if not context.overwrite:
            raise
        context.console.warn(f"made again: {error.one_line()}")
        return Freshness(State.PARTIAL)


def _may_stay(path: Path, receipt: receipts.Receipt, context: Context) -> bool:
    """Whether a fresh artifact is kept: `--overwrite` makes a damaged one again, and one in which images failed.

    Raises:
        UserError: it is damaged, without `--overwrite`.
    """
    try:
        receipts.verify(path, receipt)
    except UserError as error:
        if not context.overwrite:
            raise
        context.console.warn(f"made again: {error.one_line()}")
        return False
    return not (context.overwrite and receipt.failed)


def _renew_timestamp(product: Product) -> None:
    """Make decides by time stamps: a fresh artifact that is older than an input (copied, checked out) is touched."""
    newest = max((path.stat().st_mtime_ns for path in product.inputs.values()), default=0)
    if product.path.stat().st_mtime_ns < newest:
        product.path.touch()


def _finish(
    product: Product, identity: receipts.Identity, context: Context, count: MergeCount, seconds: float
) -> receipts.Receipt:
    record = receipts.Receipt(
        receipt_version=receipts.RECEIPT_VERSION,
        artifact=product.path.name,
        sha256=digest.of_file(product.path),
        size=product.path.stat().st_size,
        key=identity.key(),
        identity=identity,
        program_version=__version__,
        images=count.images,
        failed=[receipts.Failure(image=image, reason=reason) for image, reason in count.failed],
        wall_seconds=round(seconds, 3),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    receipts.write_receipt(context.ops, product.path, record)
    remove_shards(context.ops, product.path)
    return record


def _usual_summary(record: receipts.Receipt, _: MergeCount) -> tuple[str, dict[str, Any]]:
    failed = f", {len(record.failed)} failed" if record.failed else ""
    return f"{record.images} images{failed}, {duration(record.wall_seconds)}", {}


def _report(product: Product, context: Context, record: receipts.Receipt, count: MergeCount) -> None:
    name = context.run.relative(product.path)
    text, fields = (product.summary or _usual_summary)(record, count)
    context.console.info(
        f"{name}: {text}",
        artifact=name,
        images=record.images,
        failed=len(record.failed),
        seconds=record.wall_seconds,
        **fields,
    )
    for failure in record.failed[:5]:
        context.console.warn(f"{failure.image}: {failure.reason}", image=failure.image)
    if len(record.failed) > 5:
        context.console.warn(f"... and {len(record.failed) - 5} more: weaksam inspect {product.path}")
    if record.failed and context.strict:
        raise IncompleteError(
            f"{len(record.failed)} of {record.images + len(record.failed)} images failed",
            where=str(product.path),
        )


def run_stage(stage: Stage[R], recipe: R, context: Context, splits: Sequence[str]) -> list[receipts.Receipt]:
    """Make every product of a stage for the given splits; those that `--shard` leaves unfinished have no receipt."""
    made = []
    for split in splits:
        for product in stage.products(recipe, context, split):
            try:
                made.append(make_product(product, stage, context))
            except UnfinishedError as unfinished:
                unfinished.report(context.run.relative(product.path), context.console)
                break
    return made


def preview(product: Product, stage: Stage[Any], context: Context) -> Freshness | UserError:
    """The state of a product without making it; a missing input comes back as the error that it would be."""
    try:
        return assess(product.path, identify(product, stage, context))
    except UserError as error:
        return error
