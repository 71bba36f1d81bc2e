"""Mask2Former's published checkpoints: the authors' names, what fits and what does not."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from weaksam_cli.errors import UserError

pytest.importorskip("transformers")

from tests.retrain.test_mask2former import R50, SIZES, VALUES, build_network
from weaksam_cli.retrain.mask2former.weights import load_initial

State = dict[str, Tensor]
SELF = "predictor.transformer_self_attention_layers"
CROSS = "predictor.transformer_cross_attention_layers"
FEED = "predictor.transformer_ffn_layers"
PIXELS = r"head\.pixel_decoder\."
LAYER = r"head\.transformer_module\.decoder\.layers\.(\d+)\."
RULES = (
    (r"head\.class_predictor\.(.+)", r"predictor.class_embed.\1"),
    (r"head\.transformer_module\.queries_features\.(.+)", r"predictor.query_feat.\1"),
    (r"head\.transformer_module\.queries_embedder\.(.+)", r"predictor.query_embed.\1"),
    (r"head\.transformer_module\.level_embed\.(.+)", r"predictor.level_embed.\1"),
    (r"head\.transformer_module\.decoder\.layernorm\.(.+)", r"predictor.decoder_norm.\1"),
    (r"head\..+\.mask_embedder\.(\d)\.0\.(.+)", r"predictor.mask_embed.layers.\1.\2"),
    (LAYER + r"self_attn_layer_norm\.(.+)", SELF + r".\1.norm.\2"),
    (LAYER + r"cross_attn_layer_norm\.(.+)", CROSS + r".\1.norm.\2"),
    (LAYER + r"final_layer_norm\.(.+)", FEED + r".\1.norm.\2"),
    (LAYER + r"self_attn\.(.+)", SELF + r".\1.self_attn.\2"),
    (LAYER + r"cross_attn\.(.+)", CROSS + r".\1.multihead_attn.\2"),
    (LAYER + r"fc(\d)\.(.+)", FEED + r".\1.linear\2.\3"),
    (PIXELS + r"(adapter|layer)_1\.0\.(.+)", r"pixel_decoder.\1_1.\2"),
    (PIXELS + r"(adapter|layer)_1\.1\.(.+)", r"pixel_decoder.\1_1.norm.\2"),
    (PIXELS + r"input_projections\.(.+)", r"pixel_decoder.input_proj.\1"),
    (PIXELS + r"mask_projection\.(.+)", r"pixel_decoder.mask_features.\1"),
    (PIXELS + r"level_embed", r"pixel_decoder.transformer.level_embed"),
    (PIXELS + r"(encoder\.layers\.\d+)\.self_attn_layer_norm\.(.+)", r"pixel_decoder.transformer.\1.norm1.\2"),
    (PIXELS + r"(encoder\.layers\.\d+)\.final_layer_norm\.(.+)", r"pixel_decoder.transformer.\1.norm2.\2"),
    (PIXELS + r"(encoder\.layers\.\d+)\.fc(\d)\.(.+)", r"pixel_decoder.transformer.\1.linear\2.\3"),
    (PIXELS + r"(encoder\.layers\.\d+\.self_attn\..+)", r"pixel_decoder.transformer.\1"),
)  # fmt: skip
"""Our names, those of `transformers` -> the authors', of the classes in their `mask2former/modeling`."""
PUBLISHED = (
    "backbone.stem.conv1.norm.running_mean", "backbone.res5.2.conv3.weight", "criterion.empty_weight",
    "sem_seg_head.pixel_decoder.adapter_1.norm.weight", "sem_seg_head.pixel_decoder.layer_1.weight",
    "sem_seg_head.pixel_decoder.input_proj.0.1.bias", "sem_seg_head.pixel_decoder.mask_features.bias",
    "sem_seg_head.pixel_decoder.transformer.level_embed",
    "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.self_attn.sampling_offsets.weight",
    "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.norm2.bias",
    "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.linear1.weight",
    "sem_seg_head.predictor.query_feat.weight", "sem_seg_head.predictor.query_embed.weight",
    "sem_seg_head.predictor.level_embed.weight", "sem_seg_head.predictor.decoder_norm.bias",
    "sem_seg_head.predictor.transformer_self_attention_layers.2.self_attn.in_proj_weight",
    "sem_seg_head.predictor.transformer_self_attention_layers.2.norm.bias",
    "sem_seg_head.predictor.transformer_cross_attention_layers.0.multihead_attn.in_proj_bias",
    "sem_seg_head.predictor.transformer_cross_attention_layers.0.multihead_attn.out_proj.weight",
    "sem_seg_head.predictor.transformer_ffn_layers.1.linear2.weight",
    "sem_seg_head.predictor.class_embed.weight", "sem_seg_head.predictor.mask_embed.layers.2.bias",
)  # fmt: skip
"""Some of the names in the authors' files."""


def random_network(values: dict[str, Any], seed: int) -> Any:
    """One whose every tensor is random, the statistics of normalisation, too."""
    network: Any = build_network(values).eval()
    draw = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            small = torch.rand(value.shape, generator=draw)
            value.copy_(
                small + 0.5 if name.endswith("running_var") else (small - 0.5) / value[0].numel() ** 0.5 * 2
            )
    return network


def of_authors(network: Any) -> State:
    """Its tensors by the authors' names; self-attention's queries, keys and values in one, as torch has them."""
    state = {
        name: value for name, value in network.state_dict().items() if not name.startswith("head.criterion.")
    }
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace(".q_", f".{part}_")) for part in "qkv"]
        state[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    found = {"criterion.empty_weight": network.head.criterion.empty_weight}
    for name, value in state.items():
        matches = ((re.fullmatch(ours, name), theirs) for ours, theirs in RULES)
        renamed = [match.expand(theirs) for match, theirs in matches if match]
        assert len(renamed) == 1 or name.startswith("backbone."), name
        found[f"sem_seg_head.{renamed[0]}" if renamed else name] = value
    return found


def stored(state: State, path: Path) -> Path:
    """As detectron2 publishes models: a pickle of numpy arrays."""
    arrays = {name: value.numpy() for name, value in state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "third_party"}))
    return path


def outputs(network: Any) -> list[Tensor]:
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = network.backbone(pixels)
        classes, masks = network.head([maps[name] for name in network.maps])
    return [*classes, *masks]


@pytest.fixture(scope="module")
def source() -> Any:
    return random_network(R50, 0)


def first_layout(state: State) -> State:
    """Names of the authors' first files, which their loader renames."""
    return {
        name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace(
            "query_feat", "static_query"
        ): value
        for name, value in state.items()
    }


@pytest.mark.parametrize("first", [False, True])
def test_all_of_a_published_file_is_taken(source: Any, tmp_path: Path, first: bool) -> None:
    state = of_authors(source)
    assert set(PUBLISHED) <= set(state)
    network = random_network(R50, 1)
    path = stored(first_layout(state) if first else state, tmp_path / "model_final.pkl")
    told = load_initial(network, path)
    count = len(
        [name for name in network.state_dict() if "criterion" not in name and "num_batches" not in name]
    )
    assert told == f"initial weights: {count} of {count} tensors from {path}"
    for found, wanted in zip(outputs(network), outputs(source), strict=True):
        torch.testing.assert_close(found, wanted, atol=0, rtol=0)


def test_what_does_not_fit_is_named(source: Any, tmp_path: Path) -> None:
    """Other classes, a decoder that is a layer shorter, a tensor that nobody knows."""
    state = of_authors(source)
    state["sem_seg_head.predictor.class_embed.weight"] = torch.zeros(81, 32)
    state["sem_seg_head.predictor.class_embed.bias"] = torch.zeros(81)
    state["sem_seg_head.predictor.input_proj.0.weight"] = torch.zeros(32, 32)
    del state["sem_seg_head.predictor.query_feat.weight"]
    shorter = R50 | {"segmenter": SIZES | {"decoder_layers": 2}}
    told = load_initial(build_network(shorter), stored(state, tmp_path / "model.pkl"))
    assert (
        "2 belong to its classes and start anew: head.class_predictor.weight, head.class_predictor.bias"
        in told
    )
    assert "1 not in the file: head.transformer_module.queries_features.weight" in told
    unknown = re.search(r"(\d+) of the file unknown here: (.+)", told)
    assert unknown is not None and unknown[1] == str(4 + 4 + 6 + 4 + 1), (
        "attention twice, norms, the layer's width"
    )


def test_a_checkpoint_over_another_backbone_gives_its_decoders(source: Any, tmp_path: Path) -> None:
    told = load_initial(build_network(VALUES), stored(of_authors(source), tmp_path / "model.pkl"))
    assert "4 of another shape: head.pixel_decoder.input_projections.0.0.weight" in told
    assert "of the file unknown here: backbone.stem.conv1.weight" in told


def test_a_pickle_that_would_run_something_is_refused(source: Any, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.write_text, (tmp_path / "ran", "x"))

    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": {"sem_seg_head.predictor.query_feat.weight": Evil()}}))
    with pytest.raises(UserError):
        load_initial(build_network(VALUES), path)
    assert not (tmp_path / "ran").exists()


def test_a_maskformer_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = stored({"sem_seg_head.predictor.other.weight": torch.zeros(3)}, tmp_path / "model.pkl")
    with pytest.raises(UserError, match=r"none of its 1 tensors is one of this network's decoders.*\.pkl"):
        load_initial(build_network(VALUES), path)
