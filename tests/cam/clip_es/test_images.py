from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from tests.models.clip.tiny import tiny_clip
from weaksam_cli.artifacts.class_maps import KINDS
from weaksam_cli.cam.clip_es.affinity import refine, transition
from weaksam_cli.cam.clip_es.boxes import box_mask, scoremap_boxes
from weaksam_cli.cam.clip_es.images import ClipEs, chosen_classes, class_maps, fine_maps
from weaksam_cli.cam.recipe import AffinitySettings, ClipEsRecipe
from weaksam_cli.models.clip.vision import LastBlock, Trunk

RECIPE = ClipEsRecipe(affinity=AffinitySettings(blocks=2))


@pytest.fixture(scope="module")
def clip() -> ClipEs:
    texts = F.normalize(torch.randn(9, 32, generator=torch.Generator().manual_seed(4)), dim=-1)
    network = tiny_clip()
    return ClipEs(network.visual, network.logit_scale, texts[:4], texts[4:])


def _image(height: int = 70, width: int = 50) -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("given", "threshold", "expected"),
    [
        ([2, 0], 0.1, [0, 2]),
        ([], 0.1, []),
        (None, 0.1, [1, 3]),
        (None, 0.3, [3]),
        (None, 0.9, [3]),
        (None, 0.01, [0, 1, 2, 3]),
    ],
)
def test_classes_are_those_given_or_predicted(
    given: list[int] | None, threshold: float, expected: list[int]
) -> None:
    scores = np.asarray([0.05, 0.25, 0.02, 0.4], np.float32)
    assert chosen_classes(scores, given, threshold) == expected


def test_a_predicted_class_may_have_just_the_threshold() -> None:
    assert chosen_classes(np.asarray([0.5, 0.25], np.float32), None, 0.25) == [0, 1]


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
    from weaksam_cli.cam.clip_es.preprocessing import preprocess
    from weaksam_cli.models.clip.vision import run_last_block, run_trunk

    image = _image(32, 32)
    maps = class_maps(clip, image, None, RECIPE)
    visual = clip.visual
    feature = run_last_block(
        visual, run_trunk(visual, preprocess(image, (32, 32)), attention_blocks=1)
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
    masks = [box_mask(scoremap_boxes(cam.numpy(), 0.4), 2, 3) for cam in coarse]
    wanted = refine(coarse, transition((before + at_last) / 2), torch.from_numpy(np.stack(masks)))
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
