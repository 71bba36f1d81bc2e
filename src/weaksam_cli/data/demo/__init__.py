"""Images made by the program, with labels, boxes and masks, deterministic from the seed.

Eight classes with telling parts, alone, in touching groups and half hidden, at sizes that differ by a factor of six.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field

from weaksam_cli.artifacts import digest
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data import voc
from weaksam_cli.data.dataset import Difficult
from weaksam_cli.data.voc import read

if TYPE_CHECKING:
    from weaksam_cli.engine.context import Context

__all__ = ["LOOKS_LIKE", "Recipe", "likeness", "make", "read"]

LOOKS_LIKE: Final = "the word `demo`"
FOLDER: Final = "images"
_MARK: Final = "demo.json"


class Recipe(RecipeModel):
    """What is made; deterministic from `--seed`.

    Attributes:
        trainval, test: how many images.
        difficult: as for VOC.
    """

    method: Literal["demo"] = "demo"
    trainval: int = Field(default=120, ge=1, le=10_000)
    test: int = Field(default=60, ge=0, le=10_000)
    difficult: Difficult = "exclude"


def likeness(source: Path) -> int:
    """4 for the word `demo`."""
    return 4 if source == Path("demo") else 0


def make(recipe: Recipe, context: Context) -> tuple[Path, voc.Recipe]:
    """Make the images of this seed unless they are there, whole or not at all: a VOC folder, and how it is read."""
    from weaksam_cli.data.demo.voc_folder import write_demo_voc

    target = context.run.root.absolute() / FOLDER
    reading = voc.Recipe(difficult=recipe.difficult)
    wanted = digest.canonical_json(
        {"seed": context.seed, **recipe.model_dump(exclude={"difficult"})}
    ).encode()
    mark = target / _MARK
    if mark.is_file() and mark.read_bytes() == wanted:
        return target, reading
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
    return target, reading
