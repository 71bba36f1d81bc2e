"""What an HDF5 artifact consists of: formats, columns, and the rows of one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
ANY = -1
"""A side that a schema leaves open: the number of classes, where it is not known."""


@dataclass(frozen=True)
class Column:
    """A dataset with one entry per row (or per image).

    Attributes:
        name: of the dataset.
        dtype: numpy's name of it.
        shape: of one entry.
        since: the version of the schema that brought it: a file of an older version reads as if it held `fill` everywhere.
        fill: see `since`.
        low, high: what values may be, ends included; None: anything finite.
        unknown: NaN stands for what nobody knows.
        table: the table of names that values index.
        inside: `box` (xyxy) or `point` (column and row): values lie in their image, of `image_size`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    since: int = 1
    fill: float = 0
    low: float | None = None
    high: float | None = None
    unknown: bool = False
    table: str = ""
    inside: Literal["", "box", "point"] = ""


@dataclass(frozen=True)
class Schema:
    """A kind of artifact.

    Attributes:
        name: format name, the root attribute `format`.
        version: format version that is written; older ones are read, too.
        columns: one entry per row; rows of all images are concatenated, image i owns rows offsets[i]:offsets[i+1].
        image_columns: one entry per image.
        blobs: flat one-dimensional values of varying length per row; `<name>_offsets` (n_rows + 1) delimits them.
        tables: tables of names that must be there.
        known: table -> all names that it may have, in their order; a file may end before the last ones.
        json: the artifact is no HDF5 but a JSON list, to which each image contributes entries.
    """

    name: str
    version: int
    columns: tuple[Column, ...]
    image_columns: tuple[Column, ...] = ()
    blobs: tuple[Column, ...] = ()
    tables: tuple[str, ...] = ()
    known: Mapping[str, Sequence[str]] = field(default_factory=dict)
    json: bool = False

    def column(self, name: str) -> Column | None:
        """The column, image column or blob of that name."""
        everything = (*self.columns, *self.image_columns, *self.blobs)
        return next((column for column in everything if column.name == name), None)


@dataclass(frozen=True)
class ImageRows:
    """What a stage computed for one image.

    Attributes:
        columns: name -> array (n_rows, *shape) for every column of the format.
        image: name -> array of the column's shape for every image column.
        blobs: name -> n_rows one-dimensional arrays for every blob.
    """

    columns: Mapping[str, Array]
    image: Mapping[str, Array] = field(default_factory=dict)
    blobs: Mapping[str, Sequence[Array]] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Rows of several images, concatenated; the contents of one shard.

    Attributes:
        image_ids: the images that were done, in order.
        offsets: int64 (n_images + 1,).
        failed: images that could not be done, with the reason of each.
        arrays: name -> concatenated columns, image columns, blob values.
        lengths: blob name -> int64 (n_rows,), length of each row's blob.
    """

    image_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    failed: tuple[tuple[str, str], ...]
    arrays: Mapping[str, Array]
    lengths: Mapping[str, NDArray[np.int64]]


def _checked(column: Column, values: Array, image_id: str, rows: int | None) -> Array:
    expected = column.shape if rows is None else (rows, *column.shape)
    array = np.asarray(values)
    if array.shape != expected:
        raise ValueError(f"{image_id}: column {column.name}: expected shape {expected}, got {array.shape}")
    return array.astype(column.dtype, copy=False)


def _row_count(schema: Schema, rows: ImageRows) -> int:
    if schema.columns:
        return len(np.asarray(rows.columns[schema.columns[0].name]))
    return 0


def concatenate(
    schema: Schema, done: Sequence[tuple[str, ImageRows]], failed: Sequence[tuple[str, str]] = ()
) -> Batch:
    """Concatenate the rows of several images in order.

    Raises:
        ValueError: when an array does not have the shape that the format declares.
        KeyError: when a declared column is missing.
    """
    counts = [_row_count(schema, rows) for _, rows in done]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    arrays: dict[str, Array] = {}
    for column in schema.columns:
        parts = [
            _checked(column, rows.columns[column.name], key, n)
            for (key, rows), n in zip(done, counts, strict=True)
        ]
        arrays[column.name] = _stack(parts, column, joined=True)
    for column in schema.image_columns:
        parts = [_checked(column, rows.image[column.name], key, None) for key, rows in done]
        arrays[column.name] = _stack(parts, column, joined=False)
    lengths: dict[str, NDArray[np.int64]] = {}
    for blob in schema.blobs:
        values = [
            np.asarray(item).astype(blob.dtype, copy=False)
            for _, rows in done
            for item in rows.blobs[blob.name]
        ]
        if len(values) != offsets[-1]:
            raise ValueError(f"blob {blob.name}: expected {offsets[-1]} entries, got {len(values)}")
        lengths[blob.name] = np.asarray([item.size for item in values], dtype=np.int64)
        arrays[blob.name] = _stack(
            [item.reshape(-1) for item in values], Column(blob.name, blob.dtype), joined=True
        )
    return Batch(tuple(key for key, _ in done), offsets, tuple(failed), arrays, lengths)


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of several, in order."""
    if len(batches) == 1:
        return batches[0]
    ends = np.cumsum([0, *(batch.offsets[-1] for batch in batches)])
    return Batch(
        image_ids=tuple(key for batch in batches for key in batch.image_ids),
        offsets=np.concatenate(
            [[0], *(batch.offsets[1:] + end for batch, end in zip(batches, ends, strict=False))]
        ).astype(np.int64),
        failed=tuple(item for batch in batches for item in batch.failed),
        arrays={
            name: np.concatenate([batch.arrays[name] for batch in batches]) for name in batches[0].arrays
        },
        lengths={
            name: np.concatenate([batch.lengths[name] for batch in batches]) for name in batches[0].lengths
        },
    )


def _stack(parts: list[Array], column: Column, *, joined: bool) -> Array:
    if not parts:
        return np.zeros((0, *column.shape), dtype=column.dtype)
    return np.concatenate(parts) if joined else np.stack(parts)
