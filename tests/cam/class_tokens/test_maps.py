from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as example
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.models.vit.helpers import TINY, random_mctformer, random_weaktr
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
from weaksam_cli.artifacts.schema import concatenate
from weaksam_cli.cam.class_tokens.maps import (
    ClueNetwork,
    Views,
    class_maps,
    make_views,
    open_network,
)
from weaksam_cli.cam.mctformer import MCTformerMaps
from weaksam_cli.cam.weaktr import WeakTrMaps
from weaksam_cli.data.labels import Category
from weaksam_cli.errors import UserError
from weaksam_cli.models.lite import IMAGENET_MEAN, IMAGENET_STD
from weaksam_cli.models.vit.attention import AttentionRecord, Workspace
from weaksam_cli.models.vit.network import ClueMaps, Encoded, spread

THREE = [Category(id=index + 1, name=name) for index, name in enumerate("abc")]


def settings(**changes: Any) -> WeakTrMaps:
    return WeakTrMaps(**{"cross_layers": (0, 1), **changes})


def clues(network: Any, chosen: Any = None, slots: tuple[int, ...] = (0, 1, 2)) -> ClueNetwork:
    return ClueNetwork(network, slots, chosen or settings(), "cpu")


def stored(maps: ClassMaps, folder: Path) -> ClassMaps:
    """The maps after a trip through a file, as `weaksam cam` writes it."""
    import h5py

    schema = cam_schema(len(maps.class_scores))
    path = folder / "cam.h5"
    with h5py.File(path, "w") as handle:
        attributes = {"format": schema.name, "format_version": schema.version, "complete": True}
        create(handle, schema, attributes, cam_tables([f"class {number}" for number in range(9)]))
        append(handle, schema, concatenate(schema, [("one", maps.to_rows(scaled=True))]))
    with open_artifact(path, cam_schema()) as artifact:
        return read_class_maps(artifact, "one")


@dataclass
class Published:
    """Gives the outputs of the views of an oracle, one after the other."""

    kind: str
    outputs: list[dict[str, Any]]
    views: int = 0
    log: list[tuple[list[int], list[int]]] = field(default_factory=list)

    @dataclass
    class Encoded:
        output: dict[str, Any]

        def class_logits(self) -> torch.Tensor:
            return torch.tensor(self.output["logits"])

    def encode_for_maps(self, batch: torch.Tensor, workspace: object) -> Published.Encoded:
        self.views += 1
        return self.Encoded(self.outputs[self.views - 1])

    def maps(self, encoded: Published.Encoded, classes: list[int], layers: tuple[int, ...]) -> ClueMaps:
        output = {
            name: torch.tensor(value) for name, value in encoded.output.items() if isinstance(value, list)
        }
        if self.kind == "cross":
            per_head = output["per_head_layer_cross"]
            record = AttentionRecord(per_head.shape[3], 2, Workspace())
            record.class_rows = per_head.flatten(-2)
            made = Encoded(per_head[:, 0, 0, :, 0], per_head[:, 0, 0], record, None)
            cross = made.cross_maps(classes, layers)
            return ClueMaps(cross[:, :, 0], cross[:, :, 0], cross)
        if self.kind == "coarse":
            found = output["coarse_cam"][:, classes]
        else:
            found = spread(output["patch_attention"], output["fused_cam"][:, classes])
        return ClueMaps(found, found, found[:, :, None][:, :, :0])


@pytest.mark.parametrize("index", range(5))
def test_fusion_of_the_published_code(oracle: Any, tmp_path: Path, index: int) -> None:
    case = oracle("cam_fusion")["cases"][index]
    height, width = case["image_size"]
    network = Published(case["kind"], case["model_outputs_per_view"])
    sizes = [tuple(size) for size in case["view_sizes"][::2]]
    views = Views((height, width), tuple(np.zeros((3, *size), np.float32) for size in sizes))
    labels = np.flatnonzero(case["target"]).tolist()
    given = None if case["gen_test"] and not labels else labels
    maps = class_maps(clues(network, settings(scales=(1.0, 0.75))), views, given)
    assert network.views == 4
    kind = KINDS.index(case["kind"])
    for found, tolerance in ((maps, 2e-6), (stored(maps, tmp_path), 1e-3)):
        fused = fuse_scales(found, kind, height, width)
        rows = {} if fused is None else dict(zip(found.classes(), fused, strict=True))
        for key, expected in case["maps"].items():
            got = rows.get(int(key), np.zeros(1, np.float32))  # a class without maps has none to show
            assert_same(got, np.asarray(expected, np.float32), tolerance)


def assert_same(got: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float) -> None:
    np.testing.assert_allclose(got + np.zeros_like(expected), expected, rtol=1e-4, atol=tolerance)


def scripted(logits: list[list[float]]) -> Published:
    """Every view has a coarse map of ones times its number."""
    ones = np.ones((1, 3, 2, 2), np.float32)
    outputs = [{"logits": [row], "coarse_cam": (ones * 10**view).tolist()} for view, row in enumerate(logits)]
    return Published("coarse", outputs)


@pytest.mark.parametrize(
    ("logits", "given", "expected"),
    [
        # Scale -> sum of the views that count: 1, 10 are the first scale, 100, 1000 the second.
        ([[0, -1, 0]] * 4, None, {1.0: 11, 0.8: 1100}),
        ([[-1, -1, -1], [0, -1, 0], [0, 0, 0], [0, 0, 0]], None, {1.0: 10, 0.8: 1100}),
        ([[-1, -1, -1]] * 2 + [[0, -1, 0]] + [[-9, 9, -9]], None, {0.8: 1100}),
        ([[-1, -1, -1]] * 3 + [[0, -1, 0]], None, {0.8: 1000}),
        ([[-1, -0.5, -1]] * 4, None, {}),  # the threshold itself does not pass
        ([[9, 9, 9]] * 4, [], {}),  # known to show nothing
        ([[-9, 9, -9]] * 4, [0, 2], {1.0: 11, 0.8: 1100}),
    ],
)
def test_the_first_view_with_a_class_decides(
    logits: list[list[float]], given: list[int] | None, expected: dict[float, int]
) -> None:
    views = Views((32, 32), (np.zeros((3, 32, 32), np.float32),) * 2)
    maps = class_maps(clues(scripted(logits), settings(scales=(1.0, 0.8))), views, given)
    assert maps.classes() == ([0, 2] if expected else [])
    coarse = maps.kind == 0
    found = {
        round(float(scale), 2): maps.maps[row][0, 0]
        for row, scale in enumerate(maps.scale)
        if coarse[row] and maps.class_index[row] == 2
    }
    assert found == expected
    assert (maps.class_scores > 0).all()


def test_scores_are_mean_probabilities_of_the_views() -> None:
    views = Views((32, 32), (np.zeros((3, 32, 32), np.float32),))
    maps = class_maps(clues(scripted([[0, 2, -3], [0, -2, -3]]), settings(scales=(1.0,))), views, [])
    np.testing.assert_allclose(maps.class_scores, [0.5, 0.5, 1 / (1 + np.exp(3))], rtol=1e-6)


def test_without_flip_there_is_one_view_a_scale() -> None:
    network = scripted([[0, 0, 0]] * 2)
    views = Views((32, 32), (np.zeros((3, 32, 32), np.float32),) * 2)
    maps = class_maps(clues(network, settings(scales=(1.0, 0.8), flip=False)), views, [1])
    assert network.views == 2
    assert [item[0, 0] for item, kind in zip(maps.maps, maps.kind, strict=True) if kind == 0] == [1, 10]


def test_slots_are_the_datasets_classes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    network = random_weaktr()
    views = make_views(image, (1.0,), max_side=1024, patch=4)
    chosen = settings(scales=(1.0,))
    plain, turned = clues(network, chosen), clues(network, chosen, slots=(2, 0, 1))
    first, second = class_maps(plain, views, [2]), class_maps(turned, views, [0])
    assert second.classes() == [0]
    for one, other in zip(first.maps, second.maps, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.class_scores[[2, 0, 1]], second.class_scores)


@pytest.mark.parametrize("network", [random_weaktr("v1"), random_weaktr("v3"), random_mctformer("v2")])
def test_a_mirrored_image_has_mirrored_maps(network: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 32, 3), dtype=np.uint8)
    found = [
        class_maps(clues(network), make_views(pixels, (1.0, 0.75, 1.25), max_side=99, patch=4), [0, 2])
        for pixels in (image, np.ascontiguousarray(image[:, ::-1]))
    ]
    assert set(found[0].kind.tolist()) == {0, 1, 2}
    for one, other in zip(found[0].maps, found[1].maps, strict=True):
        if one.shape[1] * 4 in (32, 24, 40):  # a view of whole patches
            np.testing.assert_allclose(one, other[:, ::-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_rows_of_every_kind(count: int, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    views = make_views(image, (1.0, 0.8, 1.2), max_side=1024, patch=4)
    maps = class_maps(clues(random_weaktr()), views, list(range(count)))
    assert maps.classes() == list(range(count))
    if count:
        grids = [(5, 7), (4, 5), (6, 8)]  # 20 x 28, 16 x 22, 24 x 34
        assert [stack.shape for stack in maps.stacks(1)] == [(count, *grid) for grid in grids]
        assert [stack.shape for stack in maps.stacks(2)] == [(count, 4, *grid) for grid in grids]
    read = stored(maps, tmp_path)
    assert read.classes() == maps.classes()
    assert read.image_size == (20, 28)
    for kind, got, expected in zip(maps.kind, read.maps, maps.maps, strict=True):
        bound = (5e-4 if KINDS[kind] == "cross" else 3e-4) * np.ptp(
            expected
        )  # half a step of 1/1024, of float16
        assert np.abs(got - expected).max() <= bound


def test_a_precision_for_a_gpu_is_float32_on_a_cpu() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
    views = make_views(image, (1.0, 0.8, 1.2), max_side=1024, patch=4)
    maps = [
        class_maps(clues(random_weaktr(), settings(precision=precision)), views, [1])
        for precision in ("float32", "auto")
    ]
    assert all(np.array_equal(one, other) for one, other in zip(maps[0].maps, maps[1].maps, strict=True))


@example(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=40), st.sampled_from([1e-6, 1.0, 1e3]))
def test_storing_keeps_the_shape_of_a_map_with_any_offset_and_size(values: list[float], unit: float) -> None:
    heat = (np.asarray([values], np.float32) * np.float32(unit)).astype(np.float32)
    rows = ClassMaps(
        np.zeros(2, np.int32), np.asarray([1, 2], np.int8), np.zeros(2, np.int16), np.ones(2, np.float32),
        (heat, heat), (1, len(values)), np.zeros(1, np.float32),
    ).to_rows(scaled=True)  # fmt: skip
    low, span = (np.asarray(rows.columns[name], np.float32) for name in ("low", "span"))
    rounding = 1e-6 * np.abs(heat).max() + 1e-29  # a span below that counts as none
    for row, values_of in enumerate(rows.blobs["values"]):
        read = low[row] + span[row] * np.asarray(values_of).astype(np.float16).astype(np.float32)
        assert np.abs(read - heat).max() <= (3e-4, 5e-4)[row] * np.ptp(heat) + rounding
        assert np.abs(read.max() - heat.max()) <= rounding
        assert np.abs(read.min() - heat.min()) <= rounding


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cross_layers": (8, 9)}, r"no layer 8, the network has 3, .* 'cross_layers=\[1, 2\]'"),
        ({"heads": 4}, r"fusion is for 6 attentions, 4 heads in 3 layers make 12"),
    ],
)
def test_a_recipe_that_does_not_fit_the_checkpoint_is_told(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": random_weaktr().state_dict()}, path)
    opened = open_network(settings(), path, THREE, "cpu")
    assert opened.slots == (0, 1, 2)
    assert opened.network.shape == TINY
    with pytest.raises(UserError, match=message):
        open_network(settings(**changes), path, THREE, "cpu")


def test_mctformer_is_opened_by_its_version(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(random_mctformer("v1").state_dict(), path)
    common: dict[str, Any] = {"heads": 2, "cross_layers": (0,), "attention_type": "attention"}
    network = open_network(MCTformerMaps(version="v1", **common), path, THREE, "cpu").network
    assert network.shape == TINY
    with pytest.raises(UserError, match=r"head\.weight \(3, 8\) instead of"):
        open_network(MCTformerMaps(version="v2", **common), path, THREE, "cpu")


def sample(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "scales", "max_side", "expected"),
    [
        ((375, 500), (1.0, 0.8, 1.2), 1024, [(375, 500), (300, 400), (450, 600)]),
        ((375, 333), (0.5, 1.5), 1024, [(188, 166), (562, 500)]),  # 187.5 -> 188, 166.5 -> 166, 562.5 -> 562, 499.5 -> 500
        ((2000, 1000), (1.0, 0.5), 1000, [(1000, 500), (500, 250)]),
        ((1000, 1), (1.0,), 100, [(100, 16)]),  # never less than a patch
        ((3, 5), (1.0, 0.8), 1024, [(16, 16), (16, 16)]),
    ],
)  # fmt: skip
def test_sizes(
    size: tuple[int, int], scales: tuple[float, ...], max_side: int, expected: list[tuple[int, int]]
) -> None:
    views = make_views(sample(*size), scales, max_side=max_side, patch=16)
    assert views.image_size == size
    assert [item.shape for item in views.pixels] == [(3, *each) for each in expected]


def test_pixels_are_resized_by_pillow_and_normalised() -> None:
    image = sample(40, 60)
    same, smaller = make_views(image, (1.0, 0.8), max_side=1024, patch=16).pixels
    assert same.dtype == np.float32
    assert same.flags.c_contiguous
    np.testing.assert_allclose(same[1, 3, 5], (image[3, 5, 1] / 255 - 0.456) / 0.224, rtol=1e-5)
    resized = np.asarray(Image.fromarray(image).resize((48, 32), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(
        smaller.transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN, resized / 255, atol=1e-6
    )
