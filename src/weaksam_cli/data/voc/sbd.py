"""Instance masks of the Semantic Boundaries Dataset (SBD), which has them of 11,355 images of VOC 2011, and `train_aug`.

Its instances are numbered in an order of their own, so each is given to the object of the XML file with its class and its
place. They come as published, MATLAB files in `inst`, or as pairs of PNGs: `SegmentationObjectAug` with the number of an
instance in each pixel, `SegmentationClassAug` with that of its class.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core import masks as mask_codec
from weaksam_cli.core.boxes import as_boxes, iou
from weaksam_cli.data.dataset import subfolders
from weaksam_cli.data.voc.lists import read_list, sets_folder
from weaksam_cli.data.voc.png import Stamp, mask_values, stamp_of
from weaksam_cli.errors import UserError

NAMES: Final = ("train_aug", "trainaug")
"""What the split is called: the images of SBD and of VOC's segmentation train, without those of its val: 10,582."""
_HOMES: Final = (
    *("benchmark_RELEASE/dataset", "benchmark/dataset", "SBD/dataset", "sbd/dataset", "SBD", "sbd"),
    *("VOCaug/dataset", "dataset", ""),
)
_OBJECTS: Final = "SegmentationObjectAug"
_CLASSES: Final = "SegmentationClassAug"
_TASK: Final = "Segmentation"
_BORDER: Final = 255
_MAX_BYTES: Final = 1_000_000
"""Of a MATLAB file, which may be packed a thousandfold."""
_LEAST_IOU: Final = 0.5
"""Of the box around an instance with the box of its object."""


@dataclass(frozen=True)
class SbdFolder:
    """Where SBD lies.

    Attributes:
        matlab: the folder of MATLAB files, beside which its lists lie; None without them.
        png: the folders of instances and of classes as PNGs; None without them.
    """

    matlab: Path | None
    png: tuple[Path, Path] | None

    def files(self, image_id: str) -> tuple[Path, ...]:
        """The files with the instances of an image: one of MATLAB, or two PNGs; none where there is nothing."""
        if self.png is not None:
            pair = tuple(folder / f"{image_id}.png" for folder in self.png)
            if all(path.is_file() for path in pair):
                return pair
        path = None if self.matlab is None else self.matlab / f"{image_id}.mat"
        return () if path is None or not path.is_file() else (path,)

    def own_ids(self) -> set[str]:
        """The images that SBD has: of its lists, else of its MATLAB files."""
        if self.matlab is None:
            return set()
        lists = [self.matlab.parent / f"{name}.txt" for name in ("train", "val")]
        texts = [path.read_text("utf-8", "replace") for path in lists if path.is_file()]
        return set(" ".join(texts).split()) or {path.stem for path in self.matlab.glob("*.mat")}


def find_sbd(root: Path) -> SbdFolder:
    """SBD in a VOC folder or beside it, as it is unpacked, or as tools of the field convert it."""
    places = [base / home for base in (root, root.parent, root.parent.parent) for home in _HOMES]
    matlab = next((place / "inst" for place in places if (place / "inst").is_dir()), None)
    pair = root / _OBJECTS, root / _CLASSES
    png = pair if all(folder.is_dir() for folder in pair) else None
    return SbdFolder(matlab, png)


def train_aug(root: Path, ids: Collection[str]) -> tuple[str, ...]:
    """The images of `train_aug`: of its list, else of those of SBD and VOC.

    Args:
        root: of the VOC folder.
        ids: of all its images.

    Raises:
        UserError: there is neither; what lacks is named.
    """
    sets = sets_folder(root)
    tasks = [] if sets is None else [sets / _TASK, *subfolders(sets), sets]
    lists = [place / f"{name}.txt" for place in (*tasks, root) for name in NAMES]
    if path := next((path for path in lists if path.is_file()), None):
        return read_list(path, ids)
    own = find_sbd(root).own_ids()
    train, val = (read_list((sets or root) / _TASK / f"{name}.txt", ids) for name in ("train", "val"))
    lacking = [
        what
        for what, there in (
            ("SBD (benchmark_RELEASE) in the folder or beside it", own),
            (f"ImageSets/{_TASK}/train.txt", train),
            (f"ImageSets/{_TASK}/val.txt", val),
        )
        if not there
    ]
    if lacking:
        what = f"the split {NAMES[0]} has no list ({NAMES[0]}.txt or {NAMES[1]}.txt below ImageSets)"
        remedy = f"Put the list there; or complete what it is made of, which lacks {', '.join(lacking)}"
        raise UserError(what, where=str(root), remedy=remedy)
    return tuple(sorted((own | set(train)) - set(val)))


@dataclass(frozen=True)
class Instances:
    """The instances of an image, and whose they are.

    Attributes:
        files: see `SbdFolder.files`.
        names, boxes: of the objects of the XML file, None for one without a box.
        class_names: in the order of VOC.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    boxes: tuple[tuple[float, float, float, float] | None, ...]
    class_names: Sequence[str]

    def mask(self, position: int, height: int, width: int) -> bytes | None:
        """The mask of an object as compressed RLE; None where no instance is it.

        Raises:
            ValueError: the files cannot be read, or are of another size.
        """
        values, _ = self._content()
        if values.shape != (height, width):
            size = f"{values.shape[1]} x {values.shape[0]}"
            raise ValueError(f"{self.files[0].name}: expected {width} x {height} pixels, got {size}")
        number = self._of_object.get(position)
        return None if number is None else mask_codec.encode((values == number)[None])[0]

    def _content(self) -> tuple[NDArray[np.uint8], dict[int, int]]:
        return _read(self.files, tuple(map(stamp_of, self.files)))

    @cached_property
    def _of_object(self) -> dict[int, int]:
        """Position of an object -> number of its instance; the assignment with the largest sum of IoUs."""
        from scipy.optimize import linear_sum_assignment

        values, ids = self._content()
        names = enumerate(self.class_names, start=1)
        classes = {number: name for k, name in names for number, own in ids.items() if own == k}
        numbers = [number for number in classes if (values == number).any()]
        placed = {position: box for position, box in enumerate(self.boxes) if box is not None}
        masks = [mask_codec.encode((values == number)[None])[0] for number in numbers]
        around = mask_codec.tight_boxes(masks, *values.shape)
        same = [[self.names[position] == classes[number] for number in numbers] for position in placed]
        overlap = iou(as_boxes([*placed.values()]), around)
        overlap = np.where(np.asarray(same, bool).reshape(overlap.shape), overlap, 0)
        pairs, positions = zip(*linear_sum_assignment(-overlap), strict=True), [*placed]
        return {
            positions[row]: numbers[column] for row, column in pairs if overlap[row, column] >= _LEAST_IOU
        }


@lru_cache(maxsize=2)
def _read(files: tuple[Path, ...], _: tuple[Stamp, ...]) -> tuple[NDArray[np.uint8], dict[int, int]]:
    """The instances of an image, which are asked for once for each object: their numbers in each pixel, uint8 (height,
    width), and number -> class, counted from 1.

    Raises:
        ValueError: the files cannot be read.
    """
    return _read_png(*files) if len(files) == 2 else _read_matlab(*files)


def _read_matlab(path: Path) -> tuple[NDArray[np.uint8], dict[int, int]]:
    from scipy.io import loadmat

    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path.name} is no file of SBD, which are some kilobytes")
    try:
        content: dict[str, Any] = loadmat(path, simplify_cells=True)
        found = content["GTinst"]
        values = np.asarray(found["Segmentation"])
        classes = np.atleast_1d(np.asarray(found["Categories"])).astype(np.int64)
    except Exception as error:  # scipy raises whatever a damaged file leads to
        raise ValueError(f"{path.name} cannot be read as SBD's instances ({error})") from None
    if values.ndim != 2 or values.dtype.kind not in "ui" or classes.ndim != 1:
        raise ValueError(f"{path.name} holds no instances of SBD")
    return values.astype(np.uint8), dict(enumerate(classes.tolist(), start=1))


def _read_png(objects: Path, classes: Path) -> tuple[NDArray[np.uint8], dict[int, int]]:
    """The class of an instance is that of most of its pixels."""
    values, labels = mask_values(objects), mask_values(classes)
    if values.shape != labels.shape:
        raise ValueError(f"{_OBJECTS} and {_CLASSES} have {objects.name} in different sizes")
    return values, dict(_classes(values, labels))


def _classes(values: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    for number in np.unique(values[(values > 0) & (values < _BORDER)]).tolist():
        votes = np.bincount(labels[values == number], minlength=_BORDER + 1)[1:_BORDER]
        if votes.any():
            yield number, int(votes.argmax()) + 1
