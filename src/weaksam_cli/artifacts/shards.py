"""Shards: small complete files beside their target, from which the target is merged.

A shard's name carries the digest of its bytes (`00007-<digest>.h5`), so a damaged one is found, and two processes that make
the same shard write the same file. The directory carries the key of the work, so shards of another recipe never mix.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from weaksam_cli.artifacts import digest, hdf5
from weaksam_cli.artifacts.checks import UNREADABLE, check_layout, check_objects
from weaksam_cli.artifacts.fsops import TEMPORARY, FileOps
from weaksam_cli.artifacts.receipt import receipt_path
from weaksam_cli.artifacts.schema import Batch, Schema, concatenate, join
from weaksam_cli.errors import UserError

_DIGEST_LENGTH = 16
_SHARD_NAME = re.compile(rf"(\d{{5,}})-[0-9a-f]{{{_DIGEST_LENGTH}}}\.(h5|json)")
_TRIED = 3
"""Shards that are read, at most, to learn how many images they have."""
_OUR_FILES = re.compile(rf"{_SHARD_NAME.pattern}|checkpoint\.pt|{TEMPORARY.pattern}")
_OUR_FOLDERS = re.compile(rf"[0-9a-f]{{{_DIGEST_LENGTH}}}")


class _Shard(Protocol):
    """What one shard holds."""

    @property
    def image_ids(self) -> Sequence[str]:
        """The images that were done."""
        ...

    @property
    def failed(self) -> Sequence[tuple[str, str]]:
        """Those that failed, with the reason of each."""
        ...


T = TypeVar("T", bound=_Shard)


class ShardLostError(Exception):
    """A shard vanished or is damaged; the work is to be done again, or another process has finished it."""


@dataclass(frozen=True)
class ShardPlan:
    """How the images of a target are divided: image i belongs to shard i // size.

    Attributes:
        target: the artifact that the shards are merged into.
        key: identity key of the work (`Identity.key()`).
        form: format of the shards.
        image_ids: all images, in order.
        size: images a shard.
        together: images whose rows are written at once into the target, a multiple of `size`; None for those of a shard. The
            target's bytes depend on it, and not on `size`.
    """

    target: Path
    key: str
    schema: Schema
    image_ids: tuple[str, ...]
    size: int
    together: int | None = None

    @property
    def directory(self) -> Path:
        """Where the shards of this work lie."""
        return shards_root(self.target) / self.key[:_DIGEST_LENGTH]

    def __len__(self) -> int:
        return math.ceil(len(self.image_ids) / self.size)

    def images(self, index: int) -> tuple[str, ...]:
        """The images of shard `index`."""
        return self.image_ids[index * self.size : (index + 1) * self.size]

    def done(self) -> dict[int, Path]:
        """Shards that are on the disk: index -> file."""
        return {index: self.directory / name for name, index in self._listing()}

    def done_indexes(self) -> set[int]:
        """Indexes of the shards that are on the disk; one listing of the folder."""
        return {index for _, index in self._listing()}

    def missing(self) -> list[int]:
        """Indexes of the shards that are still to be made."""
        done = self.done_indexes()
        return [index for index in range(len(self)) if index not in done]

    def as_begun(self) -> ShardPlan:
        """The plan with the size of the shards that are on the disk: another version may have chosen another.

        Raises:
            UserError: no rows of them can be written together.
        """
        size, together = self._found_size(), self.together or self.size
        if size is None or size == self.size:
            return self
        if together % size:
            raise UserError(
                f"shards of {size} images lie there, and this version of the program makes shards of {self.size}",
                where=str(self.directory),
                remedy="End the work with the version that began it, or remove the folder",
            )
        return replace(self, size=size, together=together)

    def _found_size(self) -> int | None:
        """Images a shard of those that lie there: the first that can be read tells it."""
        for name, index in self._named()[:_TRIED]:
            with contextlib.suppress(*UNREADABLE, StopIteration, ValidationError):
                images = _image_ids((self.directory / name).read_bytes(), self.schema)
                first = next(place for place, key in enumerate(self.image_ids) if key in images)
                size = first // index if index else len(images)
                if size and images == {*self.image_ids[index * size : (index + 1) * size]}:
                    return size
        return None

    def unfit_place(self, reason: str) -> UserError:
        """The error that ends the work when shards are lost again and again."""
        return UserError(
            f"shards vanish while they are worked on ({reason})",
            where=str(self.directory),
            remedy="Does something else clean this folder? Choose another place",
        )

    def _listing(self) -> list[tuple[str, int]]:
        count = len(self)
        return [(name, index) for name, index in self._named() if index < count]

    def _named(self) -> list[tuple[str, int]]:
        """What bears the name of a shard, of whatever size."""
        found = [(entry.name, _SHARD_NAME.fullmatch(entry.name)) for entry in _entries(self.directory)]
        return [(name, int(match[1])) for name, match in found if match]


def shards_root(target: Path) -> Path:
    """The directory that holds the shards of `target`, of whatever key."""
    return target.with_name(target.name + ".shards")


@dataclass(frozen=True)
class Outcome:
    """What one run of a step did.

    Attributes:
        images: how many images the artifact holds.
        failed: (image, reason) of those that could not be done.
        computed: images that this command computed itself.
        left_out: (image, reason) of annotated objects that cannot be ground truth, and of pseudo boxes without a mask.
    """

    images: int
    failed: tuple[tuple[str, str], ...] = ()
    computed: int = 0
    left_out: tuple[tuple[str, str], ...] = ()


def check_place(target: Path) -> None:
    """Refuse a place that is taken: a folder where a file is to be, or a folder of shards that is not ours.

    Raises:
        UserError: what stands there.
    """
    remedy = "Move it away, or write to another place"
    for path in (target, receipt_path(target)):
        if path.is_dir():
            raise UserError("a folder stands where a file is to be", where=str(path), remedy=remedy)
    root = shards_root(target)
    if foreign := _foreign(root):
        raise UserError(f"the place for unfinished work {foreign}", where=str(root), remedy=remedy)


def _foreign(root: Path) -> str | None:
    """What tells that a folder of shards is not ours, or that something in it only bears the name of one of our files."""
    if root.is_symlink():
        return "is a link"
    if root.exists() and not root.is_dir():
        return "is no folder"
    for entry in _entries(root):
        ours = _OUR_FOLDERS if entry.is_dir(follow_symlinks=False) else _OUR_FILES
        inside = _entries(entry.path) if ours is _OUR_FOLDERS else [entry]
        named = [item for item in inside if _OUR_FILES.fullmatch(item.name)]
        if not ours.fullmatch(entry.name) or not all(item.is_file(follow_symlinks=False) for item in named):
            return f"holds {entry.name!r}, which weaksam did not write"
    return None


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What a folder holds, by name; nothing where another process has removed it."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def shard_bytes(schema: Schema, done: Sequence[tuple[str, Any]], failed: Sequence[tuple[str, str]]) -> bytes:
    """A shard as a complete small file: equal contents give equal bytes.

    Args:
        schema: of the target.
        done: (image, what was computed for it): `ImageRows`, or for a JSON target the texts of its entries.
        failed: (image, reason).
    """
    if schema.json:
        return json.dumps({"done": done, "failed": failed}, ensure_ascii=False).encode()
    return hdf5.batch_bytes(schema, concatenate(schema, done, failed))


def write_shard(ops: FileOps, plan: ShardPlan, index: int, data: bytes) -> bool:
    """Write one finished shard, the `shard_bytes` of its images.

    Returns:
        True when another process had written the same one before.

    Raises:
        ShardLostError: the folder of the shards was removed meanwhile: another process has merged them.
    """
    suffix = "json" if plan.schema.json else "h5"
    path = plan.directory / f"{index:05d}-{digest.of_bytes(data)[:_DIGEST_LENGTH]}.{suffix}"
    there = path.exists()
    try:
        ops.write_atomically(path, data)
    except FileNotFoundError as error:
        raise ShardLostError(f"the folder of {path} vanished") from error
    return there


def _load_shards(ops: FileOps, plan: ShardPlan, parse: Callable[[bytes], T]) -> Iterator[T]:
    """All shards, in order; each is checked against the digest in its name, and its images against the plan.

    Raises:
        ShardLostError: when one is missing, damaged or of other images (it is removed first, so that it is made again).
    """
    done = plan.done()
    for index in range(len(plan)):
        path = done.get(index)
        try:
            data = path.read_bytes() if path else None
        except FileNotFoundError:
            data = None
        if path is None or data is None:
            raise ShardLostError(f"shard {index} of {plan.target} is missing")
        shard = None
        if digest.of_bytes(data)[:_DIGEST_LENGTH] == path.stem.partition("-")[2]:
            with contextlib.suppress(*UNREADABLE):
                shard = parse(data)
        if shard is None or not _fits(shard, plan.images(index)):
            ops.remove(path)
            raise ShardLostError(f"shard {path} is damaged")
        yield shard


def _fits(shard: _Shard, images: tuple[str, ...]) -> bool:
    """Does a shard hold these images, each once, in their order?"""
    failed = [image for image, _ in shard.failed]
    done = [image for image in images if image not in failed]
    return done == list(shard.image_ids) and failed == [image for image in images if image in failed]


def merge(
    ops: FileOps, plan: ShardPlan, attributes: Mapping[str, Any], tables: Mapping[str, Sequence[str]]
) -> Outcome:
    """Merge all shards into the target, one in memory at a time; `attributes` and `tables` are for HDF5.

    Raises:
        ShardLostError: a shard is missing or damaged.
        UserError: every image failed; nothing is written, and the shards are removed, so that all is tried again.
    """
    if plan.schema.json:
        return _merge_json(ops, plan)
    import h5py

    images, failed = 0, list[tuple[str, str]]()

    def parse(data: bytes) -> Batch:
        with h5py.File(io.BytesIO(data), "r") as shard:
            datasets = check_objects(shard, len(data))
            check_layout(datasets, replace(plan.schema, tables=()), plan.schema.version)
            return hdf5.read_batch(datasets, plan.schema)

    def fill(temporary: Path) -> None:
        nonlocal images
        ops.before("write", temporary)
        with h5py.File(temporary, "x") as handle:
            hdf5.create(handle, plan.schema, attributes, tables)
            for batch in _together(_load_shards(ops, plan, parse), plan):
                ops.before("append", temporary)
                hdf5.append(handle, plan.schema, batch)
                images += len(batch.image_ids)
                failed.extend(batch.failed)
        _require(images, failed, ops, plan)

    ops.build_atomically(plan.target, fill)
    return Outcome(images, tuple(failed))


def _together(shards: Iterator[Batch], plan: ShardPlan) -> Iterator[Batch]:
    """Shards joined to what is written at once."""
    count = (plan.together or plan.size) // plan.size
    while some := list(islice(shards, count)):
        yield join(some)


def _merge_json(ops: FileOps, plan: ShardPlan) -> Outcome:
    images, failed = 0, list[tuple[str, str]]()

    def fill(temporary: Path) -> None:
        nonlocal images
        ops.before("write", temporary)
        with temporary.open("xb") as file:
            before = b"[\n"
            for shard in _load_shards(ops, plan, TypeAdapter(_JsonShard).validate_json):
                for _, texts in shard.done:
                    for text in texts:
                        file.write(before + text.encode())
                        before = b",\n"
                images += len(shard.done)
                failed.extend(shard.failed)
            file.write((before if before == b"[\n" else b"") + b"\n]\n")
        _require(images, failed, ops, plan)

    ops.build_atomically(plan.target, fill)
    return Outcome(images, tuple(failed))


def _require(images: int, failed: Sequence[tuple[str, str]], ops: FileOps, plan: ShardPlan) -> None:
    if images or not failed:
        return
    remove_shards(ops, plan.target)
    what = "{}: {}".format(*failed[0])
    if len(failed) > 1:
        what = f"none of the {len(failed)} images could be done; the first is {what}"
    raise UserError(what, where=str(plan.target), remedy="Nothing was written")


class _JsonShard(NamedTuple):
    """A shard of a JSON artifact: images with the texts of their entries, and those that failed."""

    done: list[tuple[str, list[str]]]
    failed: list[tuple[str, str]]

    @property
    def image_ids(self) -> list[str]:
        """The images that were done."""
        return [image for image, _ in self.done]


def _image_ids(data: bytes, schema: Schema) -> set[str]:
    """The images of a shard, those that failed among them."""
    if schema.json:
        shard = TypeAdapter(_JsonShard).validate_json(data)
        return {*shard.image_ids, *(image for image, _ in shard.failed)}
    import h5py

    with h5py.File(io.BytesIO(data), "r") as handle:
        check_objects(handle, len(data))
        return {key for name in ("image_ids", "failed_ids") for key in handle[name].asstr()[...].tolist()}


def remove_shards(ops: FileOps, target: Path) -> None:
    """Remove the shards of a target that is complete, those of other keys too, and nothing that we did not write."""
    root = shards_root(target)
    if root.is_symlink():
        return
    folders = [
        Path(entry.path)
        for entry in _entries(root)
        if _OUR_FOLDERS.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
    ]
    for folder in (*folders, root):
        for entry in reversed(_entries(folder)):
            if _OUR_FILES.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                ops.remove(Path(entry.path))
        with contextlib.suppress(OSError):
            folder.rmdir()
