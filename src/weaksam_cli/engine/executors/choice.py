"""The executor of a command, by its name and settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from weaksam_cli.core.settings import Lines, check_sizes, refusal
from weaksam_cli.engine.executors.task import Executor
from weaksam_cli.engine.methods import load_named
from weaksam_cli.engine.recipes import override

_OPTION = "--executor-set"


def choose_executor(name: str, settings: Sequence[str], workers: int) -> Executor:
    """The executor of a command.

    Args:
        name: of its module, or of an entry point of the group `weaksam.executors`.
        settings: `key=value` strings that change its `Options`, values in YAML.
        workers: how many the user wants; 0 for as many as the executor sees fit.

    Raises:
        UserError: there is no such executor, or settings that do not fit it.
    """
    fault = f"there is no executor {name!r}"
    module = load_named("engine.executors", "executors", name, fault, where="--executor")
    values: dict[str, object] = {}
    lines: Lines = {}
    for text in settings:
        override(values, lines, text, _OPTION)
    check_sizes(values, lines, Path(_OPTION))
    try:
        options = module.Options.model_validate(values)
    except ValidationError as error:
        raise refusal(Path(_OPTION), lines, module.Options, error) from error
    executor: Executor = module.executor(options, workers)
    return executor
