"""From the names of classes to the words that CLIP reads, for VOC, COCO and a user's own classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weaksam_cli.cam.clip_es.vocabulary import SYNONYMS, Synonyms
from weaksam_cli.errors import UserError, suggestion


def class_words(
    names: Sequence[str], *, synonyms: Synonyms = "voc", overrides: Mapping[str, str] | None = None
) -> list[str]:
    """What CLIP reads for each class.

    A name in `overrides` is read as it says, a name in the table of synonyms as that says (in any case), and all others
    as they are, with spaces for underscores.

    Args:
        names: the classes.
        synonyms: which table.
        overrides: class name -> words.

    Raises:
        UserError: an override is of no class.
    """
    overrides = overrides or {}
    for name in overrides:
        if name not in names:
            raise UserError(
                f"class_prompts: the dataset has no class {name!r}{suggestion(name, names)}",
                where="recipe of cam",
                remedy=f"Allowed: {', '.join(names)}",
            )
    table = SYNONYMS[synonyms]
    return [overrides.get(name) or table.get(_plain(name).casefold(), _plain(name)) for name in names]


def background_words(background: Sequence[str], names: Sequence[str]) -> list[str]:
    """The background names that are not words of a class name.

    A background that is a class would take half of the class's probability. CLIP-ES leaves `keyboard` and `sign` out for
    COCO, which has the classes `keyboard` and `stop sign`; this is the rule behind it, for any classes.

    Raises:
        UserError: none is left: a lone class would have nothing to be compared with.
    """
    taken = {word for name in names for word in (_plain(name).casefold(), *_plain(name).casefold().split())}
    left = [word for word in background if _plain(word).casefold() not in taken]
    if not left:
        raise UserError(
            "every background name is a class of the dataset",
            where="recipe of cam",
            remedy="Name some that are not: --set 'background=[ground, sky]'",
        )
    return left


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split())
