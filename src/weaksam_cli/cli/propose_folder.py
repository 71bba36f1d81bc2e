"""`weaksam propose IMAGES -o FILE`: the ordinary stage on images that belong to no dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from weaksam_cli.artifacts import digest, open_artifact
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.receipt import InputDigest, Receipt, read_receipt, refuse_foreign
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.cli.new_images import (
    IMAGES_INPUT,
    digest_of,
    place_of,
    read_images,
    refuse_other_images,
    renew_place,
)
from weaksam_cli.cli.options import CommonOptions, build_context, chosen_profile
from weaksam_cli.cli.run import describe, run_one_stage
from weaksam_cli.console import Console, duration
from weaksam_cli.data.unlabelled import DATASET, SPLIT, Listing, list_images
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.profiles import AUTO, read_profile
from weaksam_cli.engine.recipes import LoadedRecipe, load_recipe
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.stages import load_stage
from weaksam_cli.engine.steps import Summary, make, run_steps
from weaksam_cli.errors import UserError
from weaksam_cli.propose.segmenters import best_recipe

_FOR_DATASETS = ("dataset", "split", "run-dir", "variant")


def propose(options: CommonOptions, console: Console, images: list[Path] | None, output: Path | None) -> Path:
    """The stage as others run; with IMAGES, list them, choose a recipe, and make the proposals that are not fresh.

    Returns:
        The file of IMAGES, or the folder of the run.

    Raises:
        UserError: options that do not go together, no image, a target that holds something else.
        IncompleteError: images failed and `--strict` was given; the artifact is written all the same.
    """
    if not images and output is None:
        run_one_stage(options, console, "propose")
        return build_context(options, None, console).run.root
    if not images:
        remedy = (
            "Give them: weaksam propose IMAGES -o FILE.h5; a dataset's proposals lie in its run directory"
        )
        what = "which images? -o belongs to a folder of images"
        raise UserError(what, where=f"-o {output}", remedy=remedy)
    _refuse_dataset_options(options)
    listing = list_images(*images)
    target = _target(output, listing)
    context = _context(options, target, console)
    loaded = _recipe(options, context)
    split = read_images(listing, console, recipe=loaded.name)
    given = {IMAGES_INPUT: digest_of(listing, split, target)}
    refuse_other_images(target, given[IMAGES_INPUT], "proposals", context)
    points = context.run.given.get("prompt")
    if "cam" in context.run.given:
        points = _points_of_maps(context.run.given["cam"], options.dry_run, target, context)
    run = RunDirectory(target.parent, {}, {"prompt": points} if points else {}, SPLIT)
    if points is not None and points.is_file():
        place = place_of(points, target.parent)
        given["prompt"] = InputDigest(path=place, sha256=digest.of_file(points), file=False)
    context = replace(context, run=run, recipe_name=loaded.name, unlabelled=split)
    step = next(loaded.steps(context, SPLIT))
    inputs = {name: path for name, path in step.inputs.items() if name not in ("data", "prompt")}
    step = replace(step, path=target, inputs=inputs, given=given, summary=_summary(target))
    steps_of, stage = (lambda _: iter([step])), load_stage("propose")
    if options.dry_run:
        describe(stage, loaded, steps_of, context, [SPLIT])
        return target
    for record in run_steps(steps_of, stage, context, [SPLIT]):
        renew_place(record, step, context)
    return target


def _refuse_dataset_options(options: CommonOptions) -> None:
    given = next(
        (f"--{name}" for name in _FOR_DATASETS if getattr(options, name.replace("-", "_")) is not None), None
    )
    if given:
        what = "is about a dataset's run, IMAGES are images without one"
        remedy = f"Leave out {given} and name the file with -o, or leave out IMAGES"
        raise UserError(what, where=given, remedy=remedy)


def _target(output: Path | None, listing: Listing) -> Path:
    """The file to be written, `<name>-proposals.h5` in the working folder where none was named."""
    target = Path(f"{listing.name}-proposals.h5") if output is None else output
    if target.suffix != ".h5":
        what = f"proposals are written as HDF5, got a name ending in {target.suffix or 'nothing'!r}"
        remedy = f"Give a name like {target.stem or 'proposals'}.h5"
        raise UserError(what, where=f"-o {target}", remedy=remedy)
    if target.is_dir():
        raise UserError("is a folder", where=f"-o {target}", remedy=f"Give a file: {target / 'proposals.h5'}")
    return target


def _context(options: CommonOptions, target: Path, console: Console) -> Context:
    context = build_context(options, None, console)
    given = context.run.given
    if len(given) > 1 or not given.keys() <= {"prompt", "cam"}:
        what = "with IMAGES it takes one file of points (prompt=FILE.h5) or of class maps (cam=FILE.h5)"
        raise UserError(what, where="--input", remedy="Leave out the others")
    return replace(context, dataset=DATASET, run=RunDirectory(target.parent, {}, given, SPLIT))


def _recipe(options: CommonOptions, context: Context) -> LoadedRecipe:
    """The recipe that was named, that of a named profile, or the best whose weights are here; says which and why.

    Without points it prompts with none, which the recipe, and so the artifact, says.
    """
    profile = chosen_profile(options)
    if options.recipe:
        name, why = options.recipe, ""
    elif profile != AUTO:
        name, why = read_profile(profile, context.weights).recipes["propose"], f" of profile {profile}"
    else:
        name, why = best_recipe(context)
    loaded = load_recipe("propose", name, options.overrides)
    context.console.info(f"propose: recipe {loaded.name}{why}", recipe=loaded.name)
    is_prompted = "clues" in type(loaded.recipe).model_fields
    if context.run.given and not is_prompted:
        what = f"recipe {loaded.name} takes no prompts"
        raise UserError(what, where="--input", remedy="Choose another --recipe")
    if is_prompted and not context.run.given:
        loaded = load_recipe("propose", name, [*options.overrides, "clues.sources=[]"])
    return loaded


def _points_of_maps(maps: Path, dry_run: bool, target: Path, context: Context) -> Path:
    """Peak points of class maps, made beside the target as an ordinary artifact of the maps' own dataset."""
    path = target.with_name(f"{target.stem}.prompts.h5")
    loaded = load_recipe("prompt", read_profile("embedded", context.weights).recipes["prompt"])
    record = read_receipt(maps)
    split, dataset = (record.identity.split, record.identity.dataset) if record else (SPLIT, DATASET)
    run = RunDirectory(target.parent, {}, {"cam": maps}, split)
    own = replace(context, dataset=dataset, run=run, recipe_name=loaded.name, part=None)
    if not dry_run:
        refuse_foreign(path, overwrite=context.overwrite)
        make(replace(next(loaded.steps(own, split)), path=path), load_stage("prompt"), own)
    elif not path.is_file():
        context.console.result(
            f"{path}: missing; would be made of {maps}", artifact=str(path), state="missing"
        )
    return path


def _summary(target: Path) -> Summary:
    """The line at the end: how many, how fast, what failed."""

    def summary(record: Receipt, outcome: Outcome) -> tuple[str, dict[str, Any]]:
        with open_artifact(target, PROPOSALS, verify=False) as artifact:
            proposals = int(artifact.offsets[-1])
        each = proposals / record.images if record.images else 0.0
        rate = outcome.computed / record.wall_seconds if record.wall_seconds else 0.0
        text = (
            f"{record.images:,} images, {proposals:,} proposals ({each:.0f} an image), {len(record.failed)} failed, "
            f"{f'{rate:.2g} images/s, ' if outcome.computed else ''}{duration(record.wall_seconds)}"
        )
        return text, {"proposals": proposals, "images_per_second": round(rate, 3)}

    return summary
