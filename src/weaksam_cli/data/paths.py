"""What the layouts share about names and files: paths that stay inside, roles of splits, lists in words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from weaksam_cli.data.types import Role
from weaksam_cli.errors import UserError

SPLIT_NAMES: Final = ("trainval", "train", "training", "val", "valid", "validation", "test", "testing")


def inside(root: Path, relative: str, *, where: str) -> Path:
    """`root / relative`, refused when it is absolute or climbs out of `root` by `..`.

    Links are not resolved: a link inside the root was put there by its owner, a path in a file came from anywhere.

    Raises:
        UserError: naming the path and the place `where` it stood.
    """
    posix = PurePosixPath(relative)
    escapes = posix.is_absolute() or PureWindowsPath(relative).drive or ".." in posix.parts
    if escapes or not posix.parts or "\0" in relative:
        raise UserError(
            f"the path {relative!r} leaves the folder of the images",
            where=where,
            remedy=f"Give paths relative to {root}, without '..'",
        )
    return root / posix


def role_of(split: str) -> Role:
    """The role that a split's name suggests: val, valid, minival, test... are for testing, all others for training."""
    name = split.casefold()
    if name.startswith("train"):
        return "train"
    return "test" if "val" in name or "test" in name else "train"


def first_few(names: Iterable[str], limit: int = 5) -> str:
    """Names as a phrase, cut after `limit`."""
    listed = list(names)
    shown = ", ".join(listed[:limit])
    return shown if len(listed) <= limit else f"{shown} and {len(listed) - limit} more"


def suggestion(word: str, allowed: Sequence[str]) -> str:
    """`Did you mean ...?` when one of `allowed` is close, else the allowed words."""
    close = difflib.get_close_matches(word, allowed, n=1)
    return (
        f"Did you mean {close[0]!r}? Allowed: {first_few(allowed, 20)}"
        if close
        else f"Allowed: {first_few(allowed, 20)}"
    )


def check_class(name: str, class_names: Sequence[str], *, where: str) -> None:
    """Refuse a class that is not in the list the user gave.

    Raises:
        UserError: naming the place, the class and the allowed ones.
    """
    if name not in class_names:
        raise UserError(
            f"the class {name!r} is not in the class list",
            where=where,
            remedy=suggestion(name, class_names),
        )
