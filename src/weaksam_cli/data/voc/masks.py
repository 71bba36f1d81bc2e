"""Instance masks of a VOC folder: VOC's own, a PNG an image, and where it has none, those of SBD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from weaksam_cli.core import masks as mask_codec
from weaksam_cli.data.annotations import RawObject
from weaksam_cli.data.voc.png import mask_values
from weaksam_cli.data.voc.sbd import Instances, SbdFolder, find_sbd

MASKS: Final = "SegmentationObject"


@dataclass(frozen=True)
class MaskFolders:
    """Where the masks of a VOC folder lie.

    Attributes:
        official: the folder of VOC's PNGs; None without one.
        sbd: where SBD lies.
        class_names: VOC's, in their order, as SBD numbers them.
    """

    official: Path | None
    sbd: SbdFolder
    class_names: Sequence[str]

    @classmethod
    def of(cls, root: Path, class_names: Sequence[str]) -> MaskFolders:
        """Those of the dataset at `root`."""
        official = root / MASKS
        return cls(official if official.is_dir() else None, find_sbd(root), class_names)

    def attach(self, image_id: str, objects: Mapping[int, RawObject]) -> tuple[RawObject, ...]:
        """The objects of an image, by their numbers in its XML file, with what reads their masks."""
        if self.official is not None and (path := self.official / f"{image_id}.png").is_file():
            return tuple(
                replace(item, mask=partial(read_mask, path, number)) for number, item in objects.items()
            )
        files = self.sbd.files(image_id)
        if not files:
            return tuple(objects.values())
        names = tuple(item.name for item in objects.values())
        boxes = tuple(item.box if isinstance(item.box, tuple) else None for item in objects.values())
        instances = Instances(files, names, boxes, self.class_names)
        return tuple(
            replace(item, mask=partial(instances.mask, position))
            for position, item in enumerate(objects.values())
        )


def read_mask(path: Path, number: int, height: int, width: int) -> bytes:
    """The mask of an object as compressed RLE: value k of the PNG is the k-th object of the XML, 255 is border.

    Raises:
        ValueError: there is no such mask, or the PNG is none of masks.
    """
    values = mask_values(path)
    if values.shape != (height, width):
        raise ValueError(
            f"{MASKS}/{path.name}: expected {width} x {height} pixels, got {values.shape[1]} x {values.shape[0]}"
        )
    mask = values == number
    if not mask.any():
        raise ValueError(f"{MASKS}/{path.name} has no pixel of it")
    return mask_codec.encode(mask[None])[0]
