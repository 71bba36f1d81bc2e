"""Variants of a whole run: which stages have artifacts of their own, and which share the plain ones.

A command with `--variant NAME` writes to `<folder>@NAME`, and reads of every earlier stage the artifacts of that variant
where there are some, else the plain ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from weaksam_cli.engine.context import Context
from weaksam_cli.engine.freshness import Standing, State
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.stages import STAGE_NAMES, Stage
from weaksam_cli.engine.steps import Step, preview
from weaksam_cli.errors import UserError


def run_of_variant(
    variant: str,
    stage: Stage,
    steps_of: Callable[[str], Iterator[Step]],
    context: Context,
    splits: Sequence[str],
    *,
    is_changed: bool,
) -> RunDirectory:
    """The run as a variant of all of it makes one stage: in a folder of its own, or in the plain one, which it shares.

    It has its own from the first stage on whose plain artifacts are of another recipe or seed, or whose recipe the command
    changes where the plain ones are not what it would make. It keeps a folder that it has, because that is what its later
    stages read. The last stage sets all variants side by side, so it does not follow the others.

    Args:
        variant: its name.
        stage: the stage that comes next; `context.run` has the variants of those before.
        steps_of: the steps of its recipe for a split.
        context: of the command.
        splits: that the stage works on.
        is_changed: the command names a recipe for this stage, or changes it.
    """
    run, place = context.run, STAGE_NAMES.index(stage.name)
    own = run.with_variant(stage.name, variant)
    if stage.name in run.variants:
        return run
    if stage.name == STAGE_NAMES[-1]:
        return own if is_changed else run
    if any(name in run.variants for name in STAGE_NAMES[:place]):
        return own
    found = [item for split in splits for item in _standings(steps_of, split, stage, context)]
    if any(isinstance(item, Standing) and item.recipe_changed for item in found):
        return own
    is_shared = all(isinstance(item, Standing) and item.state is State.FRESH for item in found)
    return own if is_changed and not is_shared else run


def _standings(
    steps_of: Callable[[str], Iterator[Step]], split: str, stage: Stage, context: Context
) -> Iterator[Standing | UserError]:
    try:
        for step in steps_of(split):
            yield preview(step, stage, context)
    except UserError as error:  # weights that are missing, which is said when the stage runs
        yield error
