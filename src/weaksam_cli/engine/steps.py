"""Steps: each makes one artifact with an identity, when it is not fresh."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from weaksam_cli import __version__
from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts import receipt as receipts
from weaksam_cli.artifacts.computed import ComputedArtifact, Rows
from weaksam_cli.artifacts.reader import open_artifact
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.artifacts.shards import Outcome, check_place, remove_shards
from weaksam_cli.console import duration
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.unlabelled import DATASET
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.freshness import Freshness, Standing, State, file_digest
from weaksam_cli.engine.memory import peak_memory
from weaksam_cli.engine.processes import ALONE, Unwritten
from weaksam_cli.engine.publishing import Publisher
from weaksam_cli.engine.queue import UnfinishedError
from weaksam_cli.engine.sharded import ImageByImage
from weaksam_cli.engine.sharing import take_over
from weaksam_cli.engine.stages import Stage
from weaksam_cli.errors import IncompleteError, UserError

Summary = Callable[[receipts.Receipt, Outcome], tuple[str, dict[str, Any]]]
_SHOWN_FAILURES = 5
_WEIGHTS_INPUT = "weights"


@dataclass(frozen=True)
class Step:
    """What makes one artifact.

    Attributes:
        path: where it is written.
        schema: what it is.
        split: the split that it belongs to.
        settings: all that decides its contents besides inputs and seed: its dump is the artifact's identity, and `run` is to
            get nothing else of the recipe.
        inputs: name -> file that it is made from; every one must be there.
        run: writes it (atomically, under `Job.path`).
        title: a few words for the person who waits.
        given: name -> digest of inputs that are no files of ours (a dataset that was read).
        summary: the line that says what was made, with fields for JSON readers; None for the usual one.
        recipe: the whole recipe that the settings are a part of; empty where there is none.
        joint: all processes of the command take part in `run`; else the first one does it alone.
    """

    path: Path
    schema: Schema
    split: str
    settings: RecipeModel
    inputs: Mapping[str, Path]
    run: Callable[[Job], Outcome]
    title: str
    given: Mapping[str, receipts.InputDigest] = field(default_factory=dict)
    summary: Summary | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    joint: bool = False


def rows_of(step: Step, context: Context) -> Rows:
    """What a later step of the same stage reads of this one: its artifact, or what computes the rows of new images."""
    if context.unlabelled is None or step.split != context.unlabelled.name:
        return step.path
    return computed(step, context)


def computed(step: Step, context: Context) -> ComputedArtifact:
    """What computes the rows of a step that works image by image, in place of its artifact."""
    assert isinstance(step.run, ImageByImage)
    work = step.run.work(context)
    return ComputedArtifact(step.path, work.schema, work.image_ids, work.tables, work.predictor.open)


def identify(step: Step, stage: Stage, context: Context) -> receipts.Identity:
    """The identity of a step from its settings and the digests of its inputs.

    Raises:
        UserError: an input is missing, incomplete, or belongs to another dataset.
    """
    recorded = recorded_inputs(step.path)
    return receipts.Identity(
        stage=stage.name,
        stage_version=stage.version,
        format=step.schema.name,
        format_version=step.schema.version,
        dataset=context.dataset,
        split=step.split,
        recipe_name=context.recipe_name,
        recipe=step.settings.model_dump(mode="json"),
        seed=context.seed,
        inputs={
            **{name: item.model_copy(update={"file": False}) for name, item in step.given.items()},
            **{
                name: _input_digest(name, path, context, recorded.get(name))
                for name, path in step.inputs.items()
            },
        },
    )


def recorded_inputs(path: Path) -> Mapping[str, receipts.InputDigest]:
    """What an artifact was made from when it was made; nothing where that cannot be read."""
    try:
        receipt = receipts.read_receipt(path)
    except UserError:
        return {}
    return receipt.identity.inputs if receipt else {}


def _input_digest(
    name: str, path: Path, context: Context, recorded: receipts.InputDigest | None
) -> receipts.InputDigest:
    place = context.run.relative(path)
    record = receipts.read_receipt(path)
    if record is None:
        # Weights and files of the user have no receipt; what else lies in the run without one is half of an artifact.
        is_weights = name.partition("-")[0] == _WEIGHTS_INPUT
        if path.is_file() and (is_weights or Path(place).is_absolute()):
            return file_digest(path, place, recorded)
        state = "is not complete" if path.is_file() else "is missing"
        raise UserError(
            f"input {place} {state}",
            where=str(context.run.root),
            remedy=f"Make it first: weaksam {name.partition('-')[0]} --dataset {context.dataset}",
        )
    if record.identity.dataset not in (context.dataset, DATASET):
        raise UserError(
            f"belongs to dataset {record.identity.dataset!r}, not to {context.dataset!r}",
            where=str(path),
            remedy="Give --dataset or --run-dir that fit each other",
        )
    return receipts.InputDigest(path=place, sha256=record.sha256)


def make(step: Step, stage: Stage, context: Context) -> receipts.Receipt:
    """Make the artifact of one step, or find that it is fresh, or that another variant has made it.

    Raises:
        UserError: an input that is missing, or stale (without `allow_stale`); an artifact of another recipe in its place
            (without `overwrite`).
        IncompleteError: images failed and `strict` was given; the artifact is written all the same.
        UnfinishedError: `--shard` was given, and the parts of others are not done yet.
    """
    identity = identify(step, stage, context)
    _check_inputs(identity, context)
    fresh = _settle(step, identity, context)
    if fresh is not None:
        _check_failures(step, fresh, context)
        return fresh
    check_place(step.path)
    context.ops.remove_stale_temporaries(step.path.parent)
    start = time.monotonic()
    ops = Publisher(context.ops, step.path, identity.key(), context.overwrite)
    shared = None if context.overwrite else take_over(step.path, identity, context.run, ops)
    if shared is not None:
        return _share(step, *shared, context)
    if step.joint:
        context.processes.tell(joint=True)
    processes = context.processes if step.joint else ALONE
    with peak_memory() as peak:
        outcome = step.run(Job(replace(context, ops=ops, processes=processes), step.path, identity))
    record = _finish(step, identity, ops, outcome, time.monotonic() - start, peak())
    _report(step, context, record, outcome)
    _check_failures(step, record, context)
    return record


def attend(step: Step, stage: Stage, context: Context) -> receipts.Receipt:
    """What the other processes do while the first one makes a step: wait, and take part in what all of them make.

    Raises:
        UserError: the first one left no artifact.
    """
    while context.processes.told():
        step.run(Job(replace(context, ops=Unwritten()), step.path, identify(step, stage, context)))
    record = receipts.read_receipt(step.path)
    if record is None:
        raise UserError("is not there: do all machines see the same folder?", where=str(step.path))
    return record


def _share(step: Step, record: receipts.Receipt, source: Path, context: Context) -> receipts.Receipt:
    receipts.write_receipt(context.ops, step.path, record)
    remove_shards(context.ops, step.path)
    name, other = context.run.relative(step.path), context.run.relative(source)
    context.console.info(f"{name}: the same as {other}, shared", artifact=name, shared=other)
    _check_failures(step, record, context)
    return record


def _check_inputs(identity: receipts.Identity, context: Context) -> None:
    stale = Freshness(context.run.root).stale_inputs(identity)
    if not stale:
        return
    if not context.allow_stale:
        raise UserError(
            "; ".join(stale),
            where=str(context.run.root),
            remedy="Make it again first (weaksam status shows what), or go on with it: --allow-stale",
        )
    for line in stale:
        context.console.warn(f"{line}; read all the same, as --allow-stale says")


def _settle(step: Step, identity: receipts.Identity, context: Context) -> receipts.Receipt | None:
    found = _standing(step.path, identity, context)
    name = context.run.relative(step.path)
    if found.state is State.FRESH and found.receipt is not None:
        if not _may_stay(step, found.receipt, context):
            return None
        # A run that was killed when it had written the receipt left them.
        remove_shards(context.ops, step.path)
        context.console.info(f"{name}: fresh, nothing to do", artifact=name, state="fresh")
        return found.receipt
    if found.state is State.PARTIAL and step.path.suffix == ".h5":
        receipts.refuse_foreign(step.path, overwrite=context.overwrite)
    if found.state is State.STALE:
        why = "; ".join(found.reasons)
        if found.recipe_changed and not context.overwrite:
            raise UserError(
                f"was made with another recipe ({why})",
                where=str(step.path),
                remedy="Give --overwrite to replace it, or --variant NAME to keep both",
            )
        context.console.info(
            f"{name}: stale because {why}", artifact=name, state="stale", reasons=list(found.reasons)
        )
    return None


def _standing(path: Path, identity: receipts.Identity, context: Context) -> Standing:
    """How the artifact stands; with `overwrite` one whose receipt cannot be read is made again."""
    try:
        found = Freshness(context.run.root).of(path, identity)
    except UserError as error:
        if not context.overwrite:
            raise
        context.console.warn(f"made again: {error.one_line()}")
        return Standing(State.PARTIAL)
    receipt = found.receipt
    if context.allow_stale and receipt is not None and receipt.key == identity.key():
        return Standing(State.FRESH, receipt=receipt)
    return found


def _may_stay(step: Step, receipt: receipts.Receipt, context: Context) -> bool:
    """Whether a fresh artifact is kept: `overwrite` makes a damaged one again, and one in which images failed.

    Raises:
        UserError: it is damaged, without `overwrite`.
    """
    try:
        receipts.verify(step.path, receipt)
        if step.path.suffix == ".h5" and context.overwrite:
            with open_artifact(step.path, step.schema, verify=False) as artifact:
                artifact.check()
    except UserError as error:
        if not context.overwrite:
            raise
        context.console.warn(f"made again: {error.one_line()}")
        return False
    return not (context.overwrite and receipt.failed)


def _finish(
    step: Step,
    identity: receipts.Identity,
    ops: Publisher,
    outcome: Outcome,
    seconds: float,
    peak: int | None,
) -> receipts.Receipt:
    record = receipts.Receipt(
        receipt_version=receipts.RECEIPT_VERSION,
        artifact=step.path.name,
        sha256=ops.sha256 or digest.of_file(step.path),
        size=step.path.stat().st_size,
        key=identity.key(),
        identity=identity,
        recipe=dict(step.recipe),
        program_version=__version__,
        images=outcome.images,
        failed=[receipts.Failure(image=image, reason=reason) for image, reason in outcome.failed],
        left_out=[receipts.Failure(image=image, reason=reason) for image, reason in outcome.left_out],
        wall_seconds=round(seconds, 3),
        peak_bytes=peak,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    receipts.write_receipt(ops, step.path, record)
    remove_shards(ops, step.path)
    return record


def _usual_summary(record: receipts.Receipt, _: Outcome) -> tuple[str, dict[str, Any]]:
    failed = f", {len(record.failed)} failed" if record.failed else ""
    return f"{record.images} images{failed}, {duration(record.wall_seconds)}", {}


def _report(step: Step, context: Context, record: receipts.Receipt, outcome: Outcome) -> None:
    name = context.run.relative(step.path)
    text, fields = (step.summary or _usual_summary)(record, outcome)
    context.console.info(
        f"{name}: {text}",
        artifact=name,
        images=record.images,
        failed=len(record.failed),
        seconds=record.wall_seconds,
        **fields,
    )
    if record.left_out:
        images = len({item.image for item in record.left_out})
        what = f"{len(record.left_out)} objects of {images} images are left out"
        context.console.warn(f"{name}: {what}", left_out=len(record.left_out))
    for listed in (record.failed, record.left_out):
        for failure in listed[:_SHOWN_FAILURES]:
            context.console.warn(f"{failure.image}: {failure.reason}", image=failure.image)
        if len(listed) > _SHOWN_FAILURES:
            rest = len(listed) - _SHOWN_FAILURES
            context.console.warn(f"... and {rest} more: weaksam inspect {step.path}")


def _check_failures(step: Step, record: receipts.Receipt, context: Context) -> None:
    if (record.failed or record.left_out) and context.strict:
        what = f"{len(record.failed)} of {record.images + len(record.failed)} images failed"
        if record.left_out:
            what += f", {len(record.left_out)} objects are left out"
        raise IncompleteError(what, where=str(step.path))


def run_steps(
    steps_of: Callable[[str], Iterator[Step]], stage: Stage, context: Context, splits: Sequence[str]
) -> list[receipts.Receipt]:
    """Make every step of the given splits in order, each before the next is asked for.

    Those that `--shard` leaves unfinished have no receipt.
    """
    made = []
    for split in splits:
        for step in steps_of(split):
            try:
                made.append((make if context.processes.leads else attend)(step, stage, context))
                if context.processes.leads:
                    context.processes.tell(joint=False)
            except UnfinishedError as unfinished:
                unfinished.report(context.run.relative(step.path), context.console)
                break
    return made


def preview(step: Step, stage: Stage, context: Context) -> Standing | UserError:
    """How the artifact of a step stands, without making it; a missing input comes back as the error that it would be."""
    try:
        return Freshness(context.run.root).of(step.path, identify(step, stage, context))
    except UserError as error:
        return error
