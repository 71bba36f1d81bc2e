"""From an image to its class activation maps by a class-token transformer: one forward a view (spec 01 §a.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weaksam_cli.artifacts.class_maps import KINDS, ClassMaps
from weaksam_cli.cam.class_tokens.method import MapSettings
from weaksam_cli.cam.stage import normalised
from weaksam_cli.core.maps import classes_of_views
from weaksam_cli.data.labels import Category
from weaksam_cli.data.voc import VOC_CLASSES
from weaksam_cli.errors import UserError
from weaksam_cli.models.lite import IMAGENET_MEAN, IMAGENET_STD
from weaksam_cli.models.vit.attention import Workspace
from weaksam_cli.models.vit.checkpoint import VitCheckpoint
from weaksam_cli.models.vit.network import ClassTokenVit, ClueMaps

FloatArray = NDArray[np.float32]
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
COCO_SLOTS_BY_ID: Final = 90


@dataclass(frozen=True)
class Views:
    """An image at several sizes; mirror images are made where they are needed.

    Attributes:
        image_size: height and width of the image.
        pixels: float32 (3, h, w), normalised, one for each scale.
    """

    image_size: tuple[int, int]
    pixels: tuple[NDArray[np.float32], ...]


def make_views(image: NDArray[np.uint8], scales: Sequence[float], *, max_side: int, patch: int) -> Views:
    """The image at every scale, by Pillow's bicubic resizing.

    Args:
        image: uint8 RGB (H, W, 3).
        scales: factors of both sides; sizes are rounded half to even, and are not made multiples of the patch.
        max_side: an image whose longer side is larger is seen at this size before it is scaled.
        patch: least side of a view.
    """
    height, width = image.shape[:2]
    shrink = min(1.0, max_side / max(height, width))
    sizes = [
        (max(patch, round(width * shrink * scale)), max(patch, round(height * shrink * scale)))
        for scale in scales
    ]
    return Views(
        (height, width), tuple(normalised(image, size, IMAGENET_MEAN, IMAGENET_STD) for size in sizes)
    )


@dataclass(frozen=True)
class ClueNetwork:
    """A network, and how it is asked.

    Attributes:
        network: frozen, in evaluation mode.
        slots: the class token of every class of the dataset.
        settings: what maps are wanted.
        device: where it lives.
        workspace: memory that every forward uses again.
    """

    network: ClassTokenVit
    slots: tuple[int, ...]
    settings: MapSettings
    device: str
    workspace: Workspace = field(default_factory=Workspace)

    def batches(self, pixels: FloatArray) -> Iterator[tuple[Tensor, list[bool]]]:
        """The views of one size, with whether each is mirrored.

        A view and its mirror image are one batch on a GPU. On a CPU they come one after the other: a batch is no faster
        there (benchmarks/cam.py) and takes twice the memory.
        """
        plain = torch.from_numpy(pixels)[None].to(self.device)
        views = [(plain, False), (plain.flip(-1), True)] if self.settings.flip else [(plain, False)]
        if self.device == "cpu":
            yield from ((view, [mirrored]) for view, mirrored in views)
        else:
            yield torch.cat([view for view, _ in views]), [mirrored for _, mirrored in views]


def open_network(
    settings: MapSettings, weights: Path, categories: Sequence[Category], device: str
) -> ClueNetwork:
    """Load the network of a method and find the dataset's classes in it.

    Raises:
        UserError: the checkpoint does not fit the settings or the dataset.
    """
    checkpoint = VitCheckpoint.read(weights)
    shape = checkpoint.shape(settings.heads)
    missing = [layer for layer in settings.cross_layers if layer >= shape.depth]
    if missing:
        raise UserError(
            f"cross_layers: there is no layer {missing[0]}, the network has {shape.depth}, counted from 0",
            where=str(weights),
            remedy=f"Give --set 'cross_layers=[{max(0, shape.depth - 2)}, {shape.depth - 1}]'",
        )
    slots = class_slots(categories, shape.n_classes, checkpoint.class_names, where=str(weights))
    network = settings.load_network(checkpoint).to(device)
    return ClueNetwork(network, tuple(slots), settings, device)


@torch.inference_mode()
def class_maps(clues: ClueNetwork, views: Views, given: list[int] | None) -> ClassMaps:
    """The maps of one image, one forward a view for all kinds.

    The maps of a scale are the sum over its views, mirror images mirrored back, as the published code sums them at image
    size: resizing is linear and symmetric, so the sum may come first. A scale without a view that counts has no maps.

    Args:
        clues: the network.
        views: the image.
        given: indexes of the classes that get maps; None predicts them from the class-token logits: the first view in which
            a class exceeds the threshold decides, and views before it count for nothing.
    """
    sums: dict[tuple[float, str], FloatArray] = {}
    seen: list[FloatArray] = []
    classes: NDArray[np.int64] = np.zeros(0, np.int64)
    for scale, pixels in zip(clues.settings.scales, views.pixels, strict=True):
        for batch, mirrored in clues.batches(pixels):
            entering, found = _ask(clues, batch, given, seen)
            if found is not None:
                classes = np.flatnonzero(entering.any(axis=0))
                _add(sums, scale, found, entering, mirrored)
    keys = [(key, row, index) for key, maps in sums.items() for row, index in np.ndindex(maps.shape[:2])]
    scores = 1 / (1 + np.exp(-np.stack(seen).astype(np.float64)))
    return ClassMaps(
        class_index=np.asarray([classes[row] for _, row, _ in keys], np.int32),
        kind=np.asarray([KINDS.index(kind) for (_, kind), _, _ in keys], np.int8),
        map_index=np.asarray([index for _, _, index in keys], np.int16),
        scale=np.asarray([scale for (scale, _), _, _ in keys], np.float32),
        maps=tuple(sums[key][row, index] for key, row, index in keys),
        image_size=views.image_size,
        class_scores=scores.mean(axis=0).astype(np.float32),
    )


def _ask(
    clues: ClueNetwork, batch: Tensor, given: list[int] | None, seen: list[FloatArray]
) -> tuple[NDArray[np.bool_], ClueMaps | None]:
    """The forward of some views: bool (B, classes), which classes enter, and their maps, None where none does.

    `seen` gets the logits of the views. What the forward keeps of its attentions is free again afterwards.
    """
    half = clues.settings.precision == "auto" and clues.device != "cpu"
    with torch.autocast("cuda", torch.float16, enabled=half):
        encoded = clues.network.encode_for_maps(batch, clues.workspace)
    seen.extend(encoded.class_logits()[:, clues.slots].float().cpu().numpy())
    entering = classes_of_views(given, np.stack(seen), clues.settings.logit_threshold)[-len(batch) :]
    tokens = [clues.slots[index] for index in np.flatnonzero(entering.any(axis=0))]
    if not tokens:
        return entering, None
    return entering, clues.network.maps(encoded, tokens, clues.settings.cross_layers)


def _add(
    sums: dict[tuple[float, str], FloatArray],
    scale: float,
    found: ClueMaps,
    entering: NDArray[np.bool_],
    mirrored: Sequence[bool],
) -> None:
    """Add the maps of the views of one batch, each (classes, maps of a class, h, w), to the sums of their scale.

    Args:
        sums: (scale, kind) -> the sum so far.
        scale: of the views.
        found: their maps.
        entering: bool (B, classes), see `classes_of_views`; a view without any class does not count.
        mirrored: per view, whether it shows the mirror image.
    """
    kinds = {"coarse": found.coarse[:, :, None], "fine": found.fine[:, :, None], "cross": found.cross}
    for kind, maps in kinds.items():
        for view, classes, mirror in zip(maps, entering, mirrored, strict=True):
            if classes.any():
                array: FloatArray = (view.flip(-1) if mirror else view).cpu().numpy()
                before = sums.get((scale, kind))
                sums[scale, kind] = array if before is None else before + array


def class_slots(
    categories: Sequence[Category], n_slots: int, names: Sequence[str] | None, *, where: str
) -> list[int]:
    """The class token of a checkpoint for every class of a dataset.

    Official files hold no names: VOC's 20 classes stand in alphabetical order, COCO's in the order of their category ids, in
    80 slots (MCTformer) or in 90 with gaps (WeakTr: slot = category id - 1). Where the dataset's classes are known by name
    they are found by name, so that their order and number do not matter.

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
    if names is not None and len(names) != n_slots:
        what = f"the checkpoint names {len(names)} classes and has {n_slots} class tokens"
        raise UserError(what, where=where, remedy="Fetch or train it again")
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
    if n_slots == len(VOC_CLASSES):
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
