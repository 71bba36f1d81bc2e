"""Rows that are computed when they are asked for, in place of a file of them: stages chained image by image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weaksam_cli.artifacts import hdf5
from weaksam_cli.artifacts.read_ahead import ReadAhead
from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.artifacts.schema import ImageRows, Schema, concatenate

if TYPE_CHECKING:
    import h5py


class ComputedArtifact(Artifact):
    """An artifact that nobody wrote: the rows of an image are computed when they are first asked for.

    They pass through a file in memory, so every value is the one that a file would hold. The rows of the last image alone
    are kept. It can be sent to another process, where what computes is loaded anew.

    Args:
        path: what it would be called, for messages.
        schema: of the rows.
        image_ids: the images that can be asked for.
        tables: name -> strings, e.g. `class_names`.
        load: loads what computes an image: from its id to its rows, or an ImageError.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        image_ids: Sequence[str],
        tables: Mapping[str, Sequence[str]],
        load: Callable[[], Callable[[str], Any]],
    ) -> None:
        self.path, self.schema, self.image_ids, self.failed = path, schema, list(image_ids), {}
        self._schema = schema
        self.format_name, self.format_version = schema.name, schema.version
        self._tables, self._load = tables, load
        self._compute: Callable[[str], ImageRows] | None = None
        self._handle: h5py.File | None = None
        self._position: dict[str, int] | None = {}
        self._ahead: dict[str, ReadAhead] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compute": None, "_handle": None, "_position": {}, "_ahead": {}}

    def close(self) -> None:
        """Nothing: whoever else reads it goes on."""

    def __contains__(self, image_id: object) -> bool:
        return image_id in self.image_ids

    def table(self, name: str) -> list[str]:
        """See `Artifact.table`."""
        return list(self._tables[name])

    def datasets_shape(self, name: str) -> tuple[int, ...]:
        """Shape of a column, which is empty."""
        column = self._schema.column(name)
        if column is None:
            raise KeyError(name)
        return (0, *column.shape)

    def span(self, image_id: str) -> slice:
        """The rows of one image, which are computed now unless they were the last ones.

        Raises:
            ImageError: the image cannot be done.
        """
        if image_id not in self._positions():
            self._show(image_id)
        return super().span(image_id)

    def _show(self, image_id: str) -> None:
        import h5py

        if self._compute is None:
            self._compute = self._load()
        batch = concatenate(self._schema, [(image_id, self._compute(image_id))])
        if self._handle is not None:
            self._handle.close()
        # A name that no other file in memory has: HDF5 opens none twice.
        handle = h5py.File(f"{self.path} {id(self)}", "w", driver="core", backing_store=False)
        hdf5.create(handle, self._schema, {}, self._tables)
        hdf5.append(handle, self._schema, batch)
        self._handle, self._position, self._ahead = handle, {image_id: 0}, {}
        self.offsets = batch.offsets.astype(np.int64)


Rows = Path | ComputedArtifact
"""Where a predictor reads what an earlier stage made."""
