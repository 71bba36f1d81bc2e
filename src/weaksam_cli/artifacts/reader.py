"""Open an HDF5 artifact: refuse what is foreign, newer, damaged or of another stage, in words."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts import receipt as receipts
from weaksam_cli.artifacts.checks import (
    check_ends,
    check_inside,
    check_layout,
    check_objects,
    check_values,
    reading,
)
from weaksam_cli.artifacts.read_ahead import ReadAhead
from weaksam_cli.artifacts.schema import ANY, Array, Column, Schema
from weaksam_cli.errors import UserError, nearest

if TYPE_CHECKING:
    import h5py

FORMAT_PREFIX = "weaksam/"
_ROWS_AT_ONCE = 1 << 13
_FEW = 16


class Artifact:
    """A complete HDF5 artifact, opened for reading; use it as a context manager.

    Attributes:
        path: the file.
        schema: what was expected of it; None where anything was.
        image_ids: the images that have rows, in order.
        failed: image -> reason, for images that could not be done.
        tables: name -> strings, e.g. `class_names`.
    """

    def __init__(self, path: Path, handle: h5py.File, schema: Schema | None) -> None:
        self.path = path
        self._handle = handle
        self.format_name = str(handle.attrs["format"])
        self.format_version = int(handle.attrs["format_version"])
        self.image_ids: list[str] = check_layout(handle, schema, self.format_version)
        self.offsets: NDArray[np.int64] = handle["offsets"][...].astype(np.int64)
        failed = [handle[name].asstr()[...].tolist() for name in ("failed_ids", "failed_reasons")]
        self.failed: dict[str, str] = dict(zip(*failed, strict=True))
        self.schema = schema
        self._ahead: dict[str, ReadAhead] = {}
        self._texts: dict[str, list[str]] = {}
        self._position: dict[str, int] | None = None
        self._lookups = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _repr_html_(self) -> str:
        """For notebooks."""
        from weaksam_cli.artifacts.notebook import artifact_html

        return artifact_html(self)

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def check(self) -> None:
        """Look at every value.

        Raises:
            UserError: one cannot be.
        """
        schema = self.schema or Schema("", 0, ())
        rows = int(self.offsets[-1])
        blobs = [blob for blob in schema.blobs if f"{blob.name}_offsets" in self._handle]
        lengths = [(column, rows) for column in schema.columns]
        lengths += [(column, len(self)) for column in schema.image_columns]
        lengths += [(blob, len(self._handle[blob.name])) for blob in blobs]
        for column, total in lengths:
            for start in range(0, total, _ROWS_AT_ONCE):
                self._values(column.name, slice(start, min(start + _ROWS_AT_ONCE, total)))
        for blob in blobs:
            for start in range(0, rows, _ROWS_AT_ONCE):
                self._ends(blob.name, slice(start, min(start + _ROWS_AT_ONCE, rows)))

    def rename(self, names: Mapping[str, str]) -> None:
        """Know the images by other names, and no more those without one; whole columns stay as they are."""
        self._position = {names[key]: index for key, index in self._positions().items() if key in names}
        self.image_ids = list(self._position)
        self.failed = {names[key]: reason for key, reason in self.failed.items() if key in names}

    def __len__(self) -> int:
        return len(self.image_ids)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self._index(image_id) is not None

    def _positions(self) -> dict[str, int]:
        if self._position is None:
            self._position = dict(zip(self.image_ids, range(len(self.image_ids)), strict=True))
        return self._position

    def _index(self, image_id: str) -> int | None:
        """Which image it is. The first few are looked for: a table of a million names takes longer than that."""
        if self._position is not None or self._lookups == _FEW:
            return self._positions().get(image_id)
        self._lookups += 1
        try:
            return self.image_ids.index(image_id)
        except ValueError:
            return None

    @property
    def names(self) -> list[str]:
        """Names of all datasets in the file."""
        return sorted(self._handle)

    @property
    def attributes(self) -> dict[str, Any]:
        """Root attributes; JSON ones (recipe, inputs) as Python values.

        Raises:
            UserError: one is neither a text nor a number, or is no JSON.
        """
        values: dict[str, Any] = {}
        with reading(self.path):
            for name, value in self._handle.attrs.items():
                plain = value.item() if isinstance(value, np.generic) else value
                if not isinstance(plain, str | int | float):
                    raise ValueError(f"the attribute {name} is neither a text nor a number")
                values[name] = json.loads(str(plain)) if name in ("recipe", "inputs") else plain
        return values

    def table(self, name: str) -> list[str]:
        """A table of names, e.g. `class_names`; integers in columns are indexes into it."""
        if name not in self._texts:
            with reading(self.path):
                self._texts[name] = self._handle[name].asstr()[...].tolist()
        return [*self._texts[name]]

    def column(self, name: str) -> Array:
        """A whole column, rows of all images."""
        return self._values(name, slice(None))

    def _values(self, name: str, rows: slice) -> Array:
        """Entries of a dataset; one that the schema got after this file was written reads as its `fill`."""
        column = self.schema.column(name) if self.schema else None
        if column is not None and column.since > self.format_version:
            count = int(self.offsets[-1]) if rows.stop is None else rows.stop - rows.start
            return np.full((count, *column.shape), column.fill, column.dtype)
        with reading(self.path):
            if rows.stop is None:
                return self._checked(column, self._handle[name], rows)
            return self._some(name, rows, partial(self._checked, column))

    def _some(self, name: str, rows: slice, read: Callable[[h5py.Dataset, slice], Array]) -> Array:
        """Some entries of a dataset, as `read` gives them."""
        if name not in self._ahead:
            dataset = self._handle[name]
            self._ahead[name] = ReadAhead(partial(read, dataset), dataset)
        return self._ahead[name](rows)

    def _checked(self, column: Column | None, dataset: h5py.Dataset, rows: slice) -> Array:
        values: Array = dataset[rows]
        if column is not None:
            check_values(column, values, lambda table: len(self._handle[table]))
            if column.inside:
                check_inside(column, values, self._sizes(rows, len(values)))
        return values

    def _sizes(self, rows: slice, count: int) -> Array:
        """Height and width of the image of each row."""
        start = rows.start or 0
        ends = np.clip(self.offsets, start, start + count) - start
        first = int(np.searchsorted(ends, 0, side="right")) - 1
        stop = int(np.searchsorted(ends, count))
        sizes: Array = self._handle["image_size"][first:stop]
        return np.repeat(sizes, np.diff(ends[first : stop + 1]), axis=0)

    def span(self, image_id: str) -> slice:
        """The rows of one image.

        Raises:
            UserError: when the image is not in the artifact; the message says if it failed, and why.
        """
        index = self._index(image_id)
        if index is None:
            raise UserError(
                self._absence(image_id), where=str(self.path), remedy=nearest(image_id, self.image_ids)
            )
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def _absence(self, image_id: str) -> str:
        if image_id in self.failed:
            return f"image {image_id!r} failed in this stage: {self.failed[image_id]}"
        return f"there is no image {image_id!r}"

    def rows(self, image_id: str, name: str) -> Array:
        """Rows of one image in a column."""
        return self._values(name, self.span(image_id))

    def all_rows(self, image_id: str, schema: Schema) -> dict[str, NDArray[Any]]:
        """Rows of one image in every column of a schema, in the schema's dtypes."""
        return {item.name: self.rows(image_id, item.name).astype(item.dtype) for item in schema.columns}

    @contextmanager
    def refusing(self, image_id: str) -> Iterator[None]:
        """Values of an image that its type refuses (ValueError, IndexError) are the fault of the file: a UserError."""
        try:
            yield
        except (ValueError, IndexError) as error:
            raise UserError(
                f"image {image_id!r}: {error}", where=str(self.path), remedy="Make the file again"
            ) from error

    def image_value(self, image_id: str, name: str) -> Array:
        """The entry of one image in an image column."""
        self.span(image_id)
        index = self._index(image_id) or 0
        return np.asarray(self._values(name, slice(index, index + 1))[0])

    def blobs(self, image_id: str, name: str) -> list[Array]:
        """The blob values of the rows of one image."""
        span = self.span(image_id)
        if f"{name}_offsets" not in self._handle:
            return [self._values(name, slice(0, 0))] * (span.stop - span.start)
        ends = self._ends(name, span)
        values = self._values(name, slice(int(ends[0]), int(ends[-1])))
        return [values[start - ends[0] : stop - ends[0]] for start, stop in itertools.pairwise(ends)]

    def _ends(self, name: str, rows: slice) -> NDArray[np.int64]:
        """Where the blob values of some rows begin, and where the last ends."""
        name = f"{name}_offsets"
        with reading(self.path):
            ends: NDArray[Any] = self._some(
                name, slice(rows.start, rows.stop + 1), lambda dataset, some: check_ends(dataset[some], name)
            )
        return ends

    def __iter__(self) -> Iterator[str]:
        return iter(self.image_ids)

    def datasets_shape(self, name: str) -> tuple[int, ...]:
        """Shape of a dataset."""
        shape: tuple[int, ...] = tuple(self._handle[name].shape)
        return shape

    def datasets(self) -> list[tuple[str, tuple[int, ...], str]]:
        """Name, shape and dtype of every dataset, for `inspect`."""
        return [(name, tuple(item.shape), str(item.dtype)) for name, item in sorted(self._handle.items())]


def open_artifact(
    path: Path | str | Artifact, schema: Schema | None = None, *, verify: bool = True
) -> Artifact:
    """Open the HDF5 artifact at `path`.

    Args:
        path: the `.h5` file; an open artifact stays as it is.
        schema: what is expected; None accepts every artifact of this program.
        verify: compare the file with the SHA-256 in its receipt first.

    Raises:
        UserError: a missing, foreign, damaged or incomplete file, another format than `schema`, or a newer format version.
    """
    import h5py

    if isinstance(path, Artifact):
        return path
    path = Path(path)
    if not path.is_file():
        raise UserError("there is no such file", where=str(path))
    record = receipts.read_receipt(path)
    if verify and record is not None:
        receipts.verify(path, record)
    try:
        handle = h5py.File(path, "r")
    except OSError as error:
        raise UserError("not a readable HDF5 file", where=str(path), remedy="make it again") from error
    try:
        with reading(path):
            check_objects(handle, path.stat().st_size)
            _check_format(handle, path, schema)
            return Artifact(path, handle, schema or known_schema(handle))
    except UserError:
        handle.close()
        raise


def known_schema(handle: h5py.File) -> Schema | None:
    """The schema of a file of any stage, by its format; None for one that has values of its own stage alone."""
    from weaksam_cli.artifacts.class_maps import cam_schema
    from weaksam_cli.artifacts.points import POINTS
    from weaksam_cli.artifacts.proposals import PROPOSALS

    classes = handle.get("class_names")
    n_classes = len(classes) if classes is not None and classes.ndim == 1 else ANY
    known = {schema.name: schema for schema in (cam_schema(n_classes), POINTS, PROPOSALS)}
    return known.get(str(handle.attrs["format"]))


def _check_format(handle: h5py.File, path: Path, schema: Schema | None) -> None:
    name, version = handle.attrs.get("format"), handle.attrs.get("format_version")
    if not isinstance(name, str) or not name.startswith(FORMAT_PREFIX):
        raise UserError("this HDF5 file was not written by weaksam", where=str(path))
    if not isinstance(version, int | np.integer) or version < 1:
        raise ValueError(f"format_version is {version!r}")
    wanted = schema or known_schema(handle)
    if schema is not None and name != schema.name:
        raise UserError(
            f"holds {name.removeprefix(FORMAT_PREFIX)[:100]}, expected {schema.name.removeprefix(FORMAT_PREFIX)}",
            where=str(path),
            remedy="give the artifact of the right stage",
        )
    if wanted is not None and version > wanted.version:
        raise UserError(
            f"has format version {version}, this program reads up to {wanted.version}",
            where=str(path),
            remedy="install a newer weaksam-cli",
        )
