"""Write the demo's images into the run directory, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from weaksam_cli.artifacts import digest
from weaksam_cli.data.demo.voc_writer import write_demo_voc
from weaksam_cli.data.recipe import DemoRecipe
from weaksam_cli.engine.legacy import Context

_MARK = "demo.json"


def make_demo_images(recipe: DemoRecipe, context: Context, folder: str) -> Path:
    """Make the images of this seed unless they are there; returns the VOC folder."""
    target = context.run.root.absolute() / folder
    wanted = digest.canonical_json(
        {"seed": context.seed, **recipe.model_dump(exclude={"difficult"})}
    ).encode()
    mark = target / _MARK
    if mark.is_file() and mark.read_bytes() == wanted:
        return target
    context.ops.make_directory(target.parent)
    temporary = context.ops.temporary_name(target)
    try:
        context.console.info(f"drawing {recipe.trainval + recipe.test} images")
        write_demo_voc(temporary, seed=context.seed, n_trainval=recipe.trainval, n_test=recipe.test)
        context.ops.write_atomically(temporary / _MARK, wanted)
        if target.is_dir():
            shutil.rmtree(target)
        temporary.replace(target)
        context.ops.sync_directory(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
