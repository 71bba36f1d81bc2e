"""Columnar HDF5: create a file, append batches to it. The same writer makes shards and merged artifacts.

Layout of a file: `image_ids` (n_images), `offsets` (n_images + 1), one dataset per column, `<blob>` and `<blob>_offsets`,
`failed_ids` and `failed_reasons`, and one string dataset per table of names (`class_names`, `source_names`, ...).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from weaksam_cli.artifacts.schema import Array, Batch, Column, Schema

if TYPE_CHECKING:
    import h5py

_CHUNK_BYTES = 1 << 17
_GZIP_LEVEL = 4
TEXT_DATASETS = ("image_ids", "failed_ids", "failed_reasons")


def create(
    handle: h5py.File, schema: Schema, attributes: Mapping[str, Any], tables: Mapping[str, Sequence[str]]
) -> None:
    """Lay out an empty artifact in an open, empty HDF5 file."""
    import h5py

    for name, value in sorted(attributes.items()):
        handle.attrs[name] = value
    text = h5py.string_dtype("utf-8")
    for name in TEXT_DATASETS:
        handle.create_dataset(name, (0,), maxshape=(None,), dtype=text, chunks=(1024,))
    _growing(handle, Column("offsets", "int64"))
    handle["offsets"].resize((1,))
    for column in (*schema.columns, *schema.image_columns):
        _growing(handle, column)
    for blob in schema.blobs:
        _growing(handle, Column(blob.name, blob.dtype))
        _growing(handle, Column(f"{blob.name}_offsets", "int64"))
        handle[f"{blob.name}_offsets"].resize((1,))
    for name, values in sorted(tables.items()):
        handle.create_dataset(name, data=np.asarray(list(values), dtype=object), dtype=text)


def append(handle: h5py.File, schema: Schema, batch: Batch) -> None:
    """Append the rows of `batch` to a file laid out by `create`."""
    _extend_text(handle["image_ids"], batch.image_ids)
    _extend_text(handle["failed_ids"], [key for key, _ in batch.failed])
    _extend_text(handle["failed_reasons"], [reason for _, reason in batch.failed])
    _extend(handle["offsets"], batch.offsets[1:] + handle["offsets"][-1])
    for column in (*schema.columns, *schema.image_columns):
        _extend(handle[column.name], batch.arrays[column.name])
    for blob in schema.blobs:
        ends = handle[f"{blob.name}_offsets"]
        _extend(ends, np.cumsum(batch.lengths[blob.name]) + ends[-1])
        _extend(handle[blob.name], batch.arrays[blob.name])


def read_batch(handle: Mapping[str, Any], schema: Schema) -> Batch:
    """Everything in a small file (a shard), or in its datasets by name, as one batch."""
    names = [column.name for column in (*schema.columns, *schema.image_columns, *schema.blobs)]
    return Batch(
        image_ids=tuple(handle["image_ids"].asstr()[...].tolist()),
        offsets=handle["offsets"][...],
        failed=tuple(
            zip(
                handle["failed_ids"].asstr()[...].tolist(),
                handle["failed_reasons"].asstr()[...].tolist(),
                strict=True,
            )
        ),
        arrays={name: handle[name][...] for name in names},
        lengths={blob.name: np.diff(handle[f"{blob.name}_offsets"][...]) for blob in schema.blobs},
    )


def batch_bytes(schema: Schema, batch: Batch) -> bytes:
    """A complete small HDF5 file with `batch`, as bytes: equal batches give equal bytes."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as handle:
        create(handle, schema, {"format": schema.name, "format_version": schema.version}, {})
        append(handle, schema, batch)
    return buffer.getvalue()


def _growing(handle: h5py.File, column: Column) -> None:
    entry = int(np.dtype(column.dtype).itemsize * np.prod(column.shape, dtype=np.int64))
    rows = max(1, _CHUNK_BYTES // max(entry, 1))
    handle.create_dataset(
        column.name,
        (0, *column.shape),
        maxshape=(None, *column.shape),
        dtype=column.dtype,
        chunks=(rows, *column.shape),
        compression="gzip",
        compression_opts=_GZIP_LEVEL,
        shuffle=True,
    )


def _extend(dataset: h5py.Dataset, values: Array) -> None:
    if len(values):
        start = len(dataset)
        dataset.resize(start + len(values), axis=0)
        dataset[start:] = values


def _extend_text(dataset: h5py.Dataset, values: Sequence[str]) -> None:
    if values:
        _extend(dataset, np.asarray(list(values), dtype=object))
