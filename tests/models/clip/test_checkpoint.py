from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from open_clip.model import build_model_from_openai_state_dict
from safetensors.torch import save_file
from torch import Tensor

from tests.models.clip.tiny import LAYERS, PATCH, official_state, tiny_clip
from weaksam_cli.errors import UserError
from weaksam_cli.models.clip import build_clip, load_clip


def _save(kind: str, folder: Path) -> Path:
    state = official_state()
    if kind == "safetensors":
        path = folder / "clip.safetensors"
        save_file(state, path)
    elif kind == "plain":
        path = folder / "clip.pt"
        torch.save(state, path)
    else:
        path = folder / "ViT-B-16.pt"
        example = (torch.zeros(1, 3, 2 * PATCH, 2 * PATCH), torch.zeros(1, 77, dtype=torch.int64))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(tiny_clip(), example, check_trace=False)
            torch.jit.save(traced.half(), str(path))
    return path


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    return official_state()


@pytest.mark.parametrize("kind", ["torchscript", "plain", "safetensors"])
def test_all_kinds_of_files_give_the_network_of_the_librarys_own_loader(tmp_path: Path, kind: str) -> None:
    network = load_clip(_save(kind, tmp_path))
    reference = build_model_from_openai_state_dict(official_state(), cast_dtype=torch.float16).float()
    torch.manual_seed(3)
    pixels, tokens = torch.randn(2, 3, 2 * PATCH, 2 * PATCH), torch.randint(0, 49408, (2, 77))
    with torch.no_grad():
        assert torch.allclose(network.encode_image(pixels), reference.encode_image(pixels), atol=1e-5)
        assert torch.allclose(network.encode_text(tokens), reference.encode_text(tokens), atol=1e-5)


def test_the_network_is_frozen_float32_and_all_of_it_has_memory(tmp_path: Path) -> None:
    network = load_clip(_save("plain", tmp_path))
    assert not network.training
    assert len(network.visual.transformer.resblocks) == LAYERS
    for value in [*network.parameters(), *network.buffers()]:
        assert (value.dtype, value.device.type, value.requires_grad) == (torch.float32, "cpu", False)


def _without(key: str) -> dict[str, Tensor]:
    return {name: value for name, value in official_state().items() if name != key}


FAULTS = {
    "visual.conv1.weight": "not a CLIP with a vision transformer: visual.conv1.weight is missing",
    "ln_final.weight": "not a CLIP with a vision transformer: ln_final.weight is missing",
    "visual.ln_post.bias": "1 tensors missing: visual.ln_post.bias",
    "logit_scale": "1 tensors missing: logit_scale",
}


@pytest.mark.parametrize("key", list(FAULTS))
def test_a_missing_tensor_is_named(key: str) -> None:
    with pytest.raises(UserError, match=FAULTS[key]):
        build_clip(_without(key), where="x.pt")


def test_shapes_that_do_not_belong_together_are_named(official: dict[str, Tensor]) -> None:
    official = {**official, "visual.proj": torch.zeros(128, 33)}
    with pytest.raises(UserError, match=r"visual.proj \(128, 33\) instead of \(128, 32\)"):
        build_clip(official, where="x.pt")


def test_a_network_without_blocks_and_odd_widths_are_refused(official: dict[str, Tensor]) -> None:
    without = {key: value for key, value in official.items() if "visual.transformer" not in key}
    with pytest.raises(UserError, match="at least one block"):
        build_clip(without, where="x.pt")
    narrow = {**official, "ln_final.weight": torch.zeros(40)}
    with pytest.raises(UserError, match="multiples of 64"):
        build_clip(narrow, where="x.pt")


def test_a_resnet_clip_is_refused() -> None:
    with pytest.raises(UserError, match="vision transformer"):
        build_clip(
            {"visual.conv1.weight": torch.zeros(64), "ln_final.weight": torch.zeros(64)}, where="RN50.pt"
        )
