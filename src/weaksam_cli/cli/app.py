"""The `weaksam` command: one sub-command a stage, and the tools beside them.

Commands are declared here, and done by the modules beside this one, which are imported when they are called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from weaksam_cli import __version__
from weaksam_cli.cli.options import PLAIN, declare
from weaksam_cli.cli.weights_app import weights_app


class _Commands(TyperGroup):
    """Refuses an empty argument, for every command: a path that is empty would be the current folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the base class does."""
        if "" in args:
            after = f" after {args[args.index('') - 1]!r}" if args[0] else ""
            ctx.fail(f"the argument{after} is empty. Is a variable of the shell not set?")
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Commands, name="weaksam", no_args_is_help=True, pretty_exceptions_enable=False, **PLAIN
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
_WORKERS = ("workers", "executor", "executor_settings")
_ALL = (
    *_WHICH, "profile", "device", *_WORKERS, "seed", "weights_dir", "checkpoint_every", "tensorboard", "overwrite",
    "allow_stale", "dry_run", "strict", *_SPEAK,
)  # fmt: skip
_STAGE = tuple(dict.fromkeys([*_DATA, *_ALL, "variant", "inputs"]))


_OF_STAGE = {
    "cam": ("fit", "gpus"), "wsod": ("gpus",), "pgt": ("masks",), "retrain": ("gpus",), "eval": ("per_class",),
}  # fmt: skip


def _add_stages(*names: str) -> None:
    """Commands are listed in the order in which they are added: that of the pipeline."""
    for name in names:
        more = _OF_STAGE.get(name, ())
        add = app.command(name, help=_STAGE_HELP[name])
        declare(add, *_STAGE, *more, work="run:run_one_stage", stage_name=name)(lambda: None)


@declare(app.command("data"), *_DATA, work="run:run_data")
def _data(
    source: Annotated[
        str | None,
        typer.Argument(
            help="The dataset: a folder or file in any layout, voc07, voc12, coco14, coco17 (looked for), or demo."
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option("--layout", help="voc, coco, yolo, table, folder, cvat, ...; default: looked at."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images (COCO json, CSV).")
    ] = None,
    split_off: Annotated[
        str | None,
        typer.Option("--split-off", metavar="NAME=SHARE", help="Divide a test split off, such as test=0.2."),
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Download voc07, voc12, coco14 or coco17 first, into datasets/.")
    ] = False,
) -> None:
    """Read a dataset: images and image-level labels, no boxes (writes labels/*.json)."""


_add_stages("cam", "prompt")


@declare(app.command("propose"), *_STAGE, "shard", work="propose_folder:propose")
def _propose(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders of images, images, or text files with a path a line; default: the dataset's."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="With IMAGES: the .h5 file to write.")
    ] = None,
) -> None:
    """Class-agnostic boxes, for any folder of images or from a dataset's prompts (writes proposals/*.h5, or FILE)."""


_add_stages("wsod", "pgt", "retrain", "eval")


_StageRecipes = Annotated[
    list[str] | None,
    typer.Option("--recipe", metavar="STAGE=NAME", help="Another recipe of a stage (repeatable)."),
]
_StageSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="STAGE.KEY=VALUE", help="Change a stage's recipe (repeatable)."),
]


@declare(app.command("all"), *_ALL, "variant", "gpus", work="run:run_pipeline")
def _all(
    source: Annotated[str | None, typer.Argument(help="The dataset, as for `weaksam data`.")] = None,
    layout: Annotated[str | None, typer.Option("--layout", help="As for `weaksam data`.")] = None,
    recipes: _StageRecipes = None,
    overrides: _StageSettings = None,
) -> None:
    """Every stage, from labels to the table of results."""


@declare(app.command("sweep"), *_ALL, "split", work="sweep:sweep")
def _sweep(
    stage: Annotated[str, typer.Argument(help="Whose settings: cam, prompt, propose, wsod, pgt or retrain.")],
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=VALUE,VALUE", help="Values of a key of its recipe (repeatable)."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="0,1,2", help="Every setting with each; default: --seed.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until", metavar="STAGE", help="The last stage that each has of its own, before eval."
        ),
    ] = None,
    recipes: _StageRecipes = None,
    overrides: _StageSettings = None,
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="Sweep on top of this variant: read it; all names begin with its."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write every figure of every seed there, as CSV.")
    ] = None,
) -> None:
    """Variants of a stage over a grid of settings and seeds, then eval: one table with mean and spread."""


@declare(app.command("leaderboard"), *_ALL, "split", work="leaderboard:leaderboard")
def _leaderboard(
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="A,B", help="Recipes of wsod; default: all on lite0.")
    ] = None,
    proposals: Annotated[
        str | None,
        typer.Option("--proposals", metavar="A,B", help="Recipes of propose; default: the profile's."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="0,1,2", help="Each method with each; default: --seed.")
    ] = None,
    overrides: _StageSettings = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write every figure of every seed there, as CSV.")
    ] = None,
) -> None:
    """Methods of wsod over proposals of several recipes, with seeds: one table, published figures beside it."""


@declare(
    app.command("predict"),
    *_WHICH, "device", *_WORKERS, "shard", "weights_dir", "overwrite", "allow_stale", "dry_run", "strict", *_SPEAK,
    work="predict:predict_images",
)  # fmt: skip
def _predict(
    images: Annotated[
        list[Path], typer.Argument(help="Folders of images, images, or text files with a path a line.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="What to write: images with their boxes.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="A model.safetensors of retrain or wsod; default: the run's."),
    ] = None,
    use: Annotated[
        str | None,
        typer.Option(
            "--use", help="Which detector of the run: wsod, retrain or both; default: what `retrain` chose."
        ),
    ] = None,
    layout: Annotated[
        str, typer.Option("--format", help="coco, yolo, label-studio, ... (`?` lists all).")
    ] = "coco",
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", help="Leave out boxes below; default: chosen for the detector.", min=0),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option("--draw", metavar="FOLDER", help="Write pictures with the boxes there.")
    ] = None,
) -> None:
    """Find objects in new images with a trained detector of a run (writes images with boxes, and pictures)."""


@declare(app.command("report"), *_WHICH, "overwrite", *_SPEAK, work="report:report")
def _report(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page; default: report.html in the run's folder."),
    ] = None,
    images: Annotated[
        int, typer.Option("--images", help="Images of each section and split.", min=1, max=40)
    ] = 6,
) -> None:
    """One HTML page of a run: what each stage made, image by image, and how good it is."""


@declare(app.command("compare"), *_WHICH, "json", work="compare:compare")
def _compare(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Two folders of runs, or more.")
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option("--variants", metavar="A,B", help="Of one run, in place of runs; `plain`: no variant."),
    ] = None,
) -> None:
    """Runs, or variants of one, side by side: settings that differ, inputs, figures, times."""


@declare(app.command("status"), *_WHICH, "json", work="inspect:show_status")
def _status() -> None:
    """What of a run is fresh, stale, partial or missing."""


@declare(app.command("inspect"), "overwrite", "json", work="inspect:inspect_file")
def _inspect(
    file: Annotated[Path, typer.Argument(help="Any artifact (.h5, .json, .safetensors, .pth).")],
    image: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="KEY", help="Show the rows of this image (repeatable)."),
    ] = None,
    first: Annotated[
        int | None, typer.Option("--first", help="Show the first N images.", metavar="N", min=1, max=100)
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(
            "--draw", help="Write a PNG: the image, or a sheet of several, with what is in the file."
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images, where --draw does not find them.")
    ] = None,
    score: Annotated[
        float | None,
        typer.Option(
            "--score",
            help="Draw detections of this score and more; default: half of the best of their class in the image.",
        ),
    ] = None,
) -> None:
    """Open an artifact and say what is in it."""


@declare(app.command("doctor"), "run_dir", "weights_dir", "json", work="doctor:examine")
def _doctor() -> None:
    """Is this machine ready, and what to do if not."""


_CLIP = (*_WHICH, "split", "recipe", "overrides", "device", "weights_dir", *_SPEAK)


@declare(app.command("clip-templates"), *_CLIP, work="clip_templates:rank_clip_templates")
def _clip_templates(
    templates: Annotated[
        list[str] | None,
        typer.Argument(help="Candidates with one {}, like 'a photo of a {}.'; default: eight."),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="At most this many images.")] = 500,
) -> None:
    """Which prompt sees the classes of your images most evenly: CLIP-ES's choice by sharpness."""


_Format = Annotated[
    str, typer.Option("--format", help="Of the other program: detectron2, mmdet, ... (`?` lists all).")
]


@declare(app.command("export"), "overwrite", *_SPEAK, work="exchange:export_file")
def _export(
    file: Annotated[
        Path,
        typer.Argument(
            help="Detections, pseudo ground truth (.json), proposals, points (.h5), a retrained model (.safetensors)."
        ),
    ],
    layout: Annotated[
        str,
        typer.Option(
            "--format",
            help="coco, voc, yolo, labelme, cvat, label-studio, fiftyone, csv, voc-server, ... (`?` lists all).",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="What to write: a folder for voc, yolo, labelme, fiftyone, points and results of servers; else a file.",
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", help="labels/<split>.json of the images, where no run around the file has it."
        ),
    ] = None,
    order: Annotated[
        Path | None,
        typer.Option(
            "--order", help="Pickles, points: list of images, one a line: write these, in this order."
        ),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", help="Leave out boxes of lower scores.")
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="yolo: write scores as a sixth number, as predictions have them.")
    ] = False,
    images: Annotated[
        str,
        typer.Option(
            "--images",
            metavar="none|copy|link",
            help="Put the images beside the labels (yolo, voc, labelme, fiftyone); none writes their paths alone.",
        ),
    ] = "none",
) -> None:
    """Write boxes or points as annotation tools, detectors and other programs read them."""


@declare(app.command("import"), "overwrite", "allow_stale", *_SPEAK, work="exchange:import_file")
def _import(
    file: Annotated[Path, typer.Argument(help="A proposal pickle, or a folder of point text files.")],
    layout: _Format,
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


app.add_typer(weights_app, name="weights")
