"""Good inputs of every kind, in one working folder: made by the program, or by a few lines, in seconds."""

from __future__ import annotations

import contextlib
import io
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz.datasets import OUTLINED, SOURCES, write_datasets
from tests.fuzz.process import program
from tests.tiny import synthetic_cam
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.console import Console, Mode
from weaksam_cli.core.masks import encode
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import RESULTS, result_texts
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.recipes import find_recipe
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.stages import load_stage
from weaksam_cli.engine.steps import Step, make
from weaksam_cli.models.weights.catalogue import WeightsFinder

SEARCH = ("--recipe", "selective-search", "--workers", "1")
TINY_NETWORK = (
    "--recipe", "weaktr", "--set", "fit.network={width: 64, depth: 2, patch: 16}", "--set", "scales=[1.0]", "--set",
    "cross_layers=[1]",
    "--set", "fit.reduction=1", "--set", "fit.epochs=1", "--set", "fit.crop=32", "--set", "fit.initial=null",
    "--workers", "1",
)  # fmt: skip
"""A WeakTr that is trained in a moment."""


def make_corpus(folder: Path) -> Path:
    """Write everything into `folder`, which becomes the working folder meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(out),
    ):
        try:
            _datasets()
            _artifacts(Path("runs/tiny"))
            _exchange()
            _files()
        except SystemExit as error:
            raise AssertionError(out.getvalue()) from error
    return folder


def _do(*arguments: str) -> None:
    try:
        program(arguments)
    except SystemExit as ending:
        if ending.code:
            raise


def _datasets() -> None:
    """Of every layout one, with labels, and proposals that `eval` can hold against its boxes."""
    write_datasets()
    for name, source in SOURCES.items():
        _do("data", *source, "--dataset", name)
        _do("propose", "--dataset", name, *SEARCH)
    Path("drawn").mkdir()
    for name in OUTLINED:
        (path,) = Path("runs", name, "proposals").glob("*.h5")
        labels = read_labels(Path("runs", name, "labels", f"{path.stem}.json"), Path())
        Path("drawn", f"{name}.json").write_bytes(_results(labels, replace(_detections(), masks=_masks())))
    shutil.copytree("runs/voc", "runs/tiny")


def _artifacts(run: Path) -> None:
    """Of every stage one, those of networks made up."""
    run_data = ("--dataset", "tiny")
    _do("data", "voc", *run_data, "--overwrite")
    _do("propose", *run_data, *SEARCH, "--overwrite")
    context = Context(
        dataset="tiny", run=RunDirectory(run), console=Console(Mode.QUIET), ops=FileOps(), weights=WeightsFinder(())
    )  # fmt: skip
    labels = read_labels(run / "labels" / "trainval.json", Path("voc/JPEGImages"))
    make(synthetic_cam(run / "cam" / "trainval.h5", labels.keys), load_stage("cam"), context)
    _do("prompt", *run_data, "--split", "trainval")

    def detect(job: Job) -> Outcome:
        job.context.ops.write_atomically(job.path, _results(labels, _detections()))
        return Outcome(len(labels.keys))

    path, inputs = run / "wsod" / "detections" / "trainval.json", {"data": run / "labels" / "trainval.json"}
    make(
        Step(path, RESULTS, "trainval", RecipeModel(), inputs, detect, "made up"), load_stage("wsod"), context
    )
    _do("pgt", *run_data)


def _results(labels: Labels, detections: Detections) -> bytes:
    """The same detections in every image."""
    texts = result_texts(labels)
    found = [text for key in labels.keys for text in texts(key, detections)]
    return ("[\n" + ",\n".join(found) + "\n]\n").encode()


def _masks() -> tuple[bytes, ...]:
    drawn = np.zeros((3, 48, 64), bool)
    drawn[:, 5:29, 6:38] = True
    return tuple(encode(drawn))


def _detections() -> Detections:
    return Detections(
        np.asarray([[6, 5, 38, 29], [0, 0, 10, 20], [30, 20, 64, 48]], np.float32),
        np.asarray([0, 1, 2]),
        np.asarray([0.9, 0.5, 0.2], np.float32),
    )


def _exchange() -> None:
    """Files of other programs."""
    Path("theirs").mkdir()
    for name in ("detectron2", "mmdet", "wetectron-voc", "wetectron-coco"):
        _do("export", "runs/tiny/proposals/trainval.h5", "--format", name, "-o", f"theirs/{name}.pkl")
    for path in Path("theirs").glob("*.pkl"):  # lists, which mutations reach into; arrays stay
        content = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps(content, protocol=4))
    _do("export", "runs/tiny/prompts/trainval.h5", "--format", "points", "-o", "theirs/points")
    shutil.copy("voc/ImageSets/Main/trainval.txt", "order.txt")


def _files() -> None:
    """Files by themselves: images, lists, recipes, settings, models."""
    import torch
    from safetensors.torch import save_file

    Path("images").mkdir()
    for name in ("a.jpg", "b.png", "c.tif", "d.webp", "e.bmp", "f.gif"):
        Image.open("voc/JPEGImages/000001.jpg").save(Path("images") / name)
    Path("list.txt").write_text(
        "# images\n" + "".join(f"images/{path.name}\n" for path in sorted(Path("images").iterdir()))
    )
    Path("weaksam.toml").write_text(
        'dataset = "tiny"\nrun_dir = "runs/tiny"\nprofile = "embedded"\nweights_dir = "models"\n'
        'device = "cpu"\nworkers = 1\nseed = 0\n'
    )
    Path("recipes").mkdir()
    for stage, name in RECIPES:
        shutil.copy(find_recipe(stage, name), Path("recipes") / f"{stage}-{name}.yaml")
    Path("models").mkdir()
    _do("cam", "--dataset", "tiny", *TINY_NETWORK, "--fit", "--split", "trainval", "--variant", "fit")
    shutil.move("runs/tiny/cam@fit/model.pth", "models/tiny.pth")
    shutil.rmtree("runs/tiny/cam@fit")
    state = torch.load("models/tiny.pth", weights_only=True)["model"]
    save_file(state, "models/tiny.safetensors")
    Path("models/m.pkl").write_bytes(
        pickle.dumps(
            {"model": {"a.weight": np.zeros((2, 3)), "b": np.ones(1, np.float32)}, "__author__": "x"}
        )
    )
    torch.jit.save(
        torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())), "models/script.pt"
    )


RECIPES = (
    ("data", "voc"), ("data", "coco"), ("data", "folder"), ("cam", "lite0"), ("cam", "weaktr"), ("cam", "clip-es"),
    ("prompt", "weaksam"),
    ("propose", "region-tree"), ("propose", "selective-search"), ("propose", "sam-vit-b"), ("wsod", "oicr-lite0"),
    ("wsod", "mist-vgg16"),
    ("pgt", "adaptive"), ("pgt", "top1"), ("retrain", "faster-rcnn-lite0-fpn"), ("eval", "default"),
)  # fmt: skip
