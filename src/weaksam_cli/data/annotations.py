"""What annotations say, before any of it is believed: the one form into which every layout is read.

`reading` makes image-level labels of it and `ground_truth` boxes and masks. Which images there are, where their files lie,
what a class is called and which box is none is decided there, once for all layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from weaksam_cli.data.dataset import Remarks, Role

RawBox = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class RawObject:
    """An annotated object.

    Attributes:
        name: its class.
        difficult: VOC's flag; COCO's crowd.
        title: what it is called in remarks, such as `annotation 17`.
        box: xyxy pixel edges, 0-based (fractions of the sides where the split says so), as written and unchecked; else in
            words why there is none. None where boxes were not asked for.
        area: pixels, where the annotation says it.
        mask: from (height, width) to compressed RLE (COCO's `counts`), or None where it turns out that there is none; raises
            ValueError with the reason why it cannot be used. None where masks were not asked for, or the object has none.
    """

    name: str
    difficult: bool = False
    title: str = ""
    box: RawBox | str | None = None
    area: float | None = None
    mask: Callable[[int, int], bytes | None] | None = None


@dataclass(frozen=True, slots=True)
class RawImage:
    """An image that annotations name.

    Attributes:
        name: its file, as written: a path, or a name alone; in any spelling that tools use.
        objects: what it shows; () nothing, None where nobody said.
        key: its identity, where the layout has another than the path of the file (VOC's ids).
        path: the file, where the layout knows it.
        declared: (height, width) in pixels, as annotated.
        image_id: the dataset's own integer.
    """

    name: str
    objects: tuple[RawObject, ...] | None
    key: str | None = None
    path: Path | None = None
    declared: tuple[int, int] | None = None
    image_id: int | None = None


@dataclass(frozen=True)
class RawSplit:
    """The images of one split.

    Attributes:
        name: of the split.
        where: the file or folder that says so, for messages.
        images: in the order of the dataset.
        places: folders in which the files may lie, the likeliest first; empty where every image has its `path`.
        fractions: whether boxes are fractions of the image's sides.
        keeps_unlabelled: whether images without objects (None) belong to a training split: an empty cell of a table says so.
        remarks: what is to be told of this split.
    """

    name: str
    where: Path
    images: Sequence[RawImage]
    places: Sequence[Path] = ()
    fractions: bool = False
    keeps_unlabelled: bool = False
    remarks: Remarks = field(default_factory=Remarks)


@dataclass(frozen=True)
class RawDataset:
    """A dataset whose splits can be read.

    Attributes:
        where: for messages.
        available: its splits.
        default: those that are read unless a recipe chooses, with their roles.
        read: the images of one of the available splits.
        class_ids: class -> integer, the dataset's own table in its order; None: the classes are those that occur.
        usual_order: a table that is taken when no other class occurs (VOC's twenty).
        has_boxes: whether there can be ground truth.
        warnings: what is to be told of the whole.
    """

    where: Path
    available: Collection[str]
    default: Mapping[str, Role]
    read: Callable[[str], RawSplit]
    class_ids: Mapping[str, int] | None = None
    usual_order: Sequence[str] = ()
    has_boxes: bool = True
    warnings: Sequence[str] = ()
