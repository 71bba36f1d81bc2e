"""Class maps and points through an artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.artifacts.helpers import STAGE, context
from tests.tiny import synthetic_cam
from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.class_maps import (
    KINDS,
    ClassMaps,
    cam_schema,
    cam_tables,
    fuse_scales,
    read_class_maps,
)
from weaksam_cli.artifacts.hdf5 import append, create
from weaksam_cli.artifacts.schema import Column, concatenate
from weaksam_cli.engine.steps import make
from weaksam_cli.errors import ImageError
from weaksam_cli.prompt.peaks import KindSettings, points_from_maps


def _maps(classes: tuple[int, ...], kinds: tuple[int, ...] = (0, 1), per_class: int = 1) -> ClassMaps:
    rows = [(c, k, m, s) for c in classes for k in kinds for m in range(per_class) for s in (1.0, 0.5)]
    return ClassMaps(
        np.asarray([row[0] for row in rows], np.int32),
        np.asarray([row[1] for row in rows], np.int8),
        np.asarray([row[2] for row in rows], np.int16),
        np.asarray([row[3] for row in rows], np.float32),
        tuple(np.full((round(4 * s), round(6 * s)), c + 10 * k + 0.5 * m, np.float32) for c, k, m, s in rows),
        (20, 30),
        np.zeros(9, np.float32),
    )


@pytest.mark.parametrize("classes", [(), (3,), (5, 1)])
def test_stacks_are_by_scale_with_classes_ascending(classes: tuple[int, ...]) -> None:
    maps = _maps(classes)
    stacks = maps.stacks(1)
    assert [stack.shape for stack in stacks] == (
        [(len(classes), 4, 6), (len(classes), 2, 3)] if classes else []
    )
    if classes:
        assert stacks[0][:, 0, 0].tolist() == [10.0 + index for index in sorted(classes)]
    assert maps.stacks(2) == []


def test_cross_maps_keep_their_stack() -> None:
    assert _maps((2, 0), kinds=(2,), per_class=3).stacks(2)[0].shape == (2, 3, 4, 6)


def test_a_missing_map_is_an_error() -> None:
    maps = _maps((0, 1))
    keep = np.arange(len(maps.maps)) != 0
    with pytest.raises(
        ValueError, match="coarse maps at scale 1: expected the same maps, of one size, for each class"
    ):
        ClassMaps(
            maps.class_index[keep], maps.kind[keep], maps.map_index[keep], maps.scale[keep],
            tuple(item for item, good in zip(maps.maps, keep, strict=True) if good), maps.image_size, maps.class_scores,
        )  # fmt: skip


def test_maps_that_would_fill_the_memory_are_refused() -> None:
    with pytest.raises(ImageError, match="coarse maps of 20000 x 20000 pixels are more than fit into memory"):
        fuse_scales(_maps((0, 1)), 0, 20_000, 20_000)


def test_fused_scales_have_the_size_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "cam" / "trainval.h5"
    make(synthetic_cam(path, ["1", "2"]), STAGE, context(tmp_path))
    with open_artifact(path, cam_schema(3)) as artifact:
        maps = read_class_maps(artifact, "2")
    fused = fuse_scales(maps, KINDS.index("fine"), 48, 64)
    assert fused is not None
    assert fused.shape == (2, 48, 64)
    assert fused.min() == 0
    assert fused.max() == pytest.approx(1, abs=1e-5)
    assert fuse_scales(maps, KINDS.index("cross"), 48, 64) is None


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("known", [True, False])
def test_files_of_every_version_are_read(tmp_path: Path, version: int, known: bool) -> None:
    """Version 1 had the values alone; version 2 held cross maps as indexes into a table of levels."""
    maps = _maps((0, 2), kinds=(0, 2))
    levels = [0.0, 0.25, 1.0]
    rows, newest = maps.to_rows(), cam_schema(9)
    columns = tuple(item for item in newest.columns if item.since <= version)
    values, codes = list(rows.blobs["values"]), [np.zeros(0, np.uint8)] * len(maps.maps)
    if version == 2:
        for row in np.flatnonzero(maps.kind == 2):
            values[row] = np.zeros(0, np.float32)
            codes[row] = np.full(maps.maps[row].size, 2, np.uint8)
            rows.columns["low"][row], rows.columns["span"][row] = maps.maps[row].flat[0] - 3, 3
    schema = replace(
        newest,
        version=version,
        columns=columns,
        blobs=(*newest.blobs, Column("codes", "uint8")) if version == 2 else newest.blobs,
    )
    path = tmp_path / "cam.h5"
    with h5py.File(path, "w") as handle:
        attributes = {"format": schema.name, "format_version": version, "complete": True}
        tables = {**cam_tables([str(number) for number in range(9)]), "code_levels": list(map(str, levels))}
        create(handle, schema, attributes, tables)
        append(
            handle,
            schema,
            concatenate(schema, [("one", replace(rows, blobs={"values": values, "codes": codes}))]),
        )
    with open_artifact(path, newest if known else None) as artifact:
        read = read_class_maps(artifact, "one")
    assert all(np.array_equal(one, other) for one, other in zip(read.maps, maps.maps, strict=True))


def _cross_maps(seed: int) -> ClassMaps:
    """Twelve smooth maps of a class at WeakTr's three scales."""
    generator, maps = np.random.default_rng(seed), []
    for size in ((12, 16), (9, 12), (14, 19)):
        noise = torch.from_numpy(generator.random((1, 12, 4, 5), np.float32))
        maps += [*F.interpolate(noise, size=size, mode="bicubic")[0].numpy()]
    return ClassMaps(
        np.zeros(36, np.int32), np.full(36, 2, np.int8), np.tile(np.arange(12, dtype=np.int16), 3),
        np.repeat(np.asarray([1, 0.8, 1.2], np.float32), 12), tuple(maps), (192, 256), np.zeros(1, np.float32),
    )  # fmt: skip


def _peaks(maps: ClassMaps) -> set[tuple[int, ...]]:
    fused = fuse_scales(maps, KINDS.index("cross"), *maps.image_size)
    assert fused is not None
    found = points_from_maps(fused, [0], KindSettings(window=17))
    return set(map(tuple, np.column_stack([found.xy, found.map_index]).tolist()))


@pytest.mark.parametrize("seed", [0, 4, 5, 8])
def test_stored_cross_maps_have_the_peaks_of_the_exact_ones(tmp_path: Path, seed: int) -> None:
    """On the 149 levels that version 2 had, four to eleven of some 25 peaks were other ones."""
    maps, schema, path = _cross_maps(seed), cam_schema(1), tmp_path / "cam.h5"
    with h5py.File(path, "w") as handle:
        attributes = {"format": schema.name, "format_version": 3, "complete": True}
        create(handle, schema, attributes, cam_tables([str(number) for number in range(9)]))
        append(handle, schema, concatenate(schema, [("one", maps.to_rows(scaled=True))]))
    with open_artifact(path, schema) as artifact:
        assert _peaks(read_class_maps(artifact, "one")) == _peaks(maps)
