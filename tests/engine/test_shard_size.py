"""Shards grow with the number of images; work that was begun with shards of another size goes on with them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.artifacts.helpers import STAGE, context, entries, rows_of, step
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.artifacts.shards import ShardPlan, shard_bytes, write_shard
from weaksam_cli.engine.queue import Part, UnfinishedError
from weaksam_cli.engine.sharded import PerImage, shard_size
from weaksam_cli.engine.steps import Step, make
from weaksam_cli.errors import UserError


@pytest.mark.parametrize(
    ("images", "least", "expected"),
    [
        (0, 8, 8),
        (1, 8, 8),
        (4096, 8, 8),
        (4097, 8, 16),
        (5011, 8, 16),
        (10_000, 8, 32),
        (10_000, 16, 32),
        (100_000, 8, 64),
        (1_000_000, 8, 64),
        (300, 2, 2),
        (10**6, 100, 100),
    ],
)
def test_shards_grow_with_the_number_of_images(images: int, least: int, expected: int) -> None:
    assert shard_size(images, least) == expected


def in_shards_of(size: int, item: Step) -> Step:
    assert isinstance(item.run, PerImage)
    return replace(item, run=replace(item.run, shard_images=size))


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("broken", [(), ("i0", "i9"), tuple(f"i{number}" for number in range(8, 16))])
def test_work_that_was_begun_in_smaller_shards_goes_on_to_the_same_bytes(
    tmp_path: Path, broken: tuple[str, ...], parts: int
) -> None:
    whole, path = tmp_path / "whole.h5", tmp_path / "a.h5"
    make(in_shards_of(8, step(whole, 27, broken)), STAGE, context(tmp_path))
    with pytest.raises(UnfinishedError):
        make(in_shards_of(2, step(path, 27, broken)), STAGE, context(tmp_path, part=Part(parts, 3)))
    made: list[Path] = []

    class Noted(FileOps):
        def before(self, operation: str, path: Path) -> None:
            if operation == "replace":
                made.append(path)

    make(in_shards_of(8, step(path, 27, broken)), STAGE, context(tmp_path, Noted()))
    assert path.read_bytes() == whole.read_bytes()
    names = [name for name in map(str, made) if re.search(r"\.shards/.*/\d{5}-", name)]
    assert len(names) == 14 - len(range(parts - 1, 14, 3)), "what was made is kept"


def test_lists_of_texts_go_on_in_smaller_shards_too(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.json", tmp_path / "a.json"
    make(entries(whole), STAGE, context(tmp_path))
    with pytest.raises(UnfinishedError):
        make(in_shards_of(1, entries(path)), STAGE, context(tmp_path, part=Part(2, 3)))
    make(entries(path), STAGE, context(tmp_path))
    assert path.read_bytes() == whole.read_bytes()
    assert len(json.loads(whole.read_text())) == 22


def test_shards_that_cannot_be_joined_are_not_passed_over_silently(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(UnfinishedError):
        make(in_shards_of(3, step(path, 27)), STAGE, context(tmp_path, part=Part(1, 3)))
    with pytest.raises(
        UserError, match=r"shards of 3 images lie there, and this version .* makes shards of 8\."
    ):
        make(in_shards_of(8, step(path, 27)), STAGE, context(tmp_path))


def plan_of(target: Path, size: int) -> ShardPlan:
    return ShardPlan(
        target, "k" * 64, step(target).schema, tuple(f"i{number}" for number in range(11)), size, 8
    )


@pytest.mark.parametrize("index", [0, 1, 2])
def test_any_one_shard_tells_the_size(tmp_path: Path, index: int) -> None:
    begun = plan_of(tmp_path / "a.h5", 4)
    data = shard_bytes(begun.schema, [(key, rows_of(key)) for key in begun.images(index)], [])
    write_shard(FileOps(), begun, index, data)
    assert plan_of(tmp_path / "a.h5", 8).as_begun().size == 4


def test_shards_that_cannot_be_read_tell_nothing(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "a.h5", 4)
    plan.directory.mkdir(parents=True)
    (plan.directory / f"00001-{0:016x}.h5").write_bytes(b"\x89HDF")
    assert plan.as_begun() == plan
