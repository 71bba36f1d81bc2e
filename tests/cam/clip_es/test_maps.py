"""Grad-CAM, scaling and affinity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given as example
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tests.models.clip.tiny import PATCH, tiny_clip
from weaksam_cli.artifacts.class_maps import KINDS
from weaksam_cli.cam.clip_es import AffinitySettings, Recipe
from weaksam_cli.cam.clip_es.maps import (
    DEVIATION,
    MEAN,
    ClipEs,
    box_mask,
    class_maps,
    class_probabilities,
    fine_maps,
    grad_cam,
    input_size,
    min_max,
    preprocess,
    refine,
    scoremap_boxes,
    transition,
)
from weaksam_cli.cam.stage import chosen_classes
from weaksam_cli.core.maps import resize_bilinear
from weaksam_cli.models.clip import LastBlock, Trunk, run_last_block, run_trunk


def _tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_scaling_and_resizing_are_those_of_the_published_code(oracle: Any) -> None:
    case = oracle("clipes")["scale_cam_image"]
    scaled = min_max(_tensor(case["cam"]))
    assert np.allclose(scaled, case["out"], atol=1e-7)
    # The published code resizes with OpenCV, the prompt stage with torch: the same rule.
    assert np.allclose(resize_bilinear(scaled.numpy(), 4, 6), case["out_resized_4x6"], atol=1e-7)
    assert min_max(torch.zeros(2, 2)).tolist() == case["zeros"]


@example(st.integers(0, 1000), st.integers(1, 7), st.integers(1, 7), st.integers(1, 40), st.integers(1, 40))
def test_opencv_and_torch_resize_maps_alike(seed: int, h: int, w: int, height: int, width: int) -> None:
    import cv2

    cam = np.random.default_rng(seed).random((h, w), dtype=np.float32)
    height, width = max(h, height), max(w, width)
    by_opencv = cv2.resize(cam, (width, height))
    assert np.allclose(resize_bilinear(cam, height, width), by_opencv, atol=1e-6)


def test_the_affinity_is_that_of_the_published_code(oracle: Any) -> None:
    case = oracle("clipes")["caa_refinement"]
    cam = _tensor(case["grad_cam"])
    boxes = scoremap_boxes(cam.numpy(), 0.4, cover_border=False)
    assert [list(box) for box in boxes] == case["box"]
    mask = box_mask(boxes, *cam.shape)
    matrix = transition(_tensor(case["attention_mean_last8"]), rounds=3)
    masked = matrix * torch.from_numpy(mask).flatten()
    assert np.allclose(masked, case["transition"], atol=1e-7)
    assert np.allclose((masked @ cam.flatten()).reshape(cam.shape), case["refined_lowres"], atol=1e-6)
    refined = refine(cam[None], matrix, torch.from_numpy(mask)[None])[0]
    # The span of the map is 0.01, so rounding errors of 1e-7 become 1e-5.
    assert np.allclose(resize_bilinear(refined.numpy(), 7, 9), case["refined_7x9"], atol=5e-5)


@pytest.mark.parametrize("n", [1, 2, 6, 7])
def test_a_transition_is_symmetric_and_sums_to_one(n: int) -> None:
    attention = torch.rand(n, n, generator=torch.Generator().manual_seed(n)) + 0.1
    matrix = transition(attention, rounds=20)
    assert torch.allclose(matrix, matrix.T, atol=1e-6)
    assert torch.allclose(matrix.sum(dim=0), torch.ones(n), atol=1e-4)


def test_a_patch_that_nothing_attends_to_stays_without_a_value() -> None:
    attention = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    attention[:, 2] = 0
    matrix = transition(attention, rounds=3)
    assert torch.isfinite(matrix).all()


def test_values_spread_from_inside_the_mask_only_and_each_class_for_itself() -> None:
    cams = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(3, 2, 3, dtype=torch.bool)
    masks[0] = True
    masks[1, 0, 1] = True
    matrix = transition(torch.rand(6, 6, generator=torch.Generator().manual_seed(1)), rounds=3)
    refined = refine(cams, matrix, masks)
    assert torch.allclose(refined[1], min_max(matrix[:, 1].reshape(2, 3)), atol=1e-5)
    assert not refined[2].any()
    for row in range(3):
        assert torch.allclose(
            refined[row], refine(cams[row : row + 1], matrix, masks[row : row + 1])[0], atol=1e-6
        )


def test_without_classes_there_is_nothing_to_refine() -> None:
    empty = refine(torch.zeros(0, 2, 3), torch.eye(6), torch.zeros(0, 2, 3, dtype=torch.bool))
    assert empty.shape == (0, 2, 3)


def test_probabilities_are_a_softmax_over_present_classes_and_backgrounds() -> None:
    feature = _tensor([1, 0])
    found = class_probabilities(
        feature, _tensor([[1, 0], [0, 1]]), _tensor([[0.6, 0.8]]), _tensor(np.log(10))
    )
    logits = np.exp([10.0, 0.0, 6.0])
    assert np.allclose(found, (logits / logits.sum())[:2], atol=1e-6)


def _unit_rows(n: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(n, 32, generator=torch.Generator().manual_seed(seed)), dim=-1)


def _hooked_grad_cam(
    network: Any, tokens: Tensor, classes: Tensor, background: Tensor, size: tuple[int, int]
) -> Tensor:
    """Grad-CAM as tools for it are built: hooks on a layer of the library's own forward pass, once for each class."""
    visual = network.visual
    caught: list[Any] = []
    block = visual.transformer.resblocks[-1]

    def catch(_: Any, __: Any, output: Tensor) -> Tensor:
        caught.append(output.requires_grad_() if output.is_leaf else output)
        caught[-1].retain_grad()
        return caught[-1]

    handle = block.ln_1.register_forward_hook(catch)
    maps = []
    for row in range(len(classes)):
        out = visual.ln_post(block(tokens.clone()))[0, 1:].mean(dim=0) @ visual.proj
        logits = network.logit_scale.exp() * (F.normalize(out, dim=0) @ torch.cat([classes, background]).T)
        logits.softmax(dim=0)[row].backward()
        activation, gradient = caught[-1].detach()[0, 1:], caught[-1].grad[0, 1:]
        one = (activation * gradient.mean(dim=0)).sum(dim=1).clamp(min=0).reshape(size).numpy()
        for _ in range(2):
            one = one - one.min()
            one = one / (1e-7 + one.max())
        maps.append(torch.from_numpy(one))
    handle.remove()
    return torch.stack(maps)


@pytest.mark.parametrize(("size", "k"), [((2, 2), 1), ((3, 5), 2), ((4, 3), 6)])
def test_maps_are_those_of_an_independent_grad_cam(size: tuple[int, int], k: int) -> None:
    network = tiny_clip()
    pixels = torch.randn(1, 3, size[0] * PATCH, size[1] * PATCH, generator=torch.Generator().manual_seed(k))
    classes, background = _unit_rows(k, 1), _unit_rows(4, 2)
    trunk = run_trunk(network.visual, pixels, attention_blocks=1, half_positions=True)
    last = run_last_block(network.visual, trunk)
    probabilities = class_probabilities(last.patch_feature, classes, background, network.logit_scale)
    maps = grad_cam(last, probabilities, size)
    assert maps.shape == (k, *size)
    assert maps.dtype == torch.float32
    assert maps.amax() > 0.99  # there is something to compare
    wanted = _hooked_grad_cam(network, trunk.tokens, classes, background, size)
    assert torch.allclose(maps, wanted, atol=5e-5)


def test_without_classes_there_are_no_maps() -> None:
    network = tiny_clip()
    last = run_last_block(
        network.visual,
        run_trunk(network.visual, torch.zeros(1, 3, 16, 32), attention_blocks=1, half_positions=True),
    )
    probabilities = class_probabilities(
        last.patch_feature, torch.zeros(0, 32), _unit_rows(2, 0), network.logit_scale
    )
    assert grad_cam(last, probabilities, (1, 2)).shape == (0, 1, 2)


RECIPE = Recipe(affinity=AffinitySettings(blocks=2))


@pytest.fixture(scope="module")
def clip() -> ClipEs:
    texts = F.normalize(torch.randn(9, 32, generator=torch.Generator().manual_seed(4)), dim=-1)
    network = tiny_clip()
    return ClipEs(network.visual, network.logit_scale, texts[:4], texts[4:])


def _image(height: int = 70, width: int = 50) -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("given", [[], [1], [3, 0]])
def test_each_class_has_a_coarse_and_a_fine_map(clip: ClipEs, given: list[int]) -> None:
    maps = class_maps(clip, _image(), given, RECIPE)
    assert maps.class_index.tolist() == sorted(given) * 2
    assert [KINDS[kind] for kind in maps.kind] == ["coarse"] * len(given) + ["fine"] * len(given)
    assert maps.image_size == (70, 50)
    assert set(maps.scale.tolist()) <= {1.0}
    for item in maps.maps:
        assert item.shape == (5, 4)
        assert item.dtype == np.float32
        assert item.min() >= 0
        assert item.max() <= 1
    rows = maps.to_rows()
    assert rows.columns["map_size"].shape == (2 * len(given), 2)


def test_maps_of_a_class_depend_on_the_other_classes_that_are_present(clip: ClipEs) -> None:
    alone, together = (class_maps(clip, _image(), classes, RECIPE) for classes in ([1], [0, 1, 2, 3]))
    assert not np.allclose(alone.maps[0], together.maps[1], atol=1e-3)


def test_scores_are_a_softmax_of_the_class_token_over_all_classes_and_backgrounds(clip: ClipEs) -> None:
    image = _image(32, 32)
    maps = class_maps(clip, image, None, RECIPE)
    visual = clip.visual
    feature = run_last_block(
        visual, run_trunk(visual, preprocess(image, (32, 32)), attention_blocks=1, half_positions=True)
    ).class_feature
    logits = clip.scale.exp() * (torch.cat([clip.classes, clip.background]) @ feature.detach())
    assert np.allclose(maps.class_scores, logits.softmax(dim=0)[:4], atol=1e-5)
    assert maps.class_scores.sum() < 1
    assert maps.classes() == chosen_classes(maps.class_scores, None, RECIPE.predicted_threshold)


def test_a_large_image_is_shown_smaller(clip: ClipEs) -> None:
    recipe = RECIPE.model_copy(update={"max_side": 64})
    maps = class_maps(clip, _image(256, 128), [0], recipe)
    assert [item.shape for item in maps.maps] == [(4, 2)] * 2
    assert maps.scale.tolist() == [0.25, 0.25]
    assert maps.image_size == (256, 128)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 3)])
def test_tiny_images(clip: ClipEs, size: tuple[int, int]) -> None:
    maps = class_maps(clip, _image(*size), [0, 1], RECIPE)
    assert len(maps.maps) == 4
    assert all(np.isfinite(item).all() for item in maps.maps)


def test_a_single_class_and_a_single_background_are_enough(clip: ClipEs) -> None:
    smallest = ClipEs(clip.visual, clip.scale, clip.classes[:1], clip.background[:1])
    for given in ([0], None):
        maps = class_maps(smallest, _image(), given, RECIPE)
        assert maps.classes() == [0]
        assert len(maps.maps) == 2


def test_fine_maps_spread_along_the_attention_of_the_last_block_and_those_before() -> None:
    generator = torch.Generator().manual_seed(6)
    before, at_last = torch.rand(2, 6, 6, generator=generator)
    coarse = torch.rand(2, 2, 3, generator=generator)
    trunk = Trunk(torch.zeros(1, 7, 4), before, (2, 3))
    last = LastBlock(torch.zeros(1, 7, 4), torch.zeros(4), torch.zeros(4), at_last)
    masks = [box_mask(scoremap_boxes(cam.numpy(), 0.4, cover_border=False), 2, 3) for cam in coarse]
    wanted = refine(coarse, transition((before + at_last) / 2, rounds=3), torch.from_numpy(np.stack(masks)))
    assert torch.allclose(fine_maps(coarse, trunk, last, RECIPE.affinity), wanted, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"half_positions": False},
        {"affinity": AffinitySettings(blocks=3)},
        {"affinity": AffinitySettings(blocks=2, rounds=1)},
        {"affinity": AffinitySettings(blocks=2, box_threshold=0.9)},
        {"affinity": AffinitySettings(blocks=2, cover_border=True)},
    ],
)
def test_every_setting_changes_the_maps(clip: ClipEs, change: dict[str, object]) -> None:
    first = class_maps(clip, _image(), [0, 1, 2, 3], RECIPE)
    second = class_maps(clip, _image(), [0, 1, 2, 3], RECIPE.model_copy(update=change))
    assert any(not np.array_equal(a, b) for a, b in zip(first.maps, second.maps, strict=True))


def test_boxes_are_those_of_the_published_code(oracle: Any) -> None:
    cases = oracle("clipes")["scoremap2bbox"]["cases"]
    assert len(cases) == 6
    for case in cases:
        boxes = scoremap_boxes(np.asarray(case["map"], np.float32), case["threshold"], cover_border=False)
        assert [list(box) for box in boxes] == case["boxes_x0y0x1y1"], case["name"]
        assert len(boxes) == case["count"]


def test_the_mask_never_covers_the_last_row_and_column_unless_it_is_told_to() -> None:
    full = np.ones((3, 4), np.float32)
    published = box_mask(scoremap_boxes(full, 0.4, cover_border=False), 3, 4)
    assert published.tolist() == [[True, True, True, False], [True, True, True, False], [False] * 4]
    assert box_mask(scoremap_boxes(full, 0.4, cover_border=True), 3, 4).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 1), (2, 2)])
def test_tiny_maps(shape: tuple[int, int]) -> None:
    cam = np.ones(shape, np.float32)
    assert box_mask(scoremap_boxes(cam, 0.4, cover_border=True), *shape).all()
    assert box_mask(scoremap_boxes(cam, 0.4, cover_border=False), *shape).sum() == (shape[0] - 1) * (
        shape[1] - 1
    )


def test_a_hole_has_a_box_of_its_own() -> None:
    ring = np.ones((7, 7), np.float32)
    ring[2:5, 2:5] = 0
    assert len(scoremap_boxes(ring, 0.4, cover_border=False)) == 2


@pytest.mark.parametrize(("value", "boxes"), [(102 / 255, 0), (103 / 255, 1)])
def test_the_threshold_is_strict_in_8_bit_steps(value: float, boxes: int) -> None:
    cam = np.zeros((5, 7), np.float32)
    cam[1, 1], cam[3, 5] = 1, value + 1e-4
    assert len(scoremap_boxes(cam, 0.4, cover_border=False)) == 1 + boxes


def test_overlapping_boxes_and_an_empty_one() -> None:
    mask = box_mask([(0, 0, 2, 2), (1, 1, 3, 2), (0, 0, 0, 0)], 2, 4)
    assert mask.tolist() == [[True, True, False, False], [True, True, True, False]]
    assert not box_mask([(0, 0, 0, 0)], 2, 4).any()


def test_sides_are_rounded_up_to_a_multiple_of_16(oracle: Any) -> None:
    for case in oracle("clipes")["input_size"]["cases"]:
        assert list(input_size(case["h"], case["w"], patch=16, max_side=9999)) == case["out"]


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((1500, 1000), 1024, (1024, 688)),
        ((1024, 1024), 1024, (1024, 1024)),
        ((1025, 1), 1024, (1024, 16)),
        ((375, 500), 1024, (384, 512)),
        ((3000, 4000), 480, (368, 480)),
        ((1, 1), 1024, (16, 16)),
    ],
)
def test_large_images_are_shown_smaller(
    size: tuple[int, int], max_side: int, expected: tuple[int, int]
) -> None:
    assert input_size(*size, patch=16, max_side=max_side) == expected


@example(st.integers(1, 9000), st.integers(1, 9000), st.integers(32, 2000), st.sampled_from([14, 16, 32]))
def test_a_size_is_the_least_multiple_that_holds_the_image(h: int, w: int, max_side: int, patch: int) -> None:
    shown = input_size(h, w, patch=patch, max_side=max_side)
    longer = max(h, w)
    for side, result in zip((h, w), shown, strict=True):
        assert result % patch == 0
        assert (result - patch) * longer < side * min(longer, max_side) <= result * longer


def test_one_colour_is_normalised_channel_by_channel() -> None:
    image = np.full((20, 30, 3), (10, 128, 255), np.uint8)
    pixels = preprocess(image, (32, 48))
    assert pixels.shape == (1, 3, 32, 48)
    for channel, value in enumerate((10, 128, 255)):
        wanted = (value / 255 - MEAN[channel]) / DEVIATION[channel]
        assert np.allclose(pixels[0, channel].numpy(), wanted, atol=1e-5)


def test_rows_stay_rows() -> None:
    image = np.zeros((32, 16, 3), np.uint8)
    image[:16] = 255
    pixels = preprocess(image, (64, 16))[0, 0]
    assert pixels[:24].min() > pixels[40:].max()


def test_edges_overshoot_as_bicubic_ones_do() -> None:
    image = np.full((16, 24, 3), 100, np.uint8)
    image[:, 12:] = 150
    red = preprocess(image, (16, 48))[0, 0].numpy() * DEVIATION[0] + MEAN[0]
    assert red.min() * 255 < 99
    assert red.max() * 255 > 151
