"""Grad-CAM, scaling and affinity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.models.clip.tiny import PATCH, tiny_clip
from weaksam_cli.cam.clip_es.affinity import refine, transition
from weaksam_cli.cam.clip_es.boxes import box_mask, scoremap_boxes
from weaksam_cli.cam.clip_es.grad_cam import class_probabilities, grad_cam, min_max
from weaksam_cli.core.maps import resize_bilinear
from weaksam_cli.models.clip.vision import run_last_block, run_trunk


def _tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_scaling_and_resizing_are_those_of_the_published_code(oracle: Any) -> None:
    case = oracle("clipes")["scale_cam_image"]
    scaled = min_max(_tensor(case["cam"]))
    assert np.allclose(scaled, case["out"], atol=1e-7)
    # The published code resizes with OpenCV, the prompt stage with torch: the same rule.
    assert np.allclose(resize_bilinear(scaled.numpy(), 4, 6), case["out_resized_4x6"], atol=1e-7)
    assert min_max(torch.zeros(2, 2)).tolist() == case["zeros"]


@given(st.integers(0, 1000), st.integers(1, 7), st.integers(1, 7), st.integers(1, 40), st.integers(1, 40))
def test_opencv_and_torch_resize_maps_alike(seed: int, h: int, w: int, height: int, width: int) -> None:
    import cv2

    cam = np.random.default_rng(seed).random((h, w), dtype=np.float32)
    height, width = max(h, height), max(w, width)
    by_opencv = cv2.resize(cam, (width, height))
    assert np.allclose(resize_bilinear(cam, height, width), by_opencv, atol=1e-6)


def test_the_affinity_is_that_of_the_published_code(oracle: Any) -> None:
    case = oracle("clipes")["caa_refinement"]
    cam = _tensor(case["grad_cam"])
    boxes = scoremap_boxes(cam.numpy(), 0.4)
    assert [list(box) for box in boxes] == case["box"]
    mask = box_mask(boxes, *cam.shape)
    matrix = transition(_tensor(case["attention_mean_last8"]))
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
    matrix = transition(attention)
    assert torch.isfinite(matrix).all()


def test_values_spread_from_inside_the_mask_only_and_each_class_for_itself() -> None:
    cams = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(3, 2, 3, dtype=torch.bool)
    masks[0] = True
    masks[1, 0, 1] = True
    matrix = transition(torch.rand(6, 6, generator=torch.Generator().manual_seed(1)))
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
    trunk = run_trunk(network.visual, pixels, attention_blocks=1)
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
        network.visual, run_trunk(network.visual, torch.zeros(1, 3, 16, 32), attention_blocks=1)
    )
    probabilities = class_probabilities(
        last.patch_feature, torch.zeros(0, 32), _unit_rows(2, 0), network.logit_scale
    )
    assert grad_cam(last, probabilities, (1, 2)).shape == (0, 1, 2)
