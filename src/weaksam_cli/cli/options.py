"""Options that all commands share, and the context that they make."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weaksam_cli.console import Console, Mode
from weaksam_cli.core.names import plain_word
from weaksam_cli.errors import UserError

if TYPE_CHECKING:
    from weaksam_cli.cli.settings import FileSettings
    from weaksam_cli.engine.context import Context

_RUN, _WORK, _SPEAK = "Which run", "How it runs", "How it speaks"

DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Name of the dataset (else WEAKSAM_DATASET, weaksam.toml, demo).",
        rich_help_panel=_RUN,
    ),
]
SplitOption = Annotated[
    str | None, typer.Option("--split", help="Only this split; default: every split.", rich_help_panel=_RUN)
]
RunDirOption = Annotated[
    Path | None,
    typer.Option("--run-dir", help="Folder of the run; default: runs/<dataset>.", rich_help_panel=_RUN),
]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="Name of a recipe, or a YAML file.", rich_help_panel=_WORK)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value: change the recipe (repeatable).", rich_help_panel=_WORK),
]
ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", help="A recipe for every stage: auto, embedded, paper.", rich_help_panel=_WORK),
]
VariantOption = Annotated[
    str | None,
    typer.Option(
        "--variant", help="Write to <folder>@VARIANT, beside the plain output.", rich_help_panel=_RUN
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input", help="stage=FILE: read this file in place of the stage's output.", rich_help_panel=_RUN
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=_WORK)
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        help="Processes; 0: one for each core. Results are the same.",
        rich_help_panel=_WORK,
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, help="Seed of all randomness.", rich_help_panel=_WORK)
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights-dir", help="Folder with published weights.", rich_help_panel=_WORK)
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Make part I of N only; other processes or machines make the others in the same folder.",
        rich_help_panel=_WORK,
    ),
]
FitOption = Annotated[
    bool,
    typer.Option(
        "--fit",
        help="Train the network on the dataset in place of loading the recipe's weights.",
        rich_help_panel=_WORK,
    ),
]
CheckpointOption = Annotated[
    int | None,
    typer.Option(
        "--checkpoint-every",
        min=1,
        help="Iterations of a training between checkpoints.",
        rich_help_panel=_WORK,
    ),
]
StaleOption = Annotated[
    bool,
    typer.Option("--allow-stale", help="Read artifacts that are stale themselves.", rich_help_panel=_WORK),
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Make again what has another recipe, is damaged, or lists failed images.",
        rich_help_panel=_WORK,
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the whole recipe and what would be done.", rich_help_panel=_WORK),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="End with code 3 when any image failed.", rich_help_panel=_WORK)
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON lines on stdout.", rich_help_panel=_SPEAK)]
QuietOption = Annotated[
    bool, typer.Option("--quiet", help="Nothing but warnings and errors.", rich_help_panel=_SPEAK)
]


@dataclass(frozen=True)
class CommonOptions:
    """What was typed, before defaults are filled in."""

    dataset: str | None = None
    split: str | None = None
    run_dir: Path | None = None
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    profile: str | None = None
    variant: str | None = None
    inputs: tuple[str, ...] = ()
    device: str | None = None
    workers: int | None = None
    seed: int | None = None
    weights_dir: Path | None = None
    overwrite: bool = False
    dry_run: bool = False
    strict: bool = False
    json: bool = False
    quiet: bool = False
    shard: str | None = None
    fit: bool = False
    checkpoint_every: int | None = None
    allow_stale: bool = False

    def console(self) -> Console:
        """The sink in the mode that was asked for."""
        if self.json:
            return Console(Mode.JSON)
        return Console(Mode.QUIET if self.quiet else Mode.HUMAN)


_ANNOTATIONS: Mapping[str, Any] = {
    "dataset": DatasetOption,
    "split": SplitOption,
    "run_dir": RunDirOption,
    "recipe": RecipeOption,
    "overrides": SetOption,
    "profile": ProfileOption,
    "variant": VariantOption,
    "inputs": InputOption,
    "device": DeviceOption,
    "workers": WorkersOption,
    "shard": ShardOption,
    "seed": SeedOption,
    "weights_dir": WeightsOption,
    "fit": FitOption,
    "checkpoint_every": CheckpointOption,
    "allow_stale": StaleOption,
    "overwrite": OverwriteOption,
    "dry_run": DryRunOption,
    "strict": StrictOption,
    "json": JsonOption,
    "quiet": QuietOption,
}
"""Field of `CommonOptions` -> how it is typed, in the order of `--help`."""


def taking(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the common options `names`: it gets them as its first argument, a `CommonOptions`.

    typer reads what a command takes from its signature, so a signature is made: the command's own arguments, then these.
    """
    defaults = {field.name: field.default for field in fields(CommonOptions)}
    kind = inspect.Parameter.KEYWORD_ONLY
    common = [
        inspect.Parameter(
            name, kind, default=None if defaults[name] == () else defaults[name], annotation=annotation
        )
        for name, annotation in _ANNOTATIONS.items()
        if name in names
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()

        @wraps(command)
        def wrapper(**given: Any) -> None:
            rest = {parameter.name: given.pop(parameter.name) for parameter in own}
            lists = {name: tuple(given[name] or ()) for name in given if isinstance(defaults[name], tuple)}
            command(CommonOptions(**{**given, **lists}), **rest)

        keyword_only = [parameter.replace(kind=kind) for parameter in own]
        wrapper.__signature__ = inspect.Signature([*keyword_only, *common])  # type: ignore[attr-defined]
        return wrapper

    return decorate


def read_file_settings() -> FileSettings:
    """`weaksam.toml` of the working folder."""
    from weaksam_cli.cli.settings import read_settings

    return read_settings(Path())


def build_context(options: CommonOptions, stage: str | None, console: Console) -> Context:
    """Fill in defaults from the environment and `weaksam.toml`.

    Raises:
        UserError: for values that cannot be.
    """
    from weaksam_cli.artifacts.fsops import FileOps
    from weaksam_cli.cli.settings import resolve_dataset
    from weaksam_cli.engine.context import Context
    from weaksam_cli.engine.execution import available_cores
    from weaksam_cli.engine.queue import Part
    from weaksam_cli.engine.runs import RunDirectory
    from weaksam_cli.models.weights.catalogue import WeightsFinder, default_folders

    environment = dict(os.environ)
    settings = read_file_settings()
    dataset = resolve_dataset(options.dataset, environment, settings)
    root = options.run_dir or Path(settings.run_dir or "runs") / ("" if settings.run_dir else dataset)
    if options.split is not None:
        plain_word(options.split, "split", where="--split")
    if options.variant is not None:
        plain_word(options.variant, "variant", where="--variant")
    variants = {stage: options.variant} if stage and options.variant else {}
    weights_dir = options.weights_dir or (Path(settings.weights_dir) if settings.weights_dir else None)
    workers = options.workers if options.workers is not None else settings.workers or 0
    seed = options.seed if options.seed is not None else settings.seed or 0
    return Context(
        dataset=dataset,
        run=RunDirectory(root, variants, _given_inputs(options.inputs)),
        console=console,
        ops=FileOps(),
        weights=WeightsFinder(default_folders(weights_dir, environment)),
        device=_device(options.device or settings.device or "auto"),
        workers=workers or available_cores(),
        seed=seed,
        checkpoint_every=options.checkpoint_every or Context.checkpoint_every,
        overwrite=options.overwrite,
        allow_stale=options.allow_stale,
        strict=options.strict,
        share=Part.parse(options.shard) if options.shard is not None else None,
    )


def chosen_profile(options: CommonOptions) -> str:
    """`--profile`, else WEAKSAM_PROFILE, else weaksam.toml, else `auto`."""
    return options.profile or os.environ.get("WEAKSAM_PROFILE") or read_file_settings().profile or "auto"


def _given_inputs(texts: tuple[str, ...]) -> dict[str, Path]:
    from weaksam_cli.engine.stages import STAGE_NAMES

    given = {}
    for text in texts:
        stage, equals, path = text.partition("=")
        if not equals or stage not in STAGE_NAMES[:-1]:
            raise UserError(
                f"expected stage=FILE, got {text!r}",
                where="--input",
                remedy=f"Stages: {', '.join(STAGE_NAMES[:-1])}",
            )
        if not Path(path).is_file():
            raise UserError("there is no such file", where=f"--input {text}")
        given[stage] = Path(path)
    return given


def _device(name: str) -> str:
    plain = name in ("auto", "cpu", "cuda")
    if not plain and not (name.startswith("cuda:") and name[5:].isdigit()):
        raise UserError(
            f"there is no device {name!r}", where="--device", remedy="Allowed: auto, cpu, cuda, cuda:N"
        )
    return name
