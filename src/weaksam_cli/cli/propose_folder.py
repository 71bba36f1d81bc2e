"""`weaksam propose IMAGES -o FILE`: proposals for any images, without a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from weaksam_cli.artifacts import digest, open_artifact
from weaksam_cli.artifacts.points import POINTS
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.receipt import Receipt, read_receipt, write_receipt
from weaksam_cli.artifacts.shards import Outcome as MergeCount
from weaksam_cli.cli.estimate import announce
from weaksam_cli.cli.options import CommonOptions, build_context, chosen_profile
from weaksam_cli.cli.run import describe_recipe
from weaksam_cli.console import Console, duration
from weaksam_cli.core.names import first_few
from weaksam_cli.engine.agenda import UnfinishedError
from weaksam_cli.engine.legacy import (
    Context,
    Job,
    Product,
    ShardedMaker,
    make_product,
    preview,
)
from weaksam_cli.engine.profiles import AUTO, read_profile
from weaksam_cli.engine.recipes import LoadedRecipe, load_recipe
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.stages import load_stage
from weaksam_cli.engine.steps import Summary, identify, make
from weaksam_cli.errors import UserError
from weaksam_cli.propose.clues import Clues, match_clues
from weaksam_cli.propose.folder import (
    DATASET,
    IMAGES_INPUT,
    SPLIT,
    FolderJob,
    SeenFile,
    digest_of_all,
    look_at_all,
    place_of,
)
from weaksam_cli.propose.listing import Listing, list_images
from weaksam_cli.propose.recipe import SelectiveSearchRecipe

_BEST_FIRST = ("sam-vit-h", "sam-vit-l", "sam-vit-b")
_WITHOUT_WEIGHTS = "region-tree"
_READING_THREADS = 8
"""Files are read at once: more than there are cores, because a disk or a network answers late."""
_FOR_DATASETS = ("dataset", "split", "run_dir", "variant")


def propose_folder(
    images: Path | None, output: Path | None, options: CommonOptions, console: Console
) -> None:
    """List the images, choose a recipe, say how long it will take, and make the proposals that are not fresh.

    Raises:
        UserError: options that do not go together, no image, a target that holds something else.
        IncompleteError: images failed and `--strict` was given; the artifact is written all the same.
    """
    if images is None:
        raise UserError(
            "which images? -o belongs to a folder of images",
            where=f"-o {output}",
            remedy="Give them: weaksam propose IMAGES -o FILE.h5; a dataset's proposals lie in its run directory",
        )
    _refuse_dataset_options(options)
    listing = list_images(images)
    target = _target(output, listing)
    context = _context(options, target, console)
    loaded = _recipe(options, context)
    context = replace(context, recipe_name=loaded.name)
    _warn_of_duplicates(listing, images, console)
    with console.progress("reading the files", len(listing.keys)) as progress:
        seen = look_at_all(listing, _READING_THREADS, progress.advance)
    _check_target(target, listing, seen, context)
    clues = _clues(listing, loaded.recipe, options.dry_run, target, context)
    recipe: Any = loaded.recipe
    _propose(FolderJob(listing, seen, recipe, clues), loaded, target, context, options.dry_run)


def _propose(job: FolderJob, loaded: LoadedRecipe, target: Path, context: Context, dry_run: bool) -> None:
    stage = load_stage("propose")
    sizes = {key: file.size for key, file in job.seen.items()}

    def make(work: Job) -> MergeCount:
        return announced(work)(work)

    def announced(work: Job) -> ShardedMaker:
        return announce(work, job.maker(context), sizes, loaded.name)

    product = replace(job.product(context, target, make), summary=_summary(target))
    if not dry_run:
        try:
            _renew_place(make_product(product, stage, context), product, context)
        except UnfinishedError as unfinished:
            unfinished.report(target.name, context.console)
        return
    describe_recipe(stage, loaded, context)
    found = preview(product, stage, context)
    if isinstance(found, UserError):
        raise found
    reasons = "".join(f"; {reason}" for reason in found.reasons)
    context.console.result(
        f"{target}: {found.state.value}{reasons}", artifact=str(target), state=found.state.value
    )
    if found.receipt is None or found.reasons:
        announced(Job(context, target, identify(product.step(), stage, context)))


def _renew_place(record: Receipt, product: Product, context: Context) -> None:
    """The images of a fresh artifact were moved: note where they lie now, for `inspect --draw`."""
    noted, now = record.identity.inputs[IMAGES_INPUT], product.digests[IMAGES_INPUT]
    if noted.path != now.path:
        identity = record.identity.model_copy(
            update={"inputs": {**record.identity.inputs, IMAGES_INPUT: now}}
        )
        write_receipt(context.ops, product.path, record.model_copy(update={"identity": identity}))


def _refuse_dataset_options(options: CommonOptions) -> None:
    given = [name for name in _FOR_DATASETS if getattr(options, name) is not None]
    if given:
        name = given[0].replace("_", "-")
        raise UserError(
            "is about a dataset's run, IMAGES are images without one",
            where=f"--{name}",
            remedy=f"Leave out --{name} and name the file with -o, or leave out IMAGES",
        )


def _target(output: Path | None, listing: Listing) -> Path:
    """The file to be written, `<name>-proposals.h5` in the working folder where none was named."""
    target = Path(f"{listing.name}-proposals.h5") if output is None else output
    if target.suffix != ".h5":
        raise UserError(
            f"proposals are written as HDF5, got a name ending in {target.suffix or 'nothing'!r}",
            where=f"-o {target}",
            remedy=f"Give a name like {target.stem or 'proposals'}.h5",
        )
    if target.is_dir():
        raise UserError("is a folder", where=f"-o {target}", remedy=f"Give a file: {target / 'proposals.h5'}")
    return target


def _context(options: CommonOptions, target: Path, console: Console) -> Context:
    context = build_context(options, None, console)
    unknown = set(context.run.given) - {"prompt", "cam"}
    if unknown or len(context.run.given) > 1:
        raise UserError(
            "with IMAGES it takes one file of points (prompt=FILE.h5) or of class maps (cam=FILE.h5)",
            where="--input",
            remedy="Leave out the others",
        )
    run = RunDirectory(target.parent, {}, context.run.given, SPLIT)
    return replace(context, dataset=DATASET, run=run)


def _recipe(options: CommonOptions, context: Context) -> LoadedRecipe:
    """The recipe that was named, that of a named profile, or the best whose weights are here; says which and why."""
    profile = chosen_profile(options)
    if options.recipe:
        name, why = options.recipe, ""
    elif profile != AUTO:
        name, why = read_profile(profile).recipes["propose"], f" of profile {profile}"
    else:
        name, why = _best_recipe(context)
    loaded = load_recipe("propose", name, options.overrides)
    context.console.info(f"propose: recipe {loaded.name}{why}", recipe=loaded.name)
    return loaded


def _best_recipe(context: Context) -> tuple[str, str]:
    absent: list[str] = []
    for name in _BEST_FIRST:
        weights = load_recipe("propose", name).recipe.weights  # type: ignore[attr-defined]
        found = context.weights.find(weights)
        if found is not None:
            better = f" ({', '.join(absent)} not found)" if absent else ""
            return name, f", the best whose weights are here: {found}{better}"
        absent.append(weights)
    return _WITHOUT_WEIGHTS, f", which needs no weights (found none of {', '.join(absent)})"


def _warn_of_duplicates(listing: Listing, images: Path, console: Console) -> None:
    if listing.duplicates:
        names = first_few(dict.fromkeys(listing.duplicates))
        console.warn(
            f"{images}: {len(listing.duplicates)} lines repeat an image and are passed over: {names}",
            duplicates=len(listing.duplicates),
        )


def _check_target(target: Path, listing: Listing, seen: Mapping[str, SeenFile], context: Context) -> None:
    """A file that this command did not make, or made of other images, is replaced only when the user says so.

    Raises:
        UserError: such a file is in the way.
    """
    if context.overwrite or not target.exists():
        return
    record = read_receipt(target)
    if record is None:
        try:
            open_artifact(target, PROPOSALS).close()
        except UserError as error:
            raise UserError(
                f"something else is in the way ({error.what})",
                where=str(target),
                remedy="Give another name with -o, or --overwrite to replace it",
            ) from error
        return
    images = record.identity.inputs.get(IMAGES_INPUT)
    place = place_of(listing.root, target.parent)
    if images is not None and images.path != place and images.sha256 != digest_of_all(seen):
        raise UserError(
            f"holds the proposals of other images, those of {images.path!r}",
            where=str(target),
            remedy="Give another name with -o, or --overwrite to replace it",
        )


def _clues(listing: Listing, recipe: Any, dry_run: bool, target: Path, context: Context) -> Clues | None:
    given = context.run.given
    if not given:
        return None
    if isinstance(recipe, SelectiveSearchRecipe):
        raise UserError(
            "Selective Search takes no prompts", where="--input", remedy="Choose another --recipe"
        )
    path = _points_of_maps(given["cam"], dry_run, target, context) if "cam" in given else given["prompt"]
    if path is None:
        return None
    with open_artifact(path, POINTS) as points:
        clues = match_clues(path, digest.of_file(path), listing.keys, points.image_ids)
    count, by_name = len(clues.ids), len(clues.ids) - clues.by_key
    context.console.info(
        f"points of {path}: {count} of {len(listing.keys)} images have some ({clues.by_key} by key, {by_name} by file name)"
        + ("" if count == len(listing.keys) else "; the others get grid prompts only"),
        prompted=count,
        by_key=clues.by_key,
        by_name=by_name,
    )
    return clues


def _points_of_maps(maps: Path, dry_run: bool, target: Path, context: Context) -> Path | None:
    """Peak points of class maps, made beside the target as an ordinary artifact of the maps' own dataset."""
    path = target.with_name(f"{target.stem}.prompts.h5")
    stage = load_stage("prompt")
    profile = read_profile("embedded").recipes["prompt"]
    loaded = load_recipe("prompt", profile)
    record = read_receipt(maps)
    split = record.identity.split if record else SPLIT
    dataset = record.identity.dataset if record else DATASET
    run = RunDirectory(target.parent, {}, {"cam": maps}, split)
    own = replace(context, dataset=dataset, run=run, recipe_name=loaded.name, share=None)
    step = replace(next(loaded.steps(own, split)), path=path)
    if not dry_run:
        make(step, stage, own)
    elif not path.is_file():
        context.console.result(
            f"{path}: missing; would be made of {maps}", artifact=str(path), state="missing"
        )
        return None
    return path


def _summary(target: Path) -> Summary:
    """The line at the end: how many, how fast, what failed."""

    def summary(record: Receipt, count: MergeCount) -> tuple[str, dict[str, Any]]:
        with open_artifact(target, PROPOSALS, verify=False) as artifact:
            proposals = int(artifact.offsets[-1])
        each = proposals / record.images if record.images else 0.0
        rate = count.computed / record.wall_seconds if record.wall_seconds else 0.0
        parts = [
            f"{record.images:,} images",
            f"{proposals:,} proposals ({each:.0f} an image)",
            f"{len(record.failed)} failed",
            *([f"{rate:.2g} images/s"] if count.computed else []),
            duration(record.wall_seconds),
        ]
        return ", ".join(parts), {"proposals": proposals, "images_per_second": round(rate, 3)}

    return summary
