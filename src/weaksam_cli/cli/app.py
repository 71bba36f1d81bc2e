"""The `weaksam` command: one sub-command a stage, and the tools beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from weaksam_cli import __version__
from weaksam_cli.cli import options as opt
from weaksam_cli.cli.guard import guarded
from weaksam_cli.cli.weights import weights_app

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
    "propose": "Class-agnostic boxes, from a dataset's prompts or for any folder of pictures.",
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


def _propose(
    images: Annotated[
        Path | None,
        typer.Argument(
            help="A folder of pictures, one picture, or a text file with a path a line; default: the dataset's."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="With IMAGES: the .h5 file to write.")
    ] = None,
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
    shard: opt.ShardOption = None,
    seed: opt.SeedOption = None,
    weights_dir: opt.WeightsOption = None,
    overwrite: opt.OverwriteOption = False,
    dry_run: opt.DryRunOption = False,
    strict: opt.StrictOption = False,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Class-agnostic boxes, for any folder of pictures or from a dataset's prompts (writes proposals/*.h5, or FILE)."""
    common = opt.CommonOptions(
        dataset, split, run_dir, recipe, tuple(overrides or ()), profile, variant, tuple(inputs or ()), device,
        workers, seed, weights_dir, overwrite, dry_run, strict, json, quiet, shard,
    )  # fmt: skip
    console = common.console()
    with guarded(console):
        if images is None and output is None:
            from weaksam_cli.cli.run import run_one_stage

            run_one_stage("propose", common, console)
        else:
            from weaksam_cli.cli.propose_folder import propose_folder

            propose_folder(images, output, common, console)


def _cam(
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
    fit: opt.FitOption = False,
    overwrite: opt.OverwriteOption = False,
    dry_run: opt.DryRunOption = False,
    strict: opt.StrictOption = False,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Class activation maps from image-level labels (reads labels, writes cam/*.h5)."""
    common = opt.CommonOptions(
        dataset, split, run_dir, recipe, tuple(overrides or ()), profile, variant, tuple(inputs or ()), device,
        workers, seed, weights_dir, overwrite, dry_run, strict, json, quiet, fit=fit,
    )  # fmt: skip
    console = common.console()
    with guarded(console):
        from weaksam_cli.cli.run import run_one_stage

        run_one_stage("cam", common, console)


_OWN_COMMANDS: dict[str, Callable[..., None]] = {"cam": _cam, "propose": _propose}
for _stage in _STAGE_HELP:
    app.command(_stage)(_OWN_COMMANDS.get(_stage) or _stage_command(_stage))


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
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the pictures, where --draw does not find them.")
    ] = None,
    json: opt.JsonOption = False,
) -> None:
    """Open an artifact and say what is in it."""
    console = opt.CommonOptions(json=json).console()
    with guarded(console):
        from weaksam_cli.cli.inspect import inspect_file

        inspect_file(file, image, draw, console, images)


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


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="Proposals (proposals/<split>.h5).")],
    layout: Annotated[
        str, typer.Option("--format", help="detectron2, wetectron-voc, wetectron-coco or mmdet.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The pickle to write.")],
    labels: Annotated[
        Path | None, typer.Option("--labels", help="labels/<split>.json: name images by its integer ids.")
    ] = None,
    order: Annotated[
        Path | None, typer.Option("--order", help="List of images, one a line: write these, in this order.")
    ] = None,
    overwrite: opt.OverwriteOption = False,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Write proposals as a pickle of detectron2, wetectron or mmdetection 2."""
    console = opt.CommonOptions(json=json, quiet=quiet).console()
    with guarded(console):
        from weaksam_cli.cli.exchange import export_file

        export_file(file, layout, out, labels=labels, order=order, overwrite=overwrite, console=console)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A proposal pickle, or a folder of point text files.")],
    layout: Annotated[str, typer.Option("--format", help="detectron2, wetectron, mmdet or points.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The artifact to write (.h5).")],
    labels: Annotated[Path, typer.Option("--labels", help="labels/<split>.json of the images.")],
    order: Annotated[
        Path | None, typer.Option("--order", help="The list of images that an mmdet file was made from.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="Points: coarse, fine or cross, where no folder says it.")
    ] = None,
    overwrite: opt.OverwriteOption = False,
    json: opt.JsonOption = False,
    quiet: opt.QuietOption = False,
) -> None:
    """Read other people's proposals or points into an artifact for --input."""
    console = opt.CommonOptions(json=json, quiet=quiet).console()
    with guarded(console):
        from weaksam_cli.cli.exchange import import_file

        import_file(
            file, layout, out, labels=labels, order=order, kind=kind, overwrite=overwrite, console=console
        )


app.add_typer(weights_app, name="weights")
