from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.vit.helpers import (
    expand_blocks,
    images,
    oracle_mctformer,
    random_mctformer,
    state_shapes,
)
from weaksam_cli.models.vit.attention import Workspace
from weaksam_cli.models.vit.checkpoint import VitShape
from weaksam_cli.models.vit.mctformer import MCTformer
from weaksam_cli.models.vit.network import choose_map

ALL = [0, 1, 2]


def close(met: torch.Tensor, expected: Any) -> None:
    np.testing.assert_allclose(met.detach().numpy(), np.asarray(expected, np.float32), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("index", range(6))
def test_outputs_of_the_published_networks(oracle: Any, version: Any, index: int) -> None:
    tiny = oracle("mctformer")[f"tiny_{version.upper()}"]
    case = tiny["cases"][index]
    network = oracle_mctformer(tiny, version, case["n_layers"])
    pixels = torch.tensor(case["input"])
    with torch.inference_mode():
        encoded = network.encode_for_maps(pixels, Workspace())
        maps = network.maps(encoded, ALL, [0])
        record = encoded.require_record()
        logits = network(pixels)
    assert record.summed is not None
    assert record.class_rows is not None
    close(record.summed[:, 3:, 3:], case["patch_attention_sum_over_all_layers"])
    close(maps.fine, case["refined_cam"])
    attention = record.class_rows[:, :, -case["n_layers"] :].mean(1).sum(1).unflatten(-1, encoded.grid)
    close(choose_map("attention" if version == "v1" else "fused", attention, maps.coarse), case["cam"])
    close(encoded.class_logits(), case["logits"])
    close(logits["class_token"], case["training_outputs"]["cls"])
    if version == "v1":
        close(maps.coarse, case["cam"])  # our choice: the class attention before refinement
        assert list(logits) == ["class_token"]
    else:
        close(logits["patch"], case["training_outputs"]["patch"])


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_official_names_and_shapes(oracle: Any, version: Any) -> None:
    with torch.device("meta"):
        network = MCTformer(VitShape(20), version)
    listed = oracle("mctformer")[f"state_dict_shapes_{version.upper()}"]
    assert state_shapes(network) == expand_blocks(listed, 12)


def test_logits_train_without_keeping_attentions() -> None:
    network = random_mctformer("v2").requires_grad_(True)
    logits = network(images(8, 8))
    (logits["class_token"].sum() + logits["patch"].sum()).backward()
    missed = {name for name, value in network.named_parameters() if value.grad is None}
    assert missed == {"norm.weight", "norm.bias"}


def test_maps_are_not_made_with_gradients() -> None:
    network = random_mctformer("v1")
    with pytest.raises(ValueError, match="without gradients"):
        network.maps(network.encode_for_maps(images(8, 8), Workspace()), ALL, [0])
