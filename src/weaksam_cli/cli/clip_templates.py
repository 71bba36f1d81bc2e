"""`weaksam clip-templates`: which prompt sees the classes of your images most evenly."""

from __future__ import annotations

import json
from collections.abc import Sequence

from weaksam_cli.cli.options import CommonOptions, build_context
from weaksam_cli.console import Console
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.errors import UserError


def rank_clip_templates(
    options: CommonOptions, console: Console, templates: Sequence[str] | None, images: int
) -> None:
    """Rank prompts by sharpness on the images of a training split that have two labels or more, and print the table.

    Args:
        options: as typed.
        console: the output.
        templates: candidates; none for the usual ones.
        images: at most so many images.

    Raises:
        UserError: the recipe is not of CLIP-ES, the weights are missing, or no image has two labels and can be read.
    """
    from weaksam_cli.cam import clip_es
    from weaksam_cli.cam.clip_es.templates import CANDIDATES, choose_images, rank_on_images

    context, name = build_context(options, "cam", console), options.recipe or "clip-es"
    if load_recipe("cam", name, options.overrides).method is not clip_es:
        raise UserError("not a recipe of CLIP-ES", where=f"--recipe {name}")
    candidates = f"templates={json.dumps([*(templates or CANDIDATES)])}"
    recipe = load_recipe("cam", name, (*options.overrides, candidates)).recipe
    assert isinstance(recipe, clip_es.Recipe)  # its method says so
    split = options.split or context.train_split()
    labels = context.split(split).read()
    if not labels.is_train:
        what = f"{split!r} is no training split: its labels are not looked at"
        raise UserError(what, where="--split", remedy="Leave it out")
    chosen = choose_images(labels, images)
    weights = context.weights.require(recipe.weights)
    unread: list[str] = []
    with console.progress("images", len(chosen), "images") as progress:

        def on_image(why: str | None) -> None:
            progress.advance(1)
            if why is not None:
                unread.append(why)
                console.warn(f"left out: {why}")

        ranked = rank_on_images(weights, context.torch_device(), labels, chosen, recipe, on_image)
    if len(unread) == len(chosen):
        raise UserError("no image with two labels can be read", where=str(labels.path))
    rows = [[item.template, f"{item.value:.4g}"] for item in ranked]
    seen = len(chosen) - len(unread)
    title = f"{seen} images of {split} with two labels or more: choose the template of the lowest sharpness"
    console.table(title, ["template", "sharpness"], rows)
