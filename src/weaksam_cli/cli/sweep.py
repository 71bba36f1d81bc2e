"""`weaksam sweep STAGE`: variants of a stage over a grid of settings and seeds, measured in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.cli.doctor import preflight
from weaksam_cli.cli.options import CommonOptions, build_context, chosen_profile, for_stages, stage_changes
from weaksam_cli.cli.run import splits_of
from weaksam_cli.console import Console, Mode
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.profiles import choose_profile
from weaksam_cli.engine.recipes import LoadedRecipe, load_recipe
from weaksam_cli.engine.stages import STAGE_NAMES, load_stage
from weaksam_cli.engine.steps import preview, run_steps
from weaksam_cli.engine.sweeps import Point, parse_grid, parse_seeds, sweep_points
from weaksam_cli.errors import UserError, unknown
from weaksam_cli.eval.results import MetricRow, read_results
from weaksam_cli.report.spread import COLUMNS, Setting, as_csv, as_json, by_setting, table

_EVAL = STAGE_NAMES[-1]
_STAGES = STAGE_NAMES[1:-1]


@dataclass(frozen=True)
class Sweep:
    """What is done: a sweep, or a leaderboard.

    Attributes:
        context: of the command, with the variant that the sweep stands on.
        stages: those that each variant has of its own, in order.
        recipes: of the stages after the first, and of `eval`.
        points: the variants.
        splits: whose figures are told.
        title: what it is called.
        remarks: lines below the tables.
    """

    title: ClassVar[str] = "sweep"
    remarks: ClassVar[tuple[str, ...]] = ()
    context: Context
    stages: tuple[str, ...]
    recipes: Mapping[str, LoadedRecipe]
    points: Sequence[Point]
    splits: tuple[str, ...]

    def of(self, point: Point, stage: str) -> tuple[Context, LoadedRecipe]:
        """What one stage of one variant is told."""
        recipe, run = point.recipe if stage == self.stages[0] else self.recipes[stage], self.context.run
        for name in self.stages:
            run = run.with_variant(name, point.variant)
        return replace(self.context, run=run, seed=point.seed, recipe_name=recipe.name), recipe

    def splits_of(self, stage: str) -> list[str]:
        """Those that a stage works on: the last one makes what is asked for; others also what is learnt from."""
        train, wanted = self.context.train_split(), [*self.splits]
        if load_stage(stage).train_only:
            return [train]
        return wanted if stage == self.stages[-1] or train in wanted else [train, *wanted]

    def figures(self, made: Sequence[Point]) -> dict[str, list[tuple[str, MetricRow]]]:
        """Variant -> split and row of `eval`, of the swept stages."""
        found: dict[str, list[tuple[str, MetricRow]]] = {point.variant: [] for point in made}
        told = {*self.stages, "both"} if "retrain" in self.stages else {*self.stages}
        for split in self.splits:
            for row in read_results(self.context.run.output(_EVAL, split)).metrics:
                if row.stage in told and row.variant in found:
                    found[row.variant].append((split, row))
        return found

    def table(self, settings: Sequence[Setting], split: str) -> tuple[list[str], list[list[str]]]:
        """Header and rows of a split, for people."""
        return table(settings, split)

    def keep(self, settings: Sequence[Setting]) -> None:
        """Leave in the run what belongs there besides the variants."""


def sweep(
    options: CommonOptions,
    console: Console,
    *,
    stage: str,
    grid: Sequence[str] | None,
    seeds: str | None,
    until: str | None,
    recipes: Sequence[str] | None,
    overrides: Sequence[str] | None,
    variant: str | None,
    output: Path | None,
) -> list[Setting]:
    """Make the variants that are not fresh, evaluate the run, and print mean and spread.

    Returns:
        The figures, a setting an entry; none in a dry run.

    Raises:
        UserError: something that was typed cannot be, which is said before anything runs; or what the stages raise. A
            variant that fails when others were made is left out, and what it raised is raised in the end.
    """
    if not grid and seeds is None:
        remedy = "Such as --grid roi_drop.tau_reg=0.8,1.0,1.2 --seeds 0,1,2"
        raise UserError("expected --grid, --seeds or both", where="weaksam sweep", remedy=remedy)
    stages, values = _stages(stage, until), parse_grid(grid or ())
    context = build_context(replace(options, variant=variant), None, console)
    profile, _ = choose_profile(chosen_profile(options), context.weights)
    names = profile.recipes | dict(for_stages(recipes or (), "stage=NAME", "--recipe", *stages, _EVAL))
    changes = stage_changes(overrides, (*stages, _EVAL))
    every = parse_seeds(seeds, context.seed)
    points = sweep_points(stage, names[stage], changes[stage], values, every, variant or "")
    loaded = {name: load_recipe(name, names[name], changes[name]) for name in (*stages[1:], _EVAL)}
    plan = Sweep(context, stages, loaded, points, tuple(splits_of(load_stage(stages[-1]), options, context)))
    return carry_out(plan, options, output)


def carry_out(plan: Sweep, options: CommonOptions, output: Path | None) -> list[Setting]:
    """Make, evaluate and show what is planned; see `sweep`."""
    if output is not None:
        _refuse_foreign(output, overwrite=options.overwrite)
    count, console = len(plan.points), plan.context.console
    head = f"{plan.title}: {count} variant{'' if count == 1 else 's'} of {', '.join(plan.stages)}, then eval"
    console.info(head, variants=[point.variant for point in plan.points])
    if options.dry_run:
        _describe(plan)
        return []
    preflight(plan.context)
    made, fault = _make_all(plan)
    _evaluate(plan)
    settings = by_setting(plan.points, plan.figures(made))
    _show(plan, settings, output)
    if fault is not None:
        raise fault
    return settings


def _stages(first: str, until: str | None) -> tuple[str, ...]:
    if first not in _STAGES:
        raise unknown(f"{first!r} is no stage that can be swept", first, _STAGES, where="weaksam sweep")
    later = _STAGES[_STAGES.index(first) :]
    if until is not None and until not in later:
        raise unknown(f"{until!r} is not {first} or a stage after it", until, later, where="--until")
    return later[: later.index(until or first) + 1]


def _describe(plan: Sweep) -> None:
    """What would be done, an artifact a line."""
    rows = []
    for point in plan.points:
        for name in plan.stages:
            stage = load_stage(name)
            context, recipe = plan.of(point, name)
            for split in plan.splits_of(name):
                for step in recipe.steps(context, split):
                    found = preview(step, stage, context)
                    state = "waits" if isinstance(found, UserError) else found.state.value
                    rows.append([context.run.relative(step.path), point.in_words(), state])
    plan.context.console.table("what would be done", ["artifact", "setting", "state"], rows)


def _make_all(plan: Sweep) -> tuple[list[Point], UserError | None]:
    """The variants that are there in the end, and the last fault of those that are not."""
    made: list[Point] = []
    fault, console = None, plan.context.console
    for number, point in enumerate(plan.points, 1):
        head = f"[{number}/{len(plan.points)}] {point.variant}"
        console.info(f"{head}: {point.in_words()}", variant=point.variant)
        try:
            for name in plan.stages:
                context, recipe = plan.of(point, name)
                run_steps(partial(recipe.steps, context), load_stage(name), context, plan.splits_of(name))
            made.append(point)
        except UserError as error:
            if not made:  # as likely as not a fault of all
                raise
            console.warn(f"{head} is left out: {error.one_line()}", variant=point.variant)
            fault = error
    return made, fault


def _evaluate(plan: Sweep) -> None:
    """Measure the whole run, whose table of all artifacts would hide that of the sweep; under the seed that earlier figures
    of the run have, which are replaced."""
    recipe, context = plan.recipes[_EVAL], replace(plan.context, console=Console(Mode.QUIET))
    for split in plan.splits:
        record = read_receipt(context.run.output(_EVAL, split))
        own = replace(context, recipe_name=recipe.name, seed=record.identity.seed if record else context.seed)
        run_steps(partial(recipe.steps, own), load_stage(_EVAL), own, [split])


def _show(plan: Sweep, settings: Sequence[Setting], output: Path | None) -> None:
    console = plan.context.console
    for split in plan.splits:
        title = f"{plan.context.dataset} {split}: mean ± standard deviation over seeds, shares in percent"
        console.table(title, *plan.table(settings, split))
    for line in plan.remarks:
        console.info(line)
    plan.keep(settings)
    if output is not None:
        FileOps().write_atomically(output, as_csv(settings).encode())
        console.info(f"written: {output}", output=str(output))
    console.result(
        "every metric of every seed: --output FILE.csv, or --json", **{plan.title: as_json(settings)}
    )


def _refuse_foreign(path: Path, *, overwrite: bool) -> None:
    """A table of an earlier sweep is replaced; what else stands there is not."""
    if overwrite or not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        if COLUMNS not in file.readline():
            remedy = "Give another name, or --overwrite"
            raise UserError("this is no table of a sweep", where=str(path), remedy=remedy)
