"""Run one stage, or all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import yaml

from weaksam_cli.cli.options import CommonOptions, build_context, chosen_profile, for_stages, stage_changes
from weaksam_cli.console import Console, size
from weaksam_cli.core.settings import RecipeModel, read_yaml_mapping
from weaksam_cli.data.source import SOURCE_FILE
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.profiles import choose_profile
from weaksam_cli.engine.recipes import LoadedRecipe, find_recipe, load_recipe, recipe_names
from weaksam_cli.engine.runs import BOXES_INPUT
from weaksam_cli.engine.stages import STAGE_NAMES, Stage, load_stage
from weaksam_cli.engine.steps import Step, preview, run_steps
from weaksam_cli.engine.variants import run_of_variant
from weaksam_cli.errors import UserError, unknown


def run_one_stage(options: CommonOptions, console: Console, stage_name: str) -> dict[str, Path]:
    """`weaksam STAGE`: choose the recipe, then make what is not fresh.

    Returns:
        Split -> artifact.
    """
    context, recipe_name = build_context(options, stage_name, console), options.recipe
    console = context.console
    if recipe_name is None:
        profile, _ = choose_profile(chosen_profile(options), context.weights)
        recipe_name = profile.recipes[stage_name]
        console.info(f"{stage_name}: recipe {recipe_name} of profile {profile.name}", profile=profile.name)
    if options.fit:
        options = _without_weights(stage_name, options, recipe_name)
    stage = load_stage(stage_name)
    if BOXES_INPUT in context.run.given and stage_name != "pgt":
        raise UserError("boxes prompt the masks of `pgt` alone", where="--input", remedy="Leave them out")
    splits = splits_of(stage, options, context)
    loaded = load_recipe(stage_name, recipe_name, options.overrides)
    if options.masks:
        loaded = _with_masks(loaded)
    _run(stage, loaded, options, _for_given_split(context, splits), splits)
    if options.per_class and not options.dry_run:
        from weaksam_cli.eval.report import show_classes

        for split in splits:
            show_classes(context.run.output(stage_name, split), console)
    return {split: context.run.output(stage_name, split) for split in splits}


def _with_masks(loaded: LoadedRecipe) -> LoadedRecipe:
    """`--masks` is `masks: true` of a recipe of pgt.

    Raises:
        UserError: its method makes none.
    """
    settings = getattr(loaded.recipe, "masks", None)
    if not isinstance(settings, RecipeModel):
        raise UserError(
            f"recipe {loaded.name!r} has no masks", where="--masks", remedy="Choose another --recipe"
        )
    masks = settings.model_copy(update={"enabled": True})
    return dataclasses.replace(loaded, recipe=loaded.recipe.model_copy(update={"masks": masks}))


def _without_weights(stage: str, options: CommonOptions, recipe_name: str) -> CommonOptions:
    """`--fit` is `--set weights=null`, for recipes that say how a network is trained in place of loading weights.

    Raises:
        UserError: the recipe does not say so, or weights are given all the same.
    """
    fields = type(load_recipe(stage, recipe_name).recipe).model_fields
    if not {"weights", "fit"} <= set(fields):
        names = recipe_names(stage)
        trained = [name for name in names if "fit" in read_yaml_mapping(find_recipe(stage, name))]
        what = f"recipe {recipe_name!r} has no `fit`: it trains what it needs in any case, or nothing"
        remedy = f"Leave --fit out, or give one of the recipes {', '.join(trained)}"
        raise UserError(what, where="--fit", remedy=remedy)
    if any(text.partition("=")[0].strip() == "weights" for text in options.overrides):
        remedy = "Leave one of them out; the training starts from --set fit.initial=FILE"
        raise UserError("weights are given with --set, and --fit trains them", where="--fit", remedy=remedy)
    return dataclasses.replace(options, overrides=[*options.overrides, "weights=null"])


def _for_given_split(context: Context, splits: Sequence[str]) -> Context:
    """Files named with `--input` belong to one split; which one has to be clear."""
    if not context.run.given:
        return context
    if len(splits) != 1:
        what = f"of which split are the files? The command is about {', '.join(splits)}"
        raise UserError(what, where="--input", remedy="Give --split as well")
    return dataclasses.replace(context, run=dataclasses.replace(context.run, given_split=splits[0]))


def splits_of(stage: Stage, options: CommonOptions, context: Context) -> list[str]:
    """The splits that a stage works on: the one that was asked for, else all that fit it.

    Raises:
        UserError: there is no such split, or it does not fit.
    """
    roles = {name: part.role for name, part in context.source().splits.items()}
    if options.split is not None and options.split not in roles:
        what = f"dataset {context.dataset!r} has no split {options.split!r}"
        raise unknown(what, options.split, list(roles), where="--split")
    fits = [split for split, role in roles.items() if role == "train" or not stage.train_only]
    if options.split is not None and options.split not in fits:
        what = f"{stage.name} works on training splits, {options.split!r} is not one"
        raise UserError(what, where="--split")
    return [split for split in fits if options.split in (None, split)]


def _run(
    stage: Stage, loaded: LoadedRecipe, options: CommonOptions, context: Context, splits: Sequence[str]
) -> None:
    context = dataclasses.replace(context, recipe_name=loaded.name)
    if options.dry_run:
        describe(stage, loaded, partial(loaded.steps, context), context, splits)
    else:
        run_steps(partial(loaded.steps, context), stage, context, splits)


def describe(
    stage: Stage,
    loaded: LoadedRecipe,
    steps_of: Callable[[str], Iterator[Step]],
    context: Context,
    splits: Sequence[str],
) -> None:
    """Print the whole recipe, defaults included, and how the artifacts of `splits` stand."""
    resolved = loaded.resolved()
    head = f"# {stage.name}: recipe {loaded.name} ({loaded.path})"
    lines = yaml.safe_dump(resolved, sort_keys=False, default_flow_style=None).splitlines()
    context.console.result(head, *lines, stage=stage.name, recipe=resolved)
    for split in splits:
        try:
            for step in steps_of(split):
                found, name = preview(step, stage, context), context.run.relative(step.path)
                if isinstance(found, UserError):
                    state = text = found.one_line()
                else:
                    state, text = found.state.value, "; ".join([found.state.value, *found.reasons])
                context.console.result(f"{name}: {text}", artifact=name, state=state, what=step.title)
        except UserError as error:
            context.console.result(f"{stage.name} {split}: {error.one_line()}", state="blocked", split=split)


def run_data(
    options: CommonOptions,
    console: Console,
    source: str | None,
    layout: str | None,
    images: Path | None = None,
    split_off: str | None = None,
    fetch: bool = False,
) -> None:
    """`weaksam data`."""
    from weaksam_cli.data.known import KNOWN
    from weaksam_cli.data.stage import STAGE, choose_layout, read_dataset

    options = _named_by(source, options)
    context = build_context(options, "data", console)
    name = context.dataset if source is None else source
    if fetch:
        _fetch(name, context, options.dry_run)
        if options.dry_run:
            return
    place, usual = _place(source, context)
    chosen = KNOWN[usual].layout if usual and layout is None else choose_layout(place, layout)
    overrides = [*_usual_splits(usual), *options.overrides]
    if split_off is not None:
        name, equals, share = split_off.partition("=")
        if not equals:
            what = f"expected NAME=SHARE, such as test=0.2, got {split_off!r}"
            raise UserError(what, where="--split-off")
        overrides.append(f"split_off={{{name}: {share}}}")
    loaded = load_recipe("data", options.recipe or chosen, overrides)
    context = dataclasses.replace(context, recipe_name=loaded.name)
    if options.dry_run:
        describe(STAGE, loaded, partial(loaded.steps, context), context, [])
        return
    read_dataset(loaded, place, images, context, options.split)


def _named_by(source: str | None, options: CommonOptions) -> CommonOptions:
    """A dataset of the field names its run."""
    from weaksam_cli.data.known import KNOWN

    is_named = source in KNOWN and options.dataset is None
    return dataclasses.replace(options, dataset=source) if is_named else options


def _fetch(name: str, context: Context, dry_run: bool) -> None:
    """Download a dataset of the field, or say what would be downloaded.

    Raises:
        UserError: it is none, a folder of its name is read in its place, or see `fetch_known`.
    """
    from weaksam_cli.data.known import KNOWN, fetch_known, missing_archives

    if name not in KNOWN:
        raise unknown(f"{name!r} cannot be fetched", name, list(KNOWN), where="--fetch")
    if Path(name).exists():
        remedy = "Leave --fetch out, or move it away"
        raise UserError("is there, and is read when this dataset is named", where=name, remedy=remedy)
    if not dry_run:
        fetch_known(name, context.console, overwrite=context.overwrite)
        return
    for item in missing_archives(name):
        context.console.result(f"would fetch {item.url} ({size(item.size)})", url=item.url, size=item.size)


def _place(source: str | None, context: Context) -> tuple[str, str | None]:
    """Where the dataset lies, and its name where it is one of the field's that was looked for.

    Raises:
        UserError: nothing says which dataset, or it is nowhere.
    """
    from weaksam_cli.data.known import KNOWN, find_known

    name = context.dataset if source is None else source
    if name in KNOWN and not Path(name).exists():
        found = find_known(name)
        context.console.info(f"{KNOWN[name].title}: {found}", path=str(found))
        return str(found), name
    if source is None and context.dataset != "demo":
        remedy = f"Give its folder: weaksam data FOLDER --dataset NAME; or one of {', '.join(KNOWN)}, demo"
        raise UserError("which dataset?", where="weaksam data", remedy=remedy)
    return name, None


def _usual_splits(name: str | None) -> list[str]:
    from weaksam_cli.data.known import KNOWN

    splits = KNOWN[name].splits if name else {}
    return [f"splits={{{', '.join(f'{split}: {role}' for split, role in splits.items())}}}"] if splits else []


def run_pipeline(
    options: CommonOptions,
    console: Console,
    source: str | None,
    layout: str | None,
    recipes: Sequence[str] | None,
    overrides: Sequence[str] | None,
) -> None:
    """`weaksam all`: check what is needed, every recipe among it, then every stage."""
    from weaksam_cli.cli.doctor import preflight

    options = _named_by(source, options)
    context = build_context(options, None, console)
    console = context.console
    profile, why = choose_profile(chosen_profile(options), context.weights)
    console.info(f"weaksam: dataset {context.dataset}, {why}, seed {context.seed}", profile=profile.name)
    told = dict(for_stages(recipes or (), "stage=NAME", "--recipe", *STAGE_NAMES))
    changes = stage_changes(overrides, STAGE_NAMES)
    names = profile.recipes | told
    loaded = {name: load_recipe(name, names[name], changes[name]) for name in STAGE_NAMES[1:]}
    preflight(context)
    for recipe in loaded.values():
        if hasattr(recipe.method, "check_installed"):
            recipe.method.check_installed()
    of_data = dataclasses.replace(options, recipe=told.get("data"), overrides=changes["data"])
    is_asked = source is not None or "data" in told or bool(changes["data"])
    if context.processes.leads and (is_asked or not (context.run.root / SOURCE_FILE).is_file()):
        run_data(of_data, console, source, layout)
        if options.dry_run:
            return
    context.processes.meet()
    for name, recipe in loaded.items():
        stage = load_stage(name)
        splits, place = splits_of(stage, options, context), ""
        if options.variant:
            changed, steps_of = name in told or bool(changes[name]), partial(recipe.steps, context)
            run = run_of_variant(options.variant, stage, steps_of, context, splits, is_changed=changed)
            context, place = dataclasses.replace(context, run=run), f": {run.folder(name).name}"
        console.info(f"{name} (recipe {recipe.name}){place}", stage=name)
        _run(stage, recipe, options, context, splits)
    if not options.dry_run and context.processes.leads:
        from weaksam_cli.cli.summary import sum_up

        sum_up(context)
