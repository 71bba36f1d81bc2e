"""The words of CLIP-ES: what its published code calls classes and backgrounds (spec 01 §c.1, `clip_text.py`).

Data, re-typed. `sknowboard` is the published misspelling; `class_prompts` of the recipe mends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

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
