"""The words that CLIP reads for classes and backgrounds, published ones and a user's own (spec 01 §c.1, `clip_text.py`).

Data, re-typed. `sknowboard` is the published misspelling; `class_prompts` of the recipe mends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from weaksam_cli.errors import UserError, unknown

Synonyms = Literal["voc", "coco", "none"]

BACKGROUND: Final = (
    *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea"),
    *("railway", "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean", "road"),
    *("rock", "street", "valley", "bridge", "sign"),
)
"""VOC's 25. COCO's 23 lack `keyboard` and `sign`: the words that occur in names of its classes."""

_VOC: Final[Mapping[str, str]] = {
    "bird": "bird avian",
    "chair": "chair seat",
    "person": "person with clothes,people,human",
    "tvmonitor": "tvmonitor screen",
}
_COCO: Final[Mapping[str, str]] = {
    **_VOC,
    "backpack": "backpack,bag",
    "umbrella": "umbrella,parasol",
    "handbag": "handbag,purse",
    "tie": "necktie",
    "snowboard": "sknowboard",
    "baseball glove": "glove",
    "spoon": "dessertspoon",
    "remote": "remote control",
    "hair drier": "hairdrier,blowdrier",
}
_COCO_SPELLINGS: Final[Mapping[str, str]] = {
    "motorcycle": "motorbike",
    "airplane": "aeroplane",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "tv": "tvmonitor screen",
}
"""The published code calls six classes of COCO by their names in VOC; here are COCO's own."""

SYNONYMS: Final[Mapping[Synonyms, Mapping[str, str]]] = {
    "voc": _VOC,
    "coco": {**_COCO, **_COCO_SPELLINGS},
    "none": {},
}
"""Class name -> what CLIP reads in its place; classes that are not here are read by their own names."""


def class_words(names: Sequence[str], *, synonyms: Synonyms, overrides: Mapping[str, str]) -> list[str]:
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
    for name in overrides:
        if name not in names:
            what = f"class_prompts: the dataset has no class {name!r}"
            raise unknown(what, name, names, where="recipe of cam")
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
