"""Proposals for images that belong to no dataset: what is seen of the files, the work, and the artifact."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts import digest, open_artifact
from weaksam_cli.artifacts.points import POINTS, read_points
from weaksam_cli.artifacts.proposals import PROPOSALS, SOURCES, Source, proposals_to_rows
from weaksam_cli.artifacts.receipt import InputDigest
from weaksam_cli.artifacts.schema import ImageRows
from weaksam_cli.core.types import Points
from weaksam_cli.data.images import read_unchanged
from weaksam_cli.engine.execution import Overlapped
from weaksam_cli.engine.legacy import SHARD_IMAGES, Context, Maker, Product, ShardedMaker
from weaksam_cli.errors import ImageError
from weaksam_cli.propose.clues import Clues
from weaksam_cli.propose.listing import Listing
from weaksam_cli.propose.methods import build
from weaksam_cli.propose.recipe import ProposeRecipe, SamRecipe

DATASET, SPLIT = "images", "all"
"""What stands in the artifact in place of a dataset and its split."""
IMAGES_INPUT = "images"
_CHUNK = 32
_LEAST_SHARDS = 32
"""Small folders are cut finer than datasets, so that many processes have something to do; a shard costs 60 ms of disk."""


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A file as it was when the work began: its digest, None where it cannot be read, and its size in bytes."""

    sha256: str | None
    size: int


def look_at(path: Path) -> SeenFile:
    """Digest and size of a file; one that is missing, unreadable or no file is a failure of its own image, later."""
    try:
        # A named pipe would block for ever.
        return SeenFile(digest.of_file(path), path.stat().st_size) if path.is_file() else SeenFile(None, 0)
    except OSError:
        return SeenFile(None, 0)


def look_at_all(listing: Listing, threads: int, on_files: Callable[[int], None]) -> dict[str, SeenFile]:
    """Key -> what was seen of its file; `on_files` is called with the number of files, now and then."""

    def chunk(keys: Sequence[str]) -> list[SeenFile]:
        return [look_at(listing.path(key)) for key in keys]

    seen: dict[str, SeenFile] = {}
    chunks = [listing.keys[start : start + _CHUNK] for start in range(0, len(listing.keys), _CHUNK)]
    pool = ThreadPoolExecutor(threads)
    try:
        for keys, found in zip(chunks, pool.map(chunk, chunks), strict=True):
            seen.update(zip(keys, found, strict=True))
            on_files(len(keys))
    finally:
        # Whoever interrupts a million files does not want to wait for the rest of them.
        pool.shutdown(cancel_futures=True)
    return seen


def digest_of_all(seen: Mapping[str, SeenFile]) -> str:
    """Digest over keys and contents, in order; places play no part in it."""
    value = hashlib.sha256()
    for key, file in seen.items():
        value.update(json.dumps([key, file.sha256]).encode() + b"\n")
    return value.hexdigest()


@dataclass(frozen=True)
class FolderWork:
    """Proposals of one image.

    Attributes:
        root: `root / key` is the file of an image.
        digests: key -> digest of the file when the work began.
        clues: point prompts; None for grid prompts only.
        recipe, weights, device: the segmenter.
    """

    root: Path
    digests: Mapping[str, str | None]
    clues: Clues | None
    recipe: ProposeRecipe
    weights: Path | None
    device: str

    def open(self) -> Overlapped[NDArray[np.uint8]]:
        """Load the segmenter and open the prompts once a process."""
        points_of = _open_clues(self.clues)
        propose = build(self.recipe, self.weights, self.device)

        def load(key: str) -> NDArray[np.uint8]:
            return read_unchanged(
                self.root / key,
                self.digests[key],
                since="the work began",
                remedy="Run the same command again",
            )

        def compute(key: str, image: NDArray[np.uint8]) -> ImageRows:
            return proposals_to_rows(propose(image, points_of(key, image.shape[:2])), image.shape[:2])

        return Overlapped(load, compute)


def _open_clues(clues: Clues | None) -> Callable[[str, tuple[int, int]], Mapping[Source, Points]]:
    if clues is None:
        return lambda _key, _size: {}
    artifact = open_artifact(clues.path, POINTS, verify=False)

    def points_of(key: str, size: tuple[int, int]) -> Mapping[Source, Points]:
        image_id = clues.ids.get(key)
        if image_id is None:
            return {}
        height, width = artifact.image_value(image_id, "image_size").tolist()
        if (height, width) != tuple(size):
            raise ImageError(
                f"its points are those of an image of {width} x {height} pixels, it has {size[1]} x {size[0]}",
                where=f"{clues.path}, image {image_id}",
            )
        return cast(Mapping[Source, Points], read_points(artifact, image_id))

    return points_of


@dataclass(frozen=True)
class FolderJob:
    """Everything that decides the proposals of some images.

    Attributes:
        listing: which images.
        seen: key -> its file as it was when the work began.
        recipe: the segmenter.
        clues: point prompts, or None.
    """

    listing: Listing
    seen: Mapping[str, SeenFile]
    recipe: ProposeRecipe
    clues: Clues | None

    def maker(self, context: Context) -> ShardedMaker:
        """What makes the artifact. The size of the shards depends on the number of images alone.

        Raises:
            UserError: weights that are not found, a device that is not there.
        """
        keys = self.listing.keys
        device = context.torch_device() if isinstance(self.recipe, SamRecipe) else "cpu"
        digests = {key: file.sha256 for key, file in self.seen.items()}
        work = FolderWork(self.listing.root, digests, self.clues, self.recipe, self._weights(context), device)
        size = min(max(len(keys) // _LEAST_SHARDS, 1), SHARD_IMAGES)
        return ShardedMaker(
            PROPOSALS, keys, work, "proposals", {"source_names": SOURCES}, shard_images=size, device=device
        )

    def product(self, context: Context, output: Path, make: Maker) -> Product:
        """The artifact, made by `make`; where its images lie stands in the receipt only."""
        weights = self._weights(context)
        digests = {
            IMAGES_INPUT: InputDigest(
                path=place_of(self.listing.root, output.parent), sha256=digest_of_all(self.seen)
            )
        }
        if self.clues is not None:
            digests["prompt"] = InputDigest(
                path=place_of(self.clues.path, output.parent), sha256=self.clues.sha256
            )
        return Product(
            path=output,
            format_name=PROPOSALS.name,
            format_version=PROPOSALS.version,
            split=SPLIT,
            recipe=self.recipe.model_dump(mode="json"),
            inputs={"weights": weights} if weights else {},
            digests=digests,
            make=make,
            what="proposals",
        )

    def _weights(self, context: Context) -> Path | None:
        return context.weights.require(self.recipe.weights) if isinstance(self.recipe, SamRecipe) else None


def place_of(path: Path, folder: Path) -> str:
    """Where `path` lies: relative to `folder` where it is inside, else absolute; bytes that are not Unicode become `?`."""
    absolute, base = Path(os.path.abspath(path)), Path(os.path.abspath(folder))  # noqa: PTH100 - links are kept
    text = absolute.relative_to(base) if absolute.is_relative_to(base) else absolute
    return text.as_posix().encode("utf-8", "replace").decode()
