"""Options that all commands share, and the context that they make."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from typer import Option

from weaksam_cli.cli.guard import guarded
from weaksam_cli.console import Console, Mode
from weaksam_cli.core.names import plain_word
from weaksam_cli.errors import UserError, suggestion

if TYPE_CHECKING:
    from weaksam_cli.engine.context import Context

PLAIN: dict[str, Any] = {
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
"""Of every group of commands."""


@dataclass(frozen=True)
class CommonOptions:
    """What was typed, before defaults are filled in; the order is that of `--help`."""

    dataset: Annotated[
        str | None,
        Option("--dataset", help="Name of the dataset (else WEAKSAM_DATASET, weaksam.toml, demo)."),
    ] = None
    split: Annotated[str | None, Option("--split", help="Only this split; default: every split.")] = None
    run_dir: Annotated[
        Path | None, Option("--run-dir", help="Folder of the run; default: runs/<dataset>.")
    ] = None
    recipe: Annotated[str | None, Option("--recipe", help="Name of a recipe, or a YAML file.")] = None
    overrides: Annotated[list[str], Option("--set", help="key=value: change the recipe (repeatable).")] = (
        field(default_factory=list)
    )
    profile: Annotated[
        str | None, Option("--profile", help="A recipe for every stage: auto, embedded, paper.")
    ] = None
    variant: Annotated[
        str | None, Option("--variant", help="Write to <folder>@VARIANT, beside the plain output.")
    ] = None
    inputs: Annotated[
        list[str], Option("--input", help="stage=FILE: read this file in place of the stage's output.")
    ] = field(default_factory=list)
    device: Annotated[str | None, Option("--device", help="auto, cpu, cuda or cuda:N.")] = None
    workers: Annotated[
        int | None,
        Option("--workers", help="Processes; 0: one for each core. Results are the same.", min=0, max=1024),
    ] = None
    gpus: Annotated[
        int,
        Option(
            "--gpus",
            min=1,
            max=1024,
            help="Processes that train together, a GPU each (torchrun: on several machines).",
        ),
    ] = 1
    shard: Annotated[
        str | None,
        Option(
            "--shard", metavar="I/N",
            help="Make part I of N only; other processes or machines make the others in the same folder.",
        ),
    ] = None  # fmt: skip
    executor: Annotated[
        str | None,
        Option("--executor", help="Who works image by image: local (processes; the default), ray, slurm."),
    ] = None
    executor_settings: Annotated[
        list[str],
        Option("--executor-set", metavar="KEY=VALUE", help="A setting of the executor (repeatable)."),
    ] = field(default_factory=list)
    seed: Annotated[int | None, Option("--seed", help="Seed of all randomness.", min=0, max=2**63 - 1)] = None
    weights_dir: Annotated[Path | None, Option("--weights-dir", help="Folder with published weights.")] = None
    fit: Annotated[
        bool,
        Option("--fit", help="Train the network on the dataset in place of loading the recipe's weights."),
    ] = False
    masks: Annotated[
        bool,
        Option("--masks", help="Masks, too: the boxes, or --input boxes=FILE, prompt a segmenter."),
    ] = False
    per_class: Annotated[bool, Option("--per-class", help="Print the figures of each class, too.")] = False
    checkpoint_every: Annotated[
        int | None, Option("--checkpoint-every", help="Iterations of a training between checkpoints.", min=1)
    ] = None
    tensorboard: Annotated[
        Path | None,
        Option("--tensorboard", help="Folder for the curves of trainings, as TensorBoard reads them."),
    ] = None
    overwrite: Annotated[
        bool,
        Option("--overwrite", help="Make again what has another recipe, is damaged, or lists failed images."),
    ] = False
    allow_stale: Annotated[
        bool, Option("--allow-stale", help="Read artifacts that are stale themselves.")
    ] = False
    dry_run: Annotated[bool, Option("--dry-run", help="Print the whole recipe and what would be done.")] = (
        False
    )
    strict: Annotated[bool, Option("--strict", help="End with code 3 when any image failed.")] = False
    json: Annotated[bool, Option("--json", help="JSON lines on stdout.")] = False
    quiet: Annotated[bool, Option("--quiet", help="Nothing but warnings and errors.")] = False

    def console(self) -> Console:
        """The sink in the mode that was asked for."""
        if self.json:
            return Console(Mode.JSON)
        return Console(Mode.QUIET if self.quiet else Mode.HUMAN)


def declare(
    register: Callable[[Callable[..., None]], Any], *names: str, work: str, **fixed: Any
) -> Callable[[Callable[..., None]], None]:
    """Declare a command: the decorated function's signature has its own arguments, its docstring the help.

    typer reads what a command takes from its signature, so one is made of these arguments and the common options. How the
    command ends is said in docs/troubleshooting.md (see `guarded`).

    Args:
        register: typer's decorator.
        names: fields of `CommonOptions` that it takes beside its own arguments.
        work: `module:function` of this package, imported when the command is called; it gets a `CommonOptions`, the console,
            `fixed` and the command's own arguments.
        fixed: further arguments of `work`.
    """
    kind = inspect.Parameter.KEYWORD_ONLY
    defaults, module, function = CommonOptions(), *work.split(":")
    common = [
        inspect.Parameter(name, kind, default=getattr(defaults, name), annotation=annotation)
        for name, annotation in get_type_hints(CommonOptions, include_extras=True).items()
        if name in names
    ]

    def decorate(declaration: Callable[..., None]) -> None:
        @wraps(declaration)
        def command(**given: Any) -> None:
            options = CommonOptions(**{name: given.pop(name) for name in names})
            console = options.console()
            with guarded(console):
                _share_out(options, takes_several="gpus" in names)
                called = getattr(import_module(f"{__package__}.{module}"), function)
                called(options, console, **fixed, **given)

        own = inspect.signature(declaration, eval_str=True).parameters.values()
        parameters = [*(parameter.replace(kind=kind) for parameter in own), *common]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        register(command)

    return decorate


def _share_out(options: CommonOptions, *, takes_several: bool) -> None:
    """Run the command in several processes where that was asked for, and end as they do; a dry run needs one alone.

    Raises:
        UserError: torchrun started several of a command that is none for several.
    """
    from weaksam_cli.engine.processes import is_started, start

    if is_started():
        if not takes_several:
            remedy = "Under torchrun: cam, wsod, retrain, all"
            raise UserError("this command works in one process", where="WORLD_SIZE", remedy=remedy)
        if options.dry_run and os.environ["RANK"] != "0":
            sys.exit()
    elif options.gpus > 1 and not options.dry_run:
        sys.exit(start(options.gpus, sys.argv[1:]))


def build_context(options: CommonOptions, stage: str | None, console: Console) -> Context:
    """Fill in defaults: command line, then environment, then `weaksam.toml`, then built in.

    Raises:
        UserError: for values that cannot be.
    """
    from weaksam_cli.artifacts.fsops import FileOps
    from weaksam_cli.cli.settings import SETTINGS_FILE, read_settings
    from weaksam_cli.engine.context import Context
    from weaksam_cli.engine.executors.choice import choose_executor
    from weaksam_cli.engine.predictors import available_cores
    from weaksam_cli.engine.processes import ALONE, device_of, join, silent
    from weaksam_cli.engine.queue import Part
    from weaksam_cli.engine.runs import RunDirectory
    from weaksam_cli.models.weights.catalogue import WeightsFinder

    settings = read_settings()
    named = {"--dataset": options.dataset, "WEAKSAM_DATASET": os.environ.get("WEAKSAM_DATASET")}
    named |= {str(SETTINGS_FILE): settings.dataset, "default": "demo"}
    where, dataset = next((place, name) for place, name in named.items() if name is not None)
    plain_word(dataset, "dataset", where=where)
    root = options.run_dir or Path(settings.run_dir or "runs") / ("" if settings.run_dir else dataset)
    for what, word in (("split", options.split), ("variant", options.variant)):
        if word is not None:
            plain_word(word, what, where=f"--{what}")
    weights_dir = options.weights_dir or (Path(settings.weights_dir) if settings.weights_dir else None)
    workers = options.workers if options.workers is not None else settings.workers or 0
    executor = options.executor or settings.executor or "local"
    executor_settings = [*settings.executor_settings.get(executor, ()), *options.executor_settings]
    seed = options.seed if options.seed is not None else settings.seed or 0
    run = RunDirectory(root, given=_given_inputs(options.inputs))
    if options.variant:
        run = run.read_as(options.variant)
    if options.variant and stage:
        run = run.with_variant(stage, options.variant)
    device = _device(options.device or settings.device or "auto")
    processes = ALONE if options.dry_run else join(device)
    return Context(
        dataset=dataset,
        run=run,
        console=console if processes.leads else silent(),
        ops=FileOps(),
        weights=WeightsFinder.of_environment(weights_dir, os.environ),
        device=device_of(device, processes),
        processes=processes,
        workers=workers or available_cores(),
        seed=seed,
        checkpoint_every=options.checkpoint_every or Context.checkpoint_every,
        tensorboard=options.tensorboard,
        overwrite=options.overwrite,
        allow_stale=options.allow_stale,
        strict=options.strict,
        executor=choose_executor(executor, executor_settings, workers),
        part=Part.parse(options.shard) if options.shard is not None else None,
    )


def chosen_profile(options: CommonOptions) -> str:
    """`--profile`, else WEAKSAM_PROFILE, else weaksam.toml, else `auto`."""
    from weaksam_cli.cli.settings import read_settings

    return options.profile or os.environ.get("WEAKSAM_PROFILE") or read_settings().profile or "auto"


def for_stages(texts: Sequence[str], form: str, option: str, *stages: str) -> list[tuple[str, str]]:
    """What was typed about single stages, as (stage, what follows).

    Args:
        texts: the values of the option.
        form: what is expected of them, such as `stage=FILE` or `stage.key=value`.
        option: its name, for the message.
        stages: those that it may be about.

    Raises:
        UserError: a value of another form, or about no such stage.
    """
    found = []
    for text in texts:
        stage, separator, rest = text.partition(form[len("stage")])
        if not separator or stage not in stages:
            what = f"expected {form}, got {text[:200]!r}{suggestion(stage[:80], stages)}"
            raise UserError(what, where=option, remedy=f"Stages: {', '.join(stages)}")
        found.append((stage, rest))
    return found


def stage_changes(texts: Sequence[str] | None, stages: Sequence[str]) -> dict[str, list[str]]:
    """`--set stage.key=value` of a command for several stages: stage -> its `key=value`, an entry for each of `stages`.

    Raises:
        UserError: a value of another form, or about no such stage.
    """
    changes: dict[str, list[str]] = {name: [] for name in stages}
    for name, text in for_stages(texts or (), "stage.key=value", "--set", *stages):
        changes[name].append(text)
    return changes


def _given_inputs(texts: Sequence[str]) -> dict[str, Path]:
    from weaksam_cli.engine.runs import BOXES_INPUT
    from weaksam_cli.engine.stages import STAGE_NAMES

    given = {}
    for stage, path in for_stages(texts, "stage=FILE", "--input", *STAGE_NAMES[:-1], BOXES_INPUT):
        if not Path(path).is_file():
            raise UserError("there is no such file", where=f"--input {stage}={path}")
        given[stage] = Path(path)
    return given


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name, re.ASCII):
        remedy = "Allowed: auto, cpu, cuda, cuda:N"
        raise UserError(f"there is no device {name!r}", where="--device", remedy=remedy)
    return name
