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

from weaksam_cli.cli.guard import guarded
from weaksam_cli.console import Console, Mode
from weaksam_cli.core.names import plain_word
from weaksam_cli.errors import UserError

if TYPE_CHECKING:
    from weaksam_cli.cli.settings import FileSettings
    from weaksam_cli.engine.context import Context

_RUN, _WORK, _SPEAK = "Which run", "How it runs", "How it speaks"


def _option(kind: Any, panel: str, *names: str, text: str, **more: Any) -> Any:
    """The annotation by which typer reads an option."""
    return Annotated[kind, typer.Option(*names, help=text, rich_help_panel=panel, **more)]


WeightsOption = Annotated[
    Path | None,
    typer.Option("--weights-dir", help="Folder with published weights.", rich_help_panel=_WORK),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON lines on stdout.", rich_help_panel=_SPEAK)]
_OPTIONS: Mapping[str, Any] = {
    "dataset": _option(
        str | None, _RUN, "--dataset", text="Name of the dataset (else WEAKSAM_DATASET, weaksam.toml, demo)."
    ),
    "split": _option(str | None, _RUN, "--split", text="Only this split; default: every split."),
    "run_dir": _option(Path | None, _RUN, "--run-dir", text="Folder of the run; default: runs/<dataset>."),
    "recipe": _option(str | None, _WORK, "--recipe", text="Name of a recipe, or a YAML file."),
    "overrides": _option(list[str] | None, _WORK, "--set", text="key=value: change the recipe (repeatable)."),
    "profile": _option(
        str | None, _WORK, "--profile", text="A recipe for every stage: auto, embedded, paper."
    ),
    "variant": _option(
        str | None, _RUN, "--variant", text="Write to <folder>@VARIANT, beside the plain output."
    ),
    "inputs": _option(
        list[str] | None,
        _RUN,
        "--input",
        text="stage=FILE: read this file in place of the stage's output.",
    ),
    "device": _option(str | None, _WORK, "--device", text="auto, cpu, cuda or cuda:N."),
    "workers": _option(
        int | None,
        _WORK,
        "--workers",
        text="Processes; 0: one for each core. Results are the same.",
        min=0,
    ),
    "shard": _option(
        str | None,
        _WORK,
        "--shard",
        text="Make part I of N only; other processes or machines make the others in the same folder.",
        metavar="I/N",
    ),
    "seed": _option(int | None, _WORK, "--seed", text="Seed of all randomness.", min=0),
    "weights_dir": WeightsOption,
    "fit": _option(
        bool,
        _WORK,
        "--fit",
        text="Train the network on the dataset in place of loading the recipe's weights.",
    ),
    "checkpoint_every": _option(
        int | None,
        _WORK,
        "--checkpoint-every",
        text="Iterations of a training between checkpoints.",
        min=1,
    ),
    "overwrite": _option(
        bool,
        _WORK,
        "--overwrite",
        text="Make again what has another recipe, is damaged, or lists failed images.",
    ),
    "allow_stale": _option(bool, _WORK, "--allow-stale", text="Read artifacts that are stale themselves."),
    "dry_run": _option(bool, _WORK, "--dry-run", text="Print the whole recipe and what would be done."),
    "strict": _option(bool, _WORK, "--strict", text="End with code 3 when any image failed."),
    "json": JsonOption,
    "quiet": _option(bool, _SPEAK, "--quiet", text="Nothing but warnings and errors."),
}
"""Field of `CommonOptions` -> how it is typed, in the order of `--help`."""


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


def taking(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the common options `names`, and end it as the README says (see `guarded`).

    It gets a `CommonOptions` and the console, then its own arguments. typer reads what a command takes from its signature,
    so a signature is made: the command's own arguments, then the options.
    """
    defaults = {field.name: field.default for field in fields(CommonOptions)}
    kind = inspect.Parameter.KEYWORD_ONLY
    common = [
        inspect.Parameter(
            name, kind, default=None if defaults[name] == () else defaults[name], annotation=annotation
        )
        for name, annotation in _OPTIONS.items()
        if name in names
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, _, *own = inspect.signature(command, eval_str=True).parameters.values()

        @wraps(command)
        def wrapper(**given: Any) -> None:
            rest = {parameter.name: given.pop(parameter.name) for parameter in own}
            lists = {name: tuple(given[name] or ()) for name in given if isinstance(defaults[name], tuple)}
            options = CommonOptions(**{**given, **lists})
            console = options.console()
            with guarded(console):
                command(options, console, **rest)

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
