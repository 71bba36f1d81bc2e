"""Class activation maps as an artifact: their HDF5 schema, and the value type that they are read into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.artifacts.schema import ANY, Column, ImageRows, Schema
from weaksam_cli.core.maps import normalise, resize_bilinear
from weaksam_cli.errors import ImageError

KINDS = ("coarse", "fine", "cross")
"""Kinds of class activation maps; `kind` columns index this table, which stands in the files as `kind_names`."""
_MAX_PIXELS = 178_956_970
"""Pillow reads no larger image."""
_LARGEST = 1e12
"""No value of a map is larger; its square, summed over an image, is still a float32."""
_MAX_FUSED_BYTES = 1 << 30
_LEAST_SPAN = np.float32(1e-30)
_CROSS_STEPS = np.float32(1024)
"""Cross maps are stored in so many steps. Most of a map is near 0, where float16 keeps digits that no peak depends on and
that do not compress: a file would be up to three times as large."""


def cam_tables(class_names: Sequence[str]) -> dict[str, Sequence[str]]:
    """The tables of names of an artifact of `cam_schema`."""
    return {"class_names": class_names, "kind_names": KINDS}


def cam_schema(n_classes: int = ANY) -> Schema:
    """Class activation maps at network resolution, one row a map.

    A row is the map of one class, kind and scale; the maps of an image and of its mirror image are summed (after mirroring
    back). It is `low + span * values`, row-major, `map_size` its height and width: so a map with a large offset keeps its
    shape, which float16 by itself loses. `class_scores` are the classifier's probabilities.

    Version 1 had no `low` and `span`. Version 2 held cross maps as indexes (`codes`) into a table of 149 levels.
    """
    return Schema(
        "weaksam/cam",
        3,
        columns=(
            Column("class_index", "int32", low=0, table="class_names"),
            Column("kind", "int8", low=0, table="kind_names"),
            Column("map_index", "int16", low=0),
            Column("scale", "float32", low=0),
            Column("map_size", "int32", (2,), low=1),
            Column("low", "float32", since=2, low=-_LARGEST, high=_LARGEST),
            Column("span", "float32", since=2, fill=1, low=0, high=_LARGEST),
        ),
        image_columns=(
            Column("image_size", "int32", (2,), low=1),
            Column("class_scores", "float32", (n_classes,), low=0, high=1),
        ),
        blobs=(Column("values", "float16"),),
        tables=("class_names", "kind_names"),
        known={"kind_names": KINDS},
    )


@dataclass(frozen=True)
class ClassMaps:
    """Maps of one image at network resolution.

    Attributes:
        class_index, kind, map_index, scale: one entry a map, see `cam_schema`.
        maps: the maps, float32 (h, w) each; sizes differ between scales.
        image_size: height and width of the image.
        class_scores: float32 (n_classes,), probabilities.
    """

    class_index: NDArray[np.int32]
    kind: NDArray[np.int8]
    map_index: NDArray[np.int16]
    scale: NDArray[np.float32]
    maps: tuple[NDArray[np.float32], ...]
    image_size: tuple[int, int]
    class_scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        counts = {len(self.class_index), len(self.kind), len(self.map_index), len(self.scale), len(self.maps)}
        if len(counts) != 1:
            raise ValueError(f"class maps: expected columns of one length, got {sorted(counts)}")
        for kind in sorted({*self.kind.tolist()}):
            self._check_complete(kind)

    def _check_complete(self, kind: int) -> None:
        """Maps of a kind can be stacked: at each scale every class has the same ones."""
        of_kind = self.kind == kind
        numbers = sorted({*self.map_index[of_kind].tolist()})
        expected = [(index, number) for index in self.classes() for number in numbers]
        for scale in dict.fromkeys(self.scale[of_kind].tolist()):
            rows = np.flatnonzero(of_kind & (self.scale == np.float32(scale)))
            found = sorted(zip(self.class_index[rows].tolist(), self.map_index[rows].tolist(), strict=True))
            if found != expected or len({self.maps[row].shape for row in rows}) != 1:
                what = "expected the same maps, of one size, for each class"
                raise ValueError(f"{KINDS[kind]} maps at scale {scale:g}: {what}")

    def to_rows(self, *, scaled: bool = False) -> ImageRows:
        """As rows of an artifact of `cam_schema`.

        Args:
            scaled: store each map as fractions of its span; else as it is, for maps that begin at 0.
        """
        low, span = np.zeros(len(self.maps), np.float32), np.ones(len(self.maps), np.float32)
        values = list(self.maps)
        if scaled:
            low = np.asarray([item.min() for item in self.maps], np.float32)
            span = np.asarray([np.ptp(item) for item in self.maps], np.float32)
            values = [
                (item - bottom) / max(size, _LEAST_SPAN)
                for item, bottom, size in zip(self.maps, low, span, strict=True)
            ]
            for row in np.flatnonzero(self.kind == KINDS.index("cross")):
                values[row] = np.rint(values[row] * _CROSS_STEPS) / _CROSS_STEPS
        return ImageRows(
            columns={
                "class_index": self.class_index,
                "kind": self.kind,
                "map_index": self.map_index,
                "scale": self.scale,
                "map_size": np.asarray([item.shape for item in self.maps], dtype=np.int32).reshape(-1, 2),
                "low": low,
                "span": span,
            },
            image={"image_size": np.asarray(self.image_size, np.int32), "class_scores": self.class_scores},
            blobs={"values": values},
        )

    def classes(self) -> list[int]:
        """Indexes of the classes that have maps, ascending."""
        return sorted(set(self.class_index.tolist()))

    def stacks(self, kind: int) -> list[NDArray[np.float32]]:
        """For each scale, the maps of one kind as (k, h, w), or (k, m, h, w) where a class has m maps.

        k runs over `classes()`. An empty list when there is no map of that kind.
        """
        of_kind = self.kind == kind
        result = []
        for scale in dict.fromkeys(self.scale[of_kind].tolist()):
            rows = np.flatnonzero(of_kind & (self.scale == np.float32(scale)))
            count = len(set(self.map_index[rows].tolist()))
            order = rows[np.lexsort((self.map_index[rows], self.class_index[rows]))]
            stack = np.stack([self.maps[row] for row in order]).astype(np.float32)
            shape = (len(self.classes()), count, *stack.shape[1:])
            result.append(stack.reshape(shape) if count > 1 or KINDS[kind] == "cross" else stack)
        return result


def read_class_maps(artifact: Artifact, image_id: str) -> ClassMaps:
    """The maps of one image from an open `cam` artifact.

    Raises:
        UserError: a value that cannot be, or a map that has not the size that it says.
    """
    sizes = artifact.rows(image_id, "map_size")
    values = _flat_maps(artifact, image_id)
    height, width = (int(side) for side in artifact.image_value(image_id, "image_size"))
    with artifact.refusing(image_id):
        if height * width > _MAX_PIXELS:
            raise ValueError(f"image_size is {width} x {height}, more than any image that is read")
        return ClassMaps(
            class_index=artifact.rows(image_id, "class_index").astype(np.int32),
            kind=artifact.rows(image_id, "kind").astype(np.int8),
            map_index=artifact.rows(image_id, "map_index").astype(np.int16),
            scale=artifact.rows(image_id, "scale").astype(np.float32),
            maps=tuple(flat.reshape(int(h), int(w)) for flat, (h, w) in zip(values, sizes, strict=True)),
            image_size=(height, width),
            class_scores=artifact.image_value(image_id, "class_scores").astype(np.float32),
        )


def _flat_maps(artifact: Artifact, image_id: str) -> list[NDArray[np.float32]]:
    """The maps of one image, row-major."""
    values = [item.astype(np.float32) for item in artifact.blobs(image_id, "values")]
    if artifact.format_version == 1:
        return values
    if artifact.format_version == 2:
        levels = np.asarray(artifact.table("code_levels"), np.float32)
        codes = artifact.blobs(image_id, "codes")
        with artifact.refusing(image_id):
            values = [
                levels[code.astype(np.int64)] if len(code) else value
                for value, code in zip(values, codes, strict=True)
            ]
    low, span = (artifact.rows(image_id, name).astype(np.float32) for name in ("low", "span"))
    return [bottom + size * value for value, bottom, size in zip(values, low, span, strict=True)]


def fuse_scales(maps: ClassMaps, kind: int, height: int, width: int) -> NDArray[np.float32] | None:
    """The maps of one kind, resized to one size, summed over the scales and normalised (spec 01 §a.5).

    Args:
        maps: maps of one image.
        kind: index into `KINDS`.
        height, width: size of the answer.

    Returns:
        float32 (k, height, width), or (k, m, height, width) where a class has m maps; k runs over `maps.classes()`.
        None when there is no map of that kind.

    Raises:
        ImageError: they would take gigabytes.
    """
    views = maps.stacks(kind)
    if not views:
        return None
    count = math.prod(views[0].shape[:-2])
    if 4 * count * height * width > _MAX_FUSED_BYTES:
        what = f"{count} {KINDS[kind]} maps of {width} x {height} pixels are more than fit into memory"
        raise ImageError(what, remedy="Make the image smaller")
    total: NDArray[np.float32] = np.zeros((*views[0].shape[:-2], height, width), np.float32)
    for view in views:
        total += resize_bilinear(view, height, width)
    return normalise(total)


def class_heat(maps: ClassMaps, kind: int, height: int, width: int) -> NDArray[np.float32] | None:
    """One map a class, float32 (k, height, width): that of `fuse_scales`, where a class has several their mean."""
    fused = fuse_scales(maps, kind, height, width)
    return fused.mean(axis=1) if fused is not None and fused.ndim == 4 else fused
