"""Images that belong to no dataset, for the commands that take them: looked at, counted, noted in what is made of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from weaksam_cli.artifacts.receipt import InputDigest, Receipt, read_receipt, refuse_foreign, write_receipt
from weaksam_cli.console import Console, size
from weaksam_cli.core.names import first_few
from weaksam_cli.data.labels import Category
from weaksam_cli.data.unlabelled import SPLIT, Listing, UnlabelledSplit, look_at
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.errors import UserError

IMAGES_INPUT = "images"
"""The input of an artifact that is made of them."""


def read_images(
    listing: Listing,
    console: Console,
    *,
    categories: Sequence[Category] = (),
    name: str = SPLIT,
    recipe: str = "",
) -> UnlabelledSplit:
    """The split of a listing as its files are now; says how many they are, and which were named more than once.

    Args:
        listing: the images.
        console: where that is said.
        categories: the classes that are looked for in the images.
        name: of the split.
        recipe: what is done with them, where it is to be said.
    """
    if listing.duplicates:
        again = first_few(dict.fromkeys(listing.duplicates))
        what = f"{len(listing.duplicates)} paths name an image once more and are passed over: {again}"
        console.warn(what, duplicates=len(listing.duplicates))
    count = len(listing.keys)
    with console.progress("reading the files", count) as progress:
        split = look_at(listing, progress.advance, categories, name)
    text = f"{count} images ({size(split.sizes)})"
    told = {"recipe": recipe} if recipe else {}
    console.info(f"{text}, recipe {recipe}" if recipe else text, images=count, bytes=split.sizes, **told)
    return split


def digest_of(listing: Listing, split: UnlabelledSplit, target: Path) -> InputDigest:
    """The images as an input of a file that is made of them."""
    return InputDigest(path=place_of(listing.root, target.parent), sha256=split.sha256(), file=False)


def renew_place(record: Receipt, step: Step, context: Context) -> None:
    """The images of a fresh artifact were moved: note where they lie now, for `inspect --draw`."""
    noted, now = record.identity.inputs[IMAGES_INPUT], step.given[IMAGES_INPUT]
    if noted.path != now.path:
        inputs = {**record.identity.inputs, IMAGES_INPUT: now}
        identity = record.identity.model_copy(update={"inputs": inputs})
        write_receipt(context.ops, step.path, record.model_copy(update={"identity": identity}))


def refuse_other_images(target: Path, images: InputDigest, what: str, context: Context) -> None:
    """A file that this program did not make, or made of other images, is replaced only when the user says so.

    Args:
        target: the file.
        images: where they lie, and their digest.
        what: the file holds of them.
        context: whether it is to be replaced.

    Raises:
        UserError: such a file is in the way.
    """
    refuse_foreign(target, overwrite=context.overwrite)
    record = None if context.overwrite else read_receipt(target)
    made_of = record.identity.inputs.get(IMAGES_INPUT) if record else None
    if made_of is not None and made_of.path != images.path and made_of.sha256 != images.sha256:
        what = f"holds the {what} of other images, those of {made_of.path!r}"
        remedy = "Give another name with -o, or --overwrite to replace it"
        raise UserError(what, where=str(target), remedy=remedy)


def place_of(path: Path, folder: Path) -> str:
    """Where `path` lies: relative to `folder` where it is inside, else absolute; bytes that are not Unicode become `?`."""
    absolute, base = Path(os.path.abspath(path)), Path(os.path.abspath(folder))  # noqa: PTH100 - links are kept
    text = absolute.relative_to(base) if absolute.is_relative_to(base) else absolute
    return text.as_posix().encode("utf-8", "replace").decode()
