"""Is an HDF5 file what its schema says? One validator for every artifact, whoever wrote the file.

The structure is checked when a file is opened: kinds of objects, types, shapes against each other, and all sizes against the
size of the file, before anything is read. Values are checked when they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.schema import ANY, Array, Column, Schema
from weaksam_cli.errors import UserError

if TYPE_CHECKING:
    import h5py

TEXTS: Final = ("image_ids", "failed_ids", "failed_reasons")
_FILTERS: Final = frozenset({1, 2, 3, 32000})
"""deflate, shuffle, fletcher32, lzf: what every build has, and what cannot become a program of somebody else's."""
_MAX_RATIO: Final = 1100
"""deflate makes at most 1032 bytes of one."""
_SLACK: Final = 1 << 16
_MAX_CHUNK: Final = 64 << 20
_MAX_DATASETS: Final = 100
_MAX_NAMES: Final = 100_000
_MAX_TEXT: Final = 10_000
UNREADABLE: Final = (
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
)
"""What h5py raises for files that are damaged or made to be."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever the library raises inside becomes the word that the file is damaged.

    Raises:
        UserError: in place of everything else.
    """
    try:
        yield
    except UserError:
        raise
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"the artifact is damaged: {reason}", where=str(path), remedy="Make it again"
        ) from error


def check_objects(handle: h5py.File, file_bytes: int) -> None:
    """Everything in a file is a plain dataset of plain values inside the file, and no larger than the file can hold.

    Raises:
        ValueError: what is not.
    """
    import h5py

    names = list(handle)
    if len(names) > _MAX_DATASETS:
        raise ValueError(f"it holds {len(names)} objects")
    for name in names:
        if not isinstance(handle.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is a link to another place, which is not followed")
        dataset = handle.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise ValueError(f"{name} is no dataset")
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"{name} is stored outside of the file")
        _check_storage(name, dataset, file_bytes)


def _check_storage(name: str, dataset: h5py.Dataset, file_bytes: int) -> None:
    import h5py

    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    if not is_text and dataset.dtype.kind not in "iufb":
        raise ValueError(f"{name} holds values of type {dataset.dtype}")
    if dataset.shape is None or dataset.ndim < 1:
        raise ValueError(f"{name} has no rows")
    properties = dataset.id.get_create_plist()
    filters = {properties.get_filter(index)[0] for index in range(properties.get_nfilters())}
    if not filters <= _FILTERS:
        raise ValueError(f"{name} is compressed in a way that is not read ({sorted(filters - _FILTERS)})")
    limit = _MAX_RATIO * file_bytes + _SLACK
    claimed = dataset.dtype.itemsize
    for side in dataset.shape:
        claimed *= int(side)
    chunk = dataset.dtype.itemsize
    for side in dataset.chunks or ():
        chunk *= int(side)
    if claimed > limit or chunk > _MAX_CHUNK:
        raise ValueError(f"{name} claims {claimed:,} bytes in a file of {file_bytes:,}")


def check_layout(handle: h5py.File, schema: Schema | None, version: int) -> None:
    """Lengths and types fit each other, and what the schema declares is there.

    Raises:
        ValueError: what does not.
    """
    images, ends = _texts(handle, "image_ids"), _ends(handle, "offsets")
    if len(set(images)) != len(images):
        raise ValueError("an image occurs twice")
    if len(ends) != len(images) + 1:
        raise ValueError(f"offsets has {len(ends)} entries for {len(images)} images")
    if len(_texts(handle, "failed_ids")) != len(_texts(handle, "failed_reasons")):
        raise ValueError("failed_ids and failed_reasons differ in length")
    if schema is None:
        return
    rows = int(ends[-1])
    for columns, count in ((schema.columns, rows), (schema.image_columns, len(images))):
        for column in columns:
            if column.since <= version:
                _check_column(handle, column, (count, *column.shape))
    for blob in schema.blobs:
        if blob.since <= version and blob.name in handle:
            last = _ends(handle, f"{blob.name}_offsets", rows + 1)[-1]
            _check_column(handle, blob, (int(last),))
    for table in schema.tables:
        if table not in handle:
            raise ValueError(f"the table {table} is missing")
        names = _texts(handle, table)
        if len(names) > _MAX_NAMES or len(set(names)) != len(names):
            raise ValueError(
                f"the table {table} has {len(names):,} names, {len(set(names)):,} of them different"
            )


def _check_column(handle: h5py.File, column: Column, shape: tuple[int, ...]) -> None:
    if column.name not in handle:
        raise ValueError(f"column {column.name} is missing")
    dataset = handle[column.name]
    fits = len(dataset.shape) == len(shape) and all(
        want in (ANY, got) for want, got in zip(shape, dataset.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"column {column.name}: expected shape {shape}, got {dataset.shape}")
    wanted, found = np.dtype(column.dtype), dataset.dtype
    if (wanted.kind == "f") != (found.kind == "f") or found.kind not in "iufb":
        raise ValueError(f"column {column.name}: expected {wanted}, got {found}")


def _texts(handle: h5py.File, name: str) -> list[str]:
    if name not in handle or handle[name].ndim != 1:
        raise ValueError(f"{name} is missing or no list")
    values: list[str] = handle[name].asstr()[...].tolist()
    for value in values:
        if len(value) > _MAX_TEXT:
            raise ValueError(f"{name} holds a text of {len(value)} letters")
        value.encode()  # lone surrogates are no text
    return values


def _ends(handle: h5py.File, name: str, length: int | None = None) -> NDArray[np.int64]:
    """Offsets: from 0 upwards."""
    if name not in handle or handle[name].ndim != 1 or handle[name].dtype.kind not in "iu":
        raise ValueError(f"{name} is missing or no list of integers")
    ends: NDArray[np.int64] = handle[name][...].astype(np.int64)
    if len(ends) == 0 or ends[0] != 0 or (ends[1:] < ends[:-1]).any() or length not in (None, len(ends)):
        raise ValueError(f"{name} does not fit the rows")
    return ends


def check_values(column: Column, values: Array, table_length: Callable[[str], int]) -> None:
    """Values are those that a column may hold.

    Args:
        column: of the schema.
        values: of some of its rows.
        table_length: entries of a table of names.

    Raises:
        ValueError: one is not.
    """
    if values.size == 0:
        return
    numbers: Any = values
    if values.dtype.kind == "f":
        known = numbers[~np.isnan(numbers)] if column.unknown else numbers
        if not np.isfinite(known).all():
            raise ValueError(f"column {column.name} holds values that are not finite")
        numbers = known
        if numbers.size == 0:
            return
    low, high = column.low, column.high
    if column.table:
        high = table_length(column.table) - 1
    least, most = numbers.min(), numbers.max()
    if (low is not None and least < low) or (high is not None and most > high):
        what = f"{least:g} to {most:g}"
        raise ValueError(f"column {column.name}: expected values from {low} to {high}, got {what}")
