"""The `weaksam` command: one sub-command a stage, and the tools beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from weaksam_cli import __version__
from weaksam_cli.cli import options as opt
from weaksam_cli.cli.guard import guarded

app = typer.Typer(
    name="weaksam",
    help="Object detectors and instance segmenters from image-level labels alone (the WeakSAM method).",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_STAGE_HELP = {
    "cam": "Class activation maps from image-level labels (reads labels, writes cam/*.h5).",
    "prompt": "Peak points of the maps (reads cam, writes prompts/*.h5).",
    "propose": "Class-agnostic boxes from prompts (reads images and prompts, writes proposals/*.h5).",
    "wsod": "Train a weakly supervised detector and detect (reads proposals, writes wsod/).",
    "pgt": "Pseudo ground truth from the detections (reads detections and labels, writes pgt/*.json).",
    "retrain": "Train a detector on the pseudo ground truth, with RoI drop (reads pgt, writes retrain/).",
    "eval": "Judge every artifact of the run against ground truth (writes eval/*.json and a table).",
}


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"weaksam {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Object detectors and instance segmenters from image-level labels alone (the WeakSAM method)."""


def _stage_command(stage: str) -> Callable[..., None]:
    def command(
        dataset: opt.DatasetOption = None,
        split: opt.SplitOption = None,
        run_dir: opt.RunDirOption = None,
        recipe: opt.RecipeOption = None,
        overrides: opt.SetOption = None,
        profile: opt.ProfileOption = None,
        variant: opt.VariantOption = None,
        inputs: opt.InputOption = None,
        device: opt.DeviceOption = None,
        workers: opt.WorkersOption = None,
        seed: opt.SeedOption = None,
        weights_dir: opt.WeightsOption = None,
        overwrite: opt.OverwriteOption = False,
        dry_run: opt.DryRunOption = False,
        strict: opt.StrictOption = False,
        json: opt.JsonOption = False,
        quiet: opt.QuietOption = False,
    ) -> None:
        common = opt.CommonOptions(
            dataset, split, run_dir, recipe, tuple(overrides or ()), profile, variant, tuple(inputs or ()), device,
            workers, seed, weights_dir, overwrite, dry_run, strict, json, quiet,
        )  # fmt: skip
        console = common.console()
        with guarded(console):
            from weaksam_cli.cli.run import run_one_stage

            run_one_stage(stage, common, console)

    command.__doc__ = _STAGE_HELP[stage]
    return command


@app.command("data")
def data(
    source: Annotated[
        str | None, typer.Argument(help="A VOC folder, COCO json, folder or CSV of labels, or `demo`.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", help="voc, coco, folder or demo; default: looked at.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images (COCO json, CSV).")
    ] = None,
    dataset: opt.DatasetOption = None,
    split: opt.SplitOption = None,
    run_dir: opt.RunDirOption = None,
    recipe: opt.RecipeOption = None,
    overrides: opt.SetOption = None,
    seed: opt.SeedOption = None,
    overwrite: opt.OverwriteOption = False,
    dry_run: opt.DryRunOption = False,
    strict: opt.StrictOption = False,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Read a dataset: images and image-level labels, no boxes (writes labels/*.json)."""
    common = opt.CommonOptions(
        dataset=dataset, split=split, run_dir=run_dir, recipe=recipe, overrides=tuple(overrides or ()), seed=seed,
        overwrite=overwrite, dry_run=dry_run, strict=strict, json=json, quiet=quiet,
    )  # fmt: skip
    console = common.console()
    with guarded(console):
        from weaksam_cli.cli.run import run_data

        run_data(source, layout, images, common, console)


for _stage in _STAGE_HELP:
    app.command(_stage)(_stage_command(_stage))


@app.command("all")
def run_all(
    source: Annotated[str | None, typer.Argument(help="The dataset, as for `weaksam data`.")] = None,
    layout: Annotated[str | None, typer.Option("--layout", help="voc, coco, folder or demo.")] = None,
    dataset: opt.DatasetOption = None,
    run_dir: opt.RunDirOption = None,
    profile: opt.ProfileOption = None,
    device: opt.DeviceOption = None,
    workers: opt.WorkersOption = None,
    seed: opt.SeedOption = None,
    weights_dir: opt.WeightsOption = None,
    overwrite: opt.OverwriteOption = False,
    dry_run: opt.DryRunOption = False,
    strict: opt.StrictOption = False,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Every stage, from labels to the table of results."""
    common = opt.CommonOptions(
        dataset=dataset, run_dir=run_dir, profile=profile, device=device, workers=workers, seed=seed,
        weights_dir=weights_dir, overwrite=overwrite, dry_run=dry_run, strict=strict, json=json, quiet=quiet,
    )  # fmt: skip
    console = common.console()
    with guarded(console):
        from weaksam_cli.cli.run import run_pipeline

        run_pipeline(source, layout, common, console)


@app.command("status")
def status(
    dataset: opt.DatasetOption = None, run_dir: opt.RunDirOption = None, json: opt.JsonOption = False
) -> None:
    """What of a run is fresh, stale, partial or missing."""
    common = opt.CommonOptions(dataset=dataset, run_dir=run_dir, json=json)
    console = common.console()
    with guarded(console):
        from weaksam_cli.cli.status import show_status

        show_status(common, console)


@app.command("inspect")
def inspect(
    file: Annotated[Path, typer.Argument(help="Any artifact (.h5 or .json).")],
    image: Annotated[str | None, typer.Option("--image", help="Show the rows of this image.")] = None,
    draw: Annotated[
        Path | None, typer.Option("--draw", help="Write a PNG: the image with what is in the file.")
    ] = None,
    json: opt.JsonOption = False,
) -> None:
    """Open an artifact and say what is in it."""
    console = opt.CommonOptions(json=json).console()
    with guarded(console):
        from weaksam_cli.cli.inspect import inspect_file

        inspect_file(file, image, draw, console)


@app.command("doctor")
def doctor(
    run_dir: opt.RunDirOption = None, weights_dir: opt.WeightsOption = None, json: opt.JsonOption = False
) -> None:
    """Is this machine ready, and what to do if not."""
    common = opt.CommonOptions(run_dir=run_dir, weights_dir=weights_dir, json=json)
    console = common.console()
    with guarded(console):
        from weaksam_cli.cli.doctor import examine

        examine(common, console)
