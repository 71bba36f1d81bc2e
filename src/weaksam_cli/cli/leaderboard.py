"""`weaksam leaderboard`: methods of `wsod` over proposals of several recipes, with several seeds, in one table.

It is a sweep over names of recipes. Proposals of a recipe are made once, RoI features of a frozen network once a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final

from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.cli.options import CommonOptions, build_context, chosen_profile, stage_changes
from weaksam_cli.cli.run import splits_of
from weaksam_cli.cli.sweep import Sweep, carry_out
from weaksam_cli.console import Console
from weaksam_cli.core.names import first_twice
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.profiles import choose_profile
from weaksam_cli.engine.recipes import LoadedRecipe, load_recipe, recipe_names
from weaksam_cli.engine.stages import load_stage
from weaksam_cli.engine.sweeps import Point, parse_seeds
from weaksam_cli.errors import UserError, unknown
from weaksam_cli.eval.report import named
from weaksam_cli.eval.results import MetricRow
from weaksam_cli.report.board import FOLDER, Board, write_board
from weaksam_cli.report.published import CONDITIONS, CORLOC
from weaksam_cli.report.spread import Setting, as_json

_STAGES: Final = ("propose", "wsod")
_USUAL: Final = "-lite0"
_TOLD: Final = ("CorLoc", "VOC AP50")
_MINUTES, _MEMORY = "training minutes", "training peak GB"


@dataclass(frozen=True)
class Leaderboard(Sweep):
    """What is done.

    Attributes:
        proposals: name -> recipe of `propose`.
    """

    title: ClassVar[str] = "leaderboard"
    remarks: ClassVar[tuple[str, ...]] = (CONDITIONS,)
    proposals: Mapping[str, LoadedRecipe]

    def of(self, point: Point, stage: str) -> tuple[Context, LoadedRecipe]:
        """What one stage of one variant is told: proposals are a variant of their own, with the run's seed."""
        source = point.settings["proposals"]
        run = self.context.run.with_variant("propose", source)
        if stage == "propose":
            recipe = self.proposals[source]
            return replace(self.context, run=run, recipe_name=recipe.name), recipe
        run = run.with_variant("wsod", point.variant)
        return replace(self.context, run=run, seed=point.seed, recipe_name=point.recipe.name), point.recipe

    def figures(self, made: Sequence[Point]) -> dict[str, list[tuple[str, MetricRow]]]:
        """Variant -> its figures that a table has room for, and what the training of its detector took."""
        found = {}
        for variant, rows in super().figures(made).items():
            own = [(split, row) for split, row in rows if named(row.name)[0] in _TOLD]
            folder = self.context.run.with_variant("wsod", variant).folder("wsod")
            receipt = read_receipt(folder / "model.safetensors")
            if receipt is not None:
                minutes = receipt.wall_seconds / 60
                memory = None if receipt.peak_bytes is None else receipt.peak_bytes / 1e9
                costs = {_MINUTES: minutes, _MEMORY: memory}
                own += [
                    (split, MetricRow(stage="wsod", variant=variant, name=name, value=value, share=False))
                    for split in self.splits
                    for name, value in costs.items()
                ]
            found[variant] = own
        return found

    def table(self, settings: Sequence[Setting], split: str) -> tuple[list[str], list[list[str]]]:
        """With the published CorLoc of each method in the last column."""
        methods = {point.settings["method"]: point.recipe.resolved()["method"] for point in self.points}
        header, rows = super().table(settings, split)
        return [*header, "published CorLoc"], [[*row, CORLOC.get(methods[row[0]], "-")] for row in rows]

    def keep(self, settings: Sequence[Setting]) -> None:
        """Tables and plots, which `report` shows."""
        folder, context = self.context.run.root / FOLDER, self.context
        for split in self.splits:
            header, rows = self.table(settings, split)
            board = Board(
                split=split,
                header=header,
                rows=rows,
                remarks=[*self.remarks],
                settings=as_json(settings, split),
            )
            plot = write_board(folder, board, settings, context.ops)
            context.console.info(f"drawn: {plot}", plot=str(plot))


def leaderboard(
    options: CommonOptions,
    console: Console,
    *,
    methods: str | None,
    proposals: str | None,
    seeds: str | None,
    overrides: Sequence[str] | None,
    output: Path | None,
) -> list[Setting]:
    """Make what is not fresh, evaluate the run, and print one table.

    Returns:
        The figures, an entry for a method over proposals; none in a dry run.

    Raises:
        UserError: something that was typed cannot be, which is said before anything runs; or what the stages raise, as
            with `sweep`.
    """
    context = build_context(options, None, console)
    profile, _ = choose_profile(chosen_profile(options), context.weights)
    changes = stage_changes(overrides, (*_STAGES, "eval"))
    usual = [name for name in recipe_names("wsod") if name.endswith(_USUAL)]
    chosen = _names("wsod", methods, usual, "--methods")
    sources = _names("propose", proposals, [profile.recipes["propose"]], "--proposals")
    every = parse_seeds(seeds, context.seed)
    recipes = {name: load_recipe("wsod", name, changes["wsod"]) for name in chosen}
    plan = Leaderboard(
        context=context,
        stages=_STAGES,
        recipes={"eval": load_recipe("eval", profile.recipes["eval"], changes["eval"])},
        points=[
            Point({"method": name, "proposals": source}, seed, recipes[name], f"{name}_{source}_s{seed}")
            for seed in every
            for source in sources
            for name in chosen
        ],
        splits=tuple(splits_of(load_stage("wsod"), options, context)),
        proposals={name: load_recipe("propose", name, changes["propose"]) for name in sources},
    )
    return carry_out(plan, options, output)


def _names(stage: str, text: str | None, usual: Sequence[str], option: str) -> list[str]:
    """Names of recipes, as `a,b`."""
    found = [*usual] if text is None else [name.strip() for name in text.split(",")]
    known = recipe_names(stage)
    for name in found:
        if name not in known:
            raise unknown(f"{name!r} is no recipe of {stage}", name, known, where=option)
    if (twice := first_twice(found)) is not None:
        raise UserError(f"{twice} stands twice", where=option)
    return found
