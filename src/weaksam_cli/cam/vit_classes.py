"""Which class token of a checkpoint belongs to which class of a dataset.

Official files hold no names: VOC's 20 classes stand in alphabetical order, COCO's in the order of their category ids, in 80
slots (MCTformer) or in 90 with gaps (WeakTr: slot = category id - 1). Where the dataset's classes are known by name they are
found by name, so that their order and number do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from weaksam_cli.data.labels import Category
from weaksam_cli.data.voc import VOC_CLASSES
from weaksam_cli.errors import UserError

_COCO: Final = (
    "1 person,2 bicycle,3 car,4 motorcycle,5 airplane,6 bus,7 train,8 truck,9 boat,10 traffic light,11 fire hydrant,"
    "13 stop sign,14 parking meter,15 bench,16 bird,17 cat,18 dog,19 horse,20 sheep,21 cow,22 elephant,23 bear,24 zebra,"
    "25 giraffe,27 backpack,28 umbrella,31 handbag,32 tie,33 suitcase,34 frisbee,35 skis,36 snowboard,37 sports ball,"
    "38 kite,39 baseball bat,40 baseball glove,41 skateboard,42 surfboard,43 tennis racket,44 bottle,46 wine glass,47 cup,"
    "48 fork,49 knife,50 spoon,51 bowl,52 banana,53 apple,54 sandwich,55 orange,56 broccoli,57 carrot,58 hot dog,59 pizza,"
    "60 donut,61 cake,62 chair,63 couch,64 potted plant,65 bed,67 dining table,70 toilet,72 tv,73 laptop,74 mouse,"
    "75 remote,76 keyboard,77 cell phone,78 microwave,79 oven,80 toaster,81 sink,82 refrigerator,84 book,85 clock,86 vase,"
    "87 scissors,88 teddy bear,89 hair drier,90 toothbrush"
)
COCO_IDS: Final[Mapping[str, int]] = {
    name: int(number) for number, _, name in (item.partition(" ") for item in _COCO.split(","))
}
"""COCO's 80 category names and their ids."""
VOC_SLOTS: Final = 20
COCO_SLOTS_BY_ID: Final = 90


def class_slots(
    categories: Sequence[Category], n_slots: int, names: Sequence[str] | None, *, where: str
) -> list[int]:
    """The class token of every class of a dataset.

    1. A checkpoint that names its classes: by name.
    2. 20, 80 or 90 slots and classes of VOC or COCO only, any of them in any order: by name.
    3. 80 or 90 slots and all of COCO's category ids under other names: by id.
    4. As many slots as classes: in the dataset's order.

    Args:
        categories: the dataset's classes.
        n_slots: class tokens of the checkpoint.
        names: its class names, where the file holds them.
        where: the checkpoint, for the message.

    Raises:
        UserError: the classes cannot be found; names both numbers.
    """
    given = [category.name for category in categories]
    table = _slots_by_name(n_slots, names)
    if table is not None and set(given) <= set(table):
        return [table[name] for name in given]
    by_id = _slots_by_id(n_slots)
    if names is None and {category.id for category in categories} == set(by_id):
        return [by_id[category.id] for category in categories]
    if names is None and len(given) == n_slots:
        return list(range(n_slots))
    unknown = [name for name in given if table is not None and name not in table]
    which = f" and does not know {unknown[0]!r}" if unknown else ""
    raise UserError(
        f"the checkpoint has {n_slots} classes{which}, the dataset has {len(given)} classes",
        where=where,
        remedy="Give --set weights=FILE that was trained for the dataset's classes, or name the classes as the "
        "checkpoint does (VOC's and COCO's official names are known)",
    )


def _slots_by_name(n_slots: int, names: Sequence[str] | None) -> dict[str, int] | None:
    if names is not None:
        return {name: slot for slot, name in enumerate(names)}
    if n_slots == VOC_SLOTS:
        return {name: slot for slot, name in enumerate(VOC_CLASSES)}
    by_id = _slots_by_id(n_slots)
    return {name: by_id[number] for name, number in COCO_IDS.items()} if by_id else None


def _slots_by_id(n_slots: int) -> dict[int, int]:
    """COCO's category ids to slots; empty for another number of slots."""
    if n_slots == COCO_SLOTS_BY_ID:
        return {number: number - 1 for number in COCO_IDS.values()}
    if n_slots == len(COCO_IDS):
        return {number: slot for slot, number in enumerate(sorted(COCO_IDS.values()))}
    return {}
