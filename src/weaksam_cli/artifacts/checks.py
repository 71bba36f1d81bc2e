"""Is an HDF5 file what its schema says? One validator for every artifact, whoever wrote the file.

The structure is checked when a file is opened: kinds of objects, types, shapes against each other, and all sizes against the
size of the file, before anything is read. Values are checked when they are read.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.schema import ANY, Array, Column, Schema
from weaksam_cli.core.names import first_few
from weaksam_cli.errors import UserError

if TYPE_CHECKING:
    import h5py

_OFFSETS: Final = Column("offsets", "int64")
_FILTERS: Final = frozenset({1, 2})
"""deflate and shuffle, which we write; a filter may be a program of somebody else's."""
_MAX_RATIO: Final = 1100
"""deflate makes at most 1032 bytes of one."""
_SLACK: Final = 1 << 16
_MAX_CHUNK: Final = 1 << 20
"""Bytes of a chunk: HDF5 unpacks whatever a stored one holds, be it a thousand times what it claims."""
_MAX_IMAGE: Final = 1 << 28
"""Bytes that one dataset may hold for one image."""
_OVERHANG: Final = 1.0
"""Pixels that a box may stand out of its image by rounding."""
_MAX_DATASETS: Final = 100
_MAX_NAMES: Final = 100_000
_MAX_TEXT: Final = 10_000
_TEXT: Final = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])
"""How HDF5 stores a text: its letters lie elsewhere."""
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


Datasets = Mapping[str, Any]
"""Those of a file, by name: an open file, or what `check_objects` has opened of it, which is faster."""


def check_objects(handle: h5py.File, file_bytes: int) -> Datasets:
    """Everything in a file is a plain dataset of plain values inside the file, and no larger than the file can hold.

    Returns:
        The datasets.

    Raises:
        ValueError: what is not.
    """
    import h5py

    names, opened = list(handle), dict[str, Any]()
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
        opened[name] = dataset
    return opened


def _check_storage(name: str, dataset: h5py.Dataset, file_bytes: int) -> None:
    import h5py

    text = h5py.check_string_dtype(dataset.dtype)
    if text is None and dataset.dtype.kind not in "iufb":
        raise ValueError(f"{name} holds values of type {dataset.dtype}")
    if dataset.shape is None or dataset.ndim < 1:
        raise ValueError(f"{name} has no rows")
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    if not _FILTERS.issuperset(filters) or len({*filters}) < len(filters) or (text and filters):
        raise ValueError(f"{name} is compressed in a way that is not read (filters {filters})")
    is_long_text = text is not None and text.length is None
    entry = _TEXT.itemsize if is_long_text else dataset.dtype.itemsize
    claimed = entry * math.prod(map(int, dataset.shape))
    if claimed > (file_bytes if text else _MAX_RATIO * file_bytes + _SLACK):
        raise ValueError(f"{name} claims {claimed:,} bytes in a file of {file_bytes:,}")
    chunks = _stored_chunks(dataset)
    chunk = entry * math.prod(dataset.chunks or ())
    if chunk > _MAX_CHUNK or any(size > chunk for _, size in chunks):
        raise ValueError(f"{name} has chunks that are larger than they say, or than {_MAX_CHUNK:,} bytes")
    if is_long_text:
        _check_texts(name, dataset, [place for place, _ in chunks], file_bytes)


def _stored_chunks(dataset: h5py.Dataset) -> list[tuple[tuple[int, ...], int]]:
    """Place and stored bytes of every chunk."""
    found: list[tuple[tuple[int, ...], int]] = []
    if dataset.chunks:
        dataset.id.chunk_iter(lambda chunk: found.append((chunk.chunk_offset, chunk.size)))
    return found


def _check_texts(name: str, dataset: h5py.Dataset, chunks: list[tuple[int, ...]], file_bytes: int) -> None:
    """Texts claim no more than the file holds: HDF5 allocates what one claims before it looks for it."""
    if dataset.chunks:
        parts = [dataset.id.read_direct_chunk(place)[1] for place in chunks]
    elif dataset.id.get_offset() is not None:
        with Path(dataset.file.filename).open("rb") as file:
            file.seek(dataset.id.get_offset())
            parts = [file.read(dataset.size * _TEXT.itemsize)]
    else:
        parts = []
    claimed = int(np.frombuffer(b"".join(parts), _TEXT)["length"].sum(dtype=np.uint64))
    if claimed > file_bytes:
        raise ValueError(f"{name} claims {claimed:,} letters in a file of {file_bytes:,} bytes")


def check_image_bytes(dataset: h5py.Dataset, rows: int) -> None:
    """One image has no more than what is read at once.

    Raises:
        ValueError: it has.
    """
    claimed = rows * dataset.dtype.itemsize * math.prod(dataset.shape[1:])
    if claimed > _MAX_IMAGE:
        raise ValueError(f"{dataset.name.strip('/')} claims {claimed:,} bytes for one image")


def check_layout(handle: Datasets, schema: Schema | None, version: int) -> list[str]:
    """Lengths and types fit each other, and what the schema declares is there.

    Returns:
        The images.

    Raises:
        ValueError: what does not.
    """
    images = _texts(handle, "image_ids")
    # Most lists are sorted, and a set of a million names takes longer than all else.
    if not all(map(operator.lt, images, images[1:])) and len(set(images)) != len(images):
        raise ValueError("an image occurs twice")
    _check_column(handle, _OFFSETS, (len(images) + 1,))
    ends = check_ends(handle["offsets"][...], "offsets")
    if len(_texts(handle, "failed_ids")) != len(_texts(handle, "failed_reasons")):
        raise ValueError("failed_ids and failed_reasons differ in length")
    if schema is None:
        return images
    rows = int(ends[-1])
    for columns, count in ((schema.columns, rows), (schema.image_columns, len(images))):
        for column in columns:
            if column.since <= version:
                _check_column(handle, column, (count, *column.shape))
    for blob in schema.blobs:
        if blob.since <= version and blob.name in handle:
            offsets = replace(_OFFSETS, name=f"{blob.name}_offsets")
            _check_column(handle, offsets, (rows + 1,))
            _check_column(handle, blob, (int(handle[offsets.name][rows]),))
    for table in schema.tables:
        if table not in handle:
            raise ValueError(f"the table {table} is missing")
        names = _texts(handle, table)
        if len(names) > _MAX_NAMES or len(set(names)) != len(names):
            raise ValueError(
                f"the table {table} has {len(names):,} names, {len(set(names)):,} of them different"
            )
        known = schema.known.get(table)
        if known is not None and list(names) != [*known][: len(names)]:
            raise ValueError(
                f"the table {table} is expected to be {', '.join(known)}, got {first_few(names, 3)}"
            )
    return images


def _check_column(handle: Datasets, column: Column, shape: tuple[int, ...]) -> None:
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


def _texts(handle: Datasets, name: str) -> list[str]:
    if name not in handle or handle[name].ndim != 1:
        raise ValueError(f"{name} is missing or no list")
    if handle[name].dtype.kind not in "SO":
        raise ValueError(f"{name} has no string datatype")
    texts: list[bytes] = handle[name][...].tolist()
    values = (
        b"\0".join(texts).decode().split("\0") if texts else []
    )  # faster than one by one; none holds a NUL
    longest = max(map(len, values), default=0)
    if longest > _MAX_TEXT:
        raise ValueError(f"{name} holds a text of {longest} letters")
    if len(values) != len(texts):
        raise ValueError(f"{name} holds a text with a NUL")
    return values


def check_ends(ends: Array, name: str) -> NDArray[np.int64]:
    """Offsets, or some of them, in the type that they are used in.

    Raises:
        ValueError: they fall, or begin below 0.
    """
    known = ends.astype(np.int64)
    if known[0] < 0 or (known[1:] < known[:-1]).any():
        raise ValueError(f"{name} does not fit the rows")
    return known


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
    range_of = np.finfo if numbers.dtype.kind == "f" else np.iinfo
    limits = range_of(column.dtype)
    low = limits.min if column.low is None else column.low
    high = limits.max if column.high is None else column.high
    if column.table:
        high = table_length(column.table) - 1
    least, most = numbers.min(), numbers.max()
    if least < low or most > high:
        what = f"{least:g} to {most:g}"
        raise ValueError(f"column {column.name}: expected values from {low:g} to {high:g}, got {what}")


def check_inside(column: Column, values: NDArray[Any], sizes: NDArray[Any]) -> None:
    """Boxes (xyxy, ordered) or points (column, row) lie in their images.

    Args:
        column: of the schema; its `inside` says what they are.
        values: of some of its rows.
        sizes: (n, 2), height and width of the image of each.

    Raises:
        ValueError: one does not.
    """
    ends = sizes[:, ::-1]
    if column.inside == "box":
        if (values[:, :2] > values[:, 2:]).any():
            raise ValueError(f"column {column.name}: expected x1 <= x2 and y1 <= y2")
        before, beyond = values < -_OVERHANG, values[:, 2:] > (ends + _OVERHANG).astype(np.float32)
    else:
        before, beyond = values < 0, values >= ends
    if before.any() or beyond.any():
        first = int(np.flatnonzero(before.any(axis=1) | beyond.any(axis=1))[0])
        height, width = sizes[first].tolist()
        place = ", ".join(f"{value:g}" for value in values[first])
        raise ValueError(f"column {column.name}: {place} leaves the image of {width} x {height} pixels")
