"""Which prompt sees the classes of pictures most evenly: CLIP-ES's choice by sharpness, on your own pictures and classes.

python benchmarks/clip_prompts.py runs/voc12 --weights ViT-B-16.pt --template "a photo of a {}." --template "a {}."
weaksam cam --recipe clip-es --set 'templates=["a photo of a {}."]'

Read are the training pictures of a run that have two labels or more, and their labels, no boxes. For each template: the
softmax scores of the present classes against the background names, variance over mean of them, summed over the pictures.
The lowest is the one to choose. Words of classes and backgrounds come from a recipe (`--recipe`, `--set`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weaksam_cli.backbones.clip.checkpoint import load_clip
from weaksam_cli.backbones.clip.text import embed_words
from weaksam_cli.backbones.clip.vision import run_last_block, run_trunk
from weaksam_cli.cam.clip_es.grad_cam import class_probabilities
from weaksam_cli.cam.clip_es.picture import input_size, preprocess
from weaksam_cli.cam.clip_es.products import Words
from weaksam_cli.cam.clip_es.sharpness import Sharpness, rank_templates
from weaksam_cli.cam.recipe import ClipEsRecipe
from weaksam_cli.cam.stage import STAGE
from weaksam_cli.errors import UserError
from weaksam_cli.labels import LabelledImage, Labels, read_labels
from weaksam_cli.recipes import load_recipe
from weaksam_cli.runs import RunDirectory
from weaksam_cli.source import image_root, read_source

TEMPLATES = (
    "a clean origami {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "itap of a {}.",
    "a bad photo of the {}.",
    "art of the {}.",
    "a cropped photo of the {}.",
    "a rendering of a {}.",
)
"""Tried when none is named; most are templates of CLIP's own for ImageNet."""


def rank(
    network: Any,
    labels: Labels,
    images: Sequence[LabelledImage],
    recipe: ClipEsRecipe,
) -> list[Sharpness]:
    """The recipe's templates, the one to choose first. A picture is seen once, whatever the number of templates."""
    words = Words.of(recipe, labels.class_names)
    features = [_feature(network, labels, image, recipe) for image in images]
    scores = {}
    for template in recipe.templates:
        texts = embed_words(network, [*words.classes, *words.background], [template])
        classes, background = texts[: len(words.classes)], texts[len(words.classes) :]
        scores[template] = [
            class_probabilities(
                feature, classes[labels.class_indexes(image)], background, network.logit_scale
            )
            .cpu()
            .numpy()
            for feature, image in zip(features, images, strict=True)
        ]
    return rank_templates(scores)


def _feature(network: Any, labels: Labels, image: LabelledImage, recipe: ClipEsRecipe) -> Tensor:
    visual = network.visual
    pixels = labels.read_image(image)
    size = input_size(*pixels.shape[:2], patch=visual.patch_size[0], max_side=recipe.max_side)
    seen = preprocess(pixels, size).to(network.logit_scale.device)
    trunk = run_trunk(visual, seen, attention_blocks=1, half_positions=recipe.half_positions)
    return run_last_block(visual, trunk).patch_feature.detach()


def choose_images(labels: Labels, most: int) -> list[LabelledImage]:
    """Up to `most` pictures with two labels or more, evenly spread over the split."""
    several = [image for image in labels.file.images if len(image.labels or ()) > 1]
    if not several:
        raise UserError("no picture has two labels, so no template can be preferred", where=str(labels.path))
    step = max(len(several) / most, 1)
    return [several[int(index * step)] for index in range(min(most, len(several)))]


def main() -> None:
    """Rank and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument(
        "--template", action="append", dest="templates", help="a candidate with one {}; repeatable"
    )
    parser.add_argument("--split", help="default: the run's training split")
    parser.add_argument("--images", type=int, default=500, help="at most this many pictures")
    parser.add_argument("--recipe", default="clip-es")
    parser.add_argument("--set", action="append", dest="overrides", default=[])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    templates = given.templates or list(TEMPLATES)
    chosen = [*given.overrides, f"templates={json.dumps(templates)}"]
    recipe = load_recipe("cam", given.recipe, STAGE.recipe_types, chosen).recipe
    if not isinstance(recipe, ClipEsRecipe):
        raise UserError("not a recipe of clip-es", where=f"--recipe {given.recipe}")
    source = read_source(given.run)
    split = given.split or next(name for name, role in source.splits.items() if role == "train")
    labels = read_labels(RunDirectory(given.run).input("data", split), image_root(given.run, source))
    images = choose_images(labels, given.images)
    ranked = rank(load_clip(given.weights, device=given.device), labels, images, recipe)
    lines = [f"{item.value:10.4g}  {item.template}\n" for item in ranked]
    sys.stdout.write(f"{len(images)} pictures of {split} with two labels or more\n{''.join(lines)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error.one_line()}")
