"""The `weaksam` command: one sub-command a stage, and the tools beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from weaksam_cli import __version__
from weaksam_cli.cli import options as opt
from weaksam_cli.cli.weights import weights_app
from weaksam_cli.console import Console

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
    "wsod": "Train a weakly supervised detector and detect (reads proposals, writes wsod/).",
    "pgt": "Pseudo ground truth from the detections (reads detections and labels, writes pgt/*.json).",
    "retrain": "Train a detector on the pseudo ground truth, with RoI drop (reads pgt, writes retrain/).",
    "eval": "Metrics of every artifact of the run against ground truth (writes eval/*.json and a table).",
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


_WHICH = ("dataset", "run_dir")
_SPEAK = ("json", "quiet")
_DATA = (*_WHICH, "split", "recipe", "overrides", "seed", "overwrite", "dry_run", "strict", *_SPEAK)
_ALL = (
    *_WHICH, "profile", "device", "workers", "seed", "weights_dir", "checkpoint_every", "overwrite", "allow_stale",
    "dry_run", "strict", *_SPEAK,
)  # fmt: skip
_STAGE = tuple(dict.fromkeys([*_DATA, *_ALL, "variant", "inputs"]))


def _command(name: str, *options: str, text: str | None = None) -> Callable[[Callable[..., None]], None]:
    """Register a command that takes some of the common options."""

    def register(function: Callable[..., None]) -> None:
        app.command(name, help=text)(opt.taking(*options)(function))

    return register


def _stage_command(stage: str) -> Callable[..., None]:
    def run(common: opt.CommonOptions, console: Console) -> None:
        from weaksam_cli.cli.run import run_one_stage

        run_one_stage(stage, common, console)

    return run


def _add_stages(*names: str) -> None:
    """Commands are listed in the order in which they are added: that of the pipeline."""
    for name in names:
        more = ("fit",) if name == "cam" else ()
        _command(name, *_STAGE, *more, text=_STAGE_HELP[name])(_stage_command(name))


@_command("data", *_DATA)
def data(
    common: opt.CommonOptions,
    console: Console,
    source: Annotated[
        str | None, typer.Argument(help="A VOC folder, COCO json, folder or CSV of labels, or `demo`.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", help="voc, coco, folder or demo; default: looked at.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images (COCO json, CSV).")
    ] = None,
) -> None:
    """Read a dataset: images and image-level labels, no boxes (writes labels/*.json)."""
    from weaksam_cli.cli.run import run_data

    run_data(source, layout, images, common, console)


_add_stages("cam", "prompt")


@_command("propose", *_STAGE, "shard")
def propose(
    common: opt.CommonOptions,
    console: Console,
    images: Annotated[
        Path | None,
        typer.Argument(
            help="A folder of images, one image, or a text file with a path a line; default: the dataset's."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="With IMAGES: the .h5 file to write.")
    ] = None,
) -> None:
    """Class-agnostic boxes, for any folder of images or from a dataset's prompts (writes proposals/*.h5, or FILE)."""
    if images is None and output is None:
        _stage_command("propose")(common, console)
        return
    from weaksam_cli.cli.propose_folder import propose_folder

    propose_folder(images, output, common, console)


_add_stages("wsod", "pgt", "retrain", "eval")


@_command("all", *_ALL)
def run_all(
    common: opt.CommonOptions,
    console: Console,
    source: Annotated[str | None, typer.Argument(help="The dataset, as for `weaksam data`.")] = None,
    layout: Annotated[str | None, typer.Option("--layout", help="voc, coco, folder or demo.")] = None,
) -> None:
    """Every stage, from labels to the table of results."""
    from weaksam_cli.cli.run import run_pipeline

    run_pipeline(source, layout, common, console)


@_command("status", *_WHICH, "json")
def status(common: opt.CommonOptions, console: Console) -> None:
    """What of a run is fresh, stale, partial or missing."""
    from weaksam_cli.cli.status import show_status

    show_status(common, console)


@_command("inspect", "overwrite", "json")
def inspect(
    common: opt.CommonOptions,
    console: Console,
    file: Annotated[Path, typer.Argument(help="Any artifact (.h5, .json, .safetensors, .pth).")],
    image: Annotated[
        str | None, typer.Option("--image", metavar="KEY", help="Show the rows of this image.")
    ] = None,
    draw: Annotated[
        Path | None, typer.Option("--draw", help="Write a PNG: the image with what is in the file.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images, where --draw does not find them.")
    ] = None,
) -> None:
    """Open an artifact and say what is in it."""
    from weaksam_cli.cli.inspect import inspect_file

    inspect_file(file, image, draw, images, overwrite=common.overwrite, console=console)


@_command("doctor", "run_dir", "weights_dir", "json")
def doctor(common: opt.CommonOptions, console: Console) -> None:
    """Is this machine ready, and what to do if not."""
    from weaksam_cli.cli.doctor import examine

    examine(common, console)


@_command("clip-templates", *_WHICH, "split", "recipe", "overrides", "device", "weights_dir", *_SPEAK)
def clip_templates(
    common: opt.CommonOptions,
    console: Console,
    templates: Annotated[
        list[str] | None,
        typer.Argument(help="Candidates with one {}, like 'a photo of a {}.'; default: eight."),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="At most this many images.")] = 500,
) -> None:
    """Which prompt sees the classes of your images most evenly: CLIP-ES's choice by sharpness."""
    from weaksam_cli.cli.clip_templates import rank_clip_templates

    rank_clip_templates(templates or [], images, common, console)


_FormatOption = Annotated[
    str, typer.Option("--format", help="Of the other program: detectron2, mmdet, ... (`?` lists all).")
]


@_command("export", "overwrite", *_SPEAK)
def export(
    common: opt.CommonOptions,
    console: Console,
    file: Annotated[
        Path, typer.Argument(help="Proposals or points (proposals/<split>.h5, prompts/<split>.h5).")
    ],
    layout: _FormatOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="The pickle (points: the folder) to write.")],
    labels: Annotated[
        Path | None, typer.Option("--labels", help="labels/<split>.json: name images by its integer ids.")
    ] = None,
    order: Annotated[
        Path | None, typer.Option("--order", help="List of images, one a line: write these, in this order.")
    ] = None,
) -> None:
    """Write proposals or points as files of another program."""
    from weaksam_cli.cli.exchange import export_file

    export_file(file, layout, out, labels=labels, order=order, overwrite=common.overwrite, console=console)


@_command("import", "overwrite", "allow_stale", *_SPEAK)
def import_(
    common: opt.CommonOptions,
    console: Console,
    file: Annotated[Path, typer.Argument(help="A proposal pickle, or a folder of point text files.")],
    layout: _FormatOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="The artifact to write (.h5).")],
    labels: Annotated[Path, typer.Option("--labels", help="labels/<split>.json of the images.")],
    order: Annotated[
        Path | None, typer.Option("--order", help="The list of images that an mmdet file was made from.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="Points: coarse, fine or cross, where no folder says it.")
    ] = None,
) -> None:
    """Read other people's proposals or points into an artifact for --input."""
    from weaksam_cli.cli.exchange import import_file

    import_file(
        file,
        layout,
        out,
        labels=labels,
        order=order,
        kind=kind,
        overwrite=common.overwrite,
        allow_stale=common.allow_stale,
        console=console,
    )


app.add_typer(weights_app, name="weights")
