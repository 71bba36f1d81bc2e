"""Every place where the program reads what it did not just write, and the commands that reach it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.fuzz import arrays, texts, trees
from tests.fuzz.corpus import RECIPES, SEARCH, TINY_NETWORK
from tests.fuzz.datasets import OUTLINED, SOURCES
from tests.fuzz.texts import Mutator, blind, whole
from weaksam_cli.engine.stages import STAGE_NAMES

Command = tuple[str, ...]


@dataclass(frozen=True)
class Reader:
    """One kind of input.

    Attributes:
        needs: files and folders of the corpus that are laid out.
        files: patterns; one file that fits them is mutated in each case.
        mutators: one of them is taken; one that stands twice is taken twice as often.
        commands: run one after the other; `{file}` is the mutated file, `{name}` its name without suffix.
        writes: where they may write, beginnings of paths below the working folder; None: wherever their arguments say.
        arguments: commands with mutated arguments, in place of `commands`.
    """

    needs: Sequence[str]
    files: Sequence[str] = ()
    mutators: Sequence[Mutator] = ()
    commands: Sequence[Command] = ()
    writes: Sequence[str] | None = ()
    arguments: Callable[[Random], Sequence[Command]] | None = None


JSON = (trees.json_text, trees.json_text, trees.json_text, trees.json_text, blind, whole)
YAML = (trees.yaml_text, trees.yaml_text, trees.yaml_text, texts.lines, blind, whole)
XML = (texts.xml, texts.xml, texts.xml, texts.xml, blind, whole)
LINES = (texts.lines, texts.lines, texts.lines, blind, whole)
HDF5 = (arrays.hdf5, arrays.hdf5, arrays.hdf5, arrays.hdf5, arrays.hdf5, blind, whole)
PICKLES = (arrays.pickled, arrays.pickled, arrays.pickled, blind, whole)
TINY = ("--dataset", "tiny")
PROMPT = ("prompt", *TINY, "--split", "trainval")
_RUN = ("voc", "runs/tiny")
_LABELS = "runs/tiny/labels/trainval.json"


def _dataset(name: str, file: str, mutators: Sequence[Mutator]) -> Reader:
    """A layout: its labels, then its boxes held against proposals that are there, and its masks against detections."""
    drawn = (f"drawn/{name}.json",) if name in OUTLINED else ()
    given = tuple(word for path in drawn for word in ("--input", f"retrain={path}"))
    commands = (("data", *SOURCES[name], "--dataset", name), ("eval", "--dataset", name, *given))
    return Reader((name, f"runs/{name}", *drawn), (f"{name}/{file}",), mutators, commands, ("runs/",))


def _artifact(stage: str, folder: str, *commands: Command, writes: Sequence[str] = ()) -> Reader:
    """An artifact of the run, read by those commands, and looked at."""
    looks = (
        ("inspect", "{file}"), ("inspect", "{file}", "--image", "000001"),
        ("inspect", "{file}", "--image", "000001", "--draw", "out.png"),
    )  # fmt: skip
    return Reader(
        _RUN,
        (f"runs/tiny/{folder}",),
        HDF5 if folder.endswith("h5") else JSON,
        (*looks, *commands),
        ("out", *writes),
    )


def _propose(images: str, *more: str) -> Command:
    return ("propose", images, "-o", "out.h5", *SEARCH, *more)


def _import(name: str, *more: str) -> Command:
    return ("import", "{file}", "--format", name, "--labels", _LABELS, "-o", "out.h5", *more)


def _set_values(rng: Random) -> Sequence[Command]:
    """`--set` with any key of a recipe, or none, and any value."""
    from weaksam_cli.engine.recipes import load_recipe

    stage, name = rng.choice(RECIPES)
    keys = (*_keys(load_recipe(stage, name).resolved()),) * 3
    values = (*trees.RAW_YAML, *trees.TEXTS, *map(str, trees.NUMBERS))
    given = [
        f"{rng.choice((*keys, rng.choice(trees.TEXTS)))}={rng.choice(values)}"
        for _ in range(rng.choice((1, 1, 2)))
    ]
    if rng.random() < 0.1:
        given = [rng.choice(trees.TEXTS)]
    options = [item for text in given for item in ("--set", _argument(text))]
    where: Command = ("voc",) if stage == "data" else ()
    dry: Command = (
        () if stage in ("data", "prompt", "pgt", "eval") or name == "selective-search" else ("--dry-run",)
    )
    return [
        (
            stage,
            *where,
            *TINY,
            "--recipe",
            name,
            *options,
            *dry,
            "--overwrite",
            "--device",
            "cpu",
            "--workers",
            "1",
        )
    ]


def _keys(tree: dict[str, object], before: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found.append(before + key)
        if isinstance(value, dict):
            found += _keys(value, f"{before}{key}.")
    return found


def _argument(text: str) -> str:
    """What the kernel takes as an argument: no zero byte, not too long; a lone surrogate is a byte that is not UTF-8."""
    return text.replace("\x00", "\\0").replace("\ud800", "\udcff")[:100_000]


def _options(rng: Random) -> Sequence[Command]:
    """Any command with any value of any option."""
    value = _argument(
        str(
            rng.choice(
                (
                    *trees.TEXTS,
                    *trees.NUMBERS,
                    "1/2",
                    "0/0",
                    "3/2",
                    "-1/2",
                    "9/99999999999",
                    "cuda:99",
                    "cuda:²",
                    "cam=list.txt",
                    "prompt=x",
                    "cam=",
                    "=x",
                )
            )
        )
    )
    options = ("--dataset", "--split", "--run-dir", "--recipe", "--profile", "--variant", "--input", "--device",
    "--workers", "--shard", "--seed",
               "--weights-dir", "--checkpoint-every")  # fmt: skip
    stage = rng.choice([*STAGE_NAMES[1:]])
    file = rng.choice(
        (_LABELS, "runs/tiny/proposals/trainval.h5", "runs/tiny/pgt/trainval.json", "models/tiny.pth")
    )
    pickle = "theirs/detectron2.pkl"
    forms = (
        (stage, *TINY, "--dry-run", rng.choice(options), value),
        (stage, *TINY, "--dry-run", rng.choice(options), value, rng.choice(options), value),
        ("data", "voc", rng.choice(("--dataset", "--layout", "--images", "--split", "--recipe", "--seed",
        "--run-dir")), value),
        ("data", value, *TINY),
        ("status", rng.choice(("--dataset", "--run-dir")), value),
        ("inspect", rng.choice((file, value)), rng.choice(("--image", "--images")), value),
        ("inspect", file, "--image", "000001", "--draw", value),
        ("export", "runs/tiny/proposals/trainval.h5", "--format", rng.choice(("mmdet", value)),
        rng.choice(("--labels", "--order", "-o")), value, "-o", "out"),
        ("import", pickle, "--format", rng.choice(("detectron2", value)), "--labels", _LABELS, rng.choice(("--order",
        "--kind", "-o")), value, "-o", "out.h5"),
        _propose(value),
        ("propose", "images", "-o", value, *SEARCH),
        _propose("images", rng.choice(("--seed", "--shard", "--input", "--recipe", "--device", "--workers")), value),
        ("weights", rng.choice(("verify", "fetch")), value),
        ("weights", "list", "--weights-dir", value),
        ("clip-templates", value, *TINY),
        (value,),
    )  # fmt: skip
    return [rng.choice(forms)]


READERS: dict[str, Reader] = {
    "voc-xml": _dataset("voc", "Annotations/*.xml", XML),
    "voc-list": _dataset("voc", "ImageSets/Main/*.txt", LINES),
    "coco": _dataset("coco", "annotations.json", JSON),
    "yolo-yaml": _dataset("yolo", "data.yaml", YAML),
    "yolo-txt": _dataset("yolo", "labels/train/*.txt", LINES),
    "csv": _dataset("listed", "labels.csv", LINES),
    "classes": _dataset("classes", "*/*.jpg", (blind, whole)),
    "cvat": _dataset("cvat", "annotations.xml", XML),
    "datumaro": _dataset("datumaro", "annotations/train.json", JSON),
    "label-studio": _dataset("label_studio", "tasks.json", JSON),
    "labelme": _dataset("labelme", "*.json", JSON),
    "via": _dataset("via", "via.json", JSON),
    "brush": _dataset("brush", "tasks.json", (*JSON, texts.mask_bytes, texts.mask_bytes, texts.mask_bytes)),
    "labelme-mask": _dataset("painted", "*.json", (*JSON, texts.mask_bytes, texts.mask_bytes, texts.mask_bytes)),
    "image": Reader(("images",), ("images/*",), (arrays.image, arrays.image, blind, whole), (_propose("images"),),
    ("out",)),
    "image-list": Reader(("images", "list.txt"), ("list.txt",), LINES, (_propose("list.txt"),), ("out",)),
    "recipe": Reader(
        (*_RUN, "recipes"), ("recipes/*.yaml",), YAML, (("{stage}", "{source}", *TINY, "--recipe", "{file}",
        "--dry-run", "--overwrite"),), ("runs/tiny",),
    ),
    "recipe-used": Reader(
        (*_RUN, "recipes"), ("recipes/data-voc.yaml", "recipes/prompt-*.yaml", "recipes/pgt-*.yaml",
        "recipes/eval-*.yaml", "recipes/propose-selective*.yaml"), YAML,
        (("{stage}", "{source}", *TINY, "--split", "trainval", "--recipe", "{file}", "--overwrite"),), ("runs/tiny",),
    ),
    "toml": Reader(
        (*_RUN, "weaksam.toml"), ("weaksam.toml",), (texts.toml, texts.toml, texts.toml, blind, whole),
        (("status",), ("prompt", "--split", "trainval"), ("propose", "--dry-run"), ("weights",)), ("runs/",),
    ),
    "cam": _artifact("cam", "cam/trainval.h5", PROMPT, ("eval", *TINY, "--allow-stale"), ("prompt", *TINY, "--input",
    "cam={file}", "--split", "trainval", "--variant", "v"),
                     writes=("runs/tiny/prompts", "runs/tiny/eval")),
    "prompts": _artifact("prompt", "prompts/trainval.h5", ("export", "{file}", "--format", "points", "-o", "out"),
    ("eval", *TINY, "--allow-stale"),
                         ("propose", *TINY, "--split", "trainval", "--recipe", "region-tree", "--workers", "1",
                         "--variant", "v", "--input", "prompt={file}"),
                         writes=("runs/tiny/eval", "runs/tiny/proposals@v")),
    "proposals": _artifact("propose", "proposals/trainval.h5", ("export", "{file}", "--format", "detectron2", "-o",
    "out.pkl"), ("export", "{file}", "--format", "mmdet", "-o", "out2.pkl"),
                           ("eval", *TINY, "--allow-stale"), writes=("runs/tiny/eval",)),
    "detections": _artifact("wsod", "wsod/detections/trainval.json", ("pgt", *TINY), ("eval", *TINY, "--allow-stale"),
    writes=("runs/tiny/eval", "runs/tiny/pgt")),
    "pgt": _artifact("pgt", "pgt/trainval.json", ("eval", *TINY, "--allow-stale"), writes=("runs/tiny/eval",)),
    "labels": _artifact("data", "labels/trainval.json", (*PROMPT, "--allow-stale"), ("pgt", *TINY, "--allow-stale"),
    ("eval", *TINY, "--allow-stale"),
                        ("export", "runs/tiny/proposals/trainval.h5", "--format", "wetectron-coco", "--labels",
                        "{file}", "-o", "out.pkl"),
                        writes=("runs/tiny/eval", "runs/tiny/prompts", "runs/tiny/pgt")),
    "receipt": Reader(_RUN, ("runs/tiny/*/*.receipt.json", "runs/tiny/wsod/detections/*.receipt.json"), JSON,
                      (("status", *TINY), ("inspect", "{artifact}"), PROMPT, ("pgt", *TINY), ("eval", *TINY,
                      "--allow-stale")),
                      ("runs/tiny/eval", "runs/tiny/prompts", "runs/tiny/pgt")),
    "source": Reader(_RUN, ("runs/tiny/labels/source.json",), JSON,
                     (("status", *TINY), PROMPT, ("pgt", *TINY), ("eval", *TINY), ("propose", *TINY, "--split",
                     "trainval", *SEARCH, "--overwrite"), ("data", "voc", *TINY)),
                     ("runs/tiny/",)),
    "detectron2": Reader((*_RUN, "theirs"), ("theirs/detectron2.pkl",), PICKLES, (_import("detectron2"),), ("out",)),
    "mmdet": Reader((*_RUN, "theirs", "order.txt"), ("theirs/mmdet.pkl",), PICKLES, (_import("mmdet", "--order",
    "order.txt"),), ("out",)),
    "wetectron": Reader((*_RUN, "theirs"), ("theirs/wetectron-*.pkl",), PICKLES, (_import("wetectron"),), ("out",)),
    "points": Reader((*_RUN, "theirs"), ("theirs/points/*/*.txt",), LINES,
                     (("import", "theirs/points", "--format", "points", "--labels", _LABELS, "-o", "out.h5"),),
                     ("out",)),
    "order": Reader((*_RUN, "theirs", "order.txt"), ("order.txt",), LINES,
                    (("export", "runs/tiny/proposals/trainval.h5", "--format", "mmdet", "--order", "order.txt", "-o",
                    "out.pkl"),
                     ("import", "theirs/mmdet.pkl", "--format", "mmdet", "--order", "order.txt", "--labels", _LABELS,
                     "-o", "out.h5")), ("out",)),
    "checkpoint": Reader((*_RUN, "models"), ("models/tiny.pth",), (arrays.checkpoint, arrays.checkpoint,
    arrays.checkpoint, blind, whole),
                         (("inspect", "{file}"), ("weights", "verify", "{file}"),
                          ("cam", *TINY, "--split", "trainval", *TINY_NETWORK, "--set", "weights={file}", "--variant",
                          "v")), ("runs/tiny/cam@v",)),
    "safetensors": Reader((*_RUN, "models"), ("models/tiny.safetensors",), (arrays.safetensors, arrays.safetensors,
    blind, whole),
                          (("inspect", "{file}"), ("weights", "verify", "{file}"), ("cam", *TINY, *TINY_NETWORK,
                          "--set", "weights={file}", "--variant", "v")), ("runs/tiny/cam@v",)),
    "torchscript": Reader(("listed", "runs/listed", "models"), ("models/script.pt",), (arrays.archive, arrays.archive,
    blind, whole),
                          (("inspect", "{file}"), ("clip-templates", "--dataset", "listed", "--set",
                          "weights={file}")), ()),
    "weights-pickle": Reader((*_RUN, "models"), ("models/m.pkl",), PICKLES, (("inspect", "{file}"), ("weights",
    "verify", "{file}")), ()),
    "set": Reader(_RUN, arguments=_set_values, writes=("runs/tiny/",)),
    "options": Reader(
        (*_RUN, "images", "models", "theirs", "list.txt", "order.txt"), arguments=_options, writes=None
    ),
}  # fmt: skip
"""By name."""
