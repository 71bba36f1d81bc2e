"""Published DINO checkpoints: names of the authors and of mmdetection, what fits and what does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.retrain.dino.test_model import VALUES, recipe
from tests.retrain.helpers import config
from weaksam_cli.errors import UserError
from weaksam_cli.retrain.detector import build_network
from weaksam_cli.retrain.dino.weights import load_initial

R50: dict[str, Any] = {
    "network": "dino-r50",
    "backbone": {"weights": "random", "freeze_at": 0, "norm": "batch"},
    "transformer": VALUES["transformer"] | {"first_level": 3, "levels": 4},
}
State = dict[str, Tensor]


def network(seed: int, **changes: Any) -> Any:
    torch.manual_seed(seed)
    model: Any = build_network(config(recipe(**(R50 | changes))))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def lite(seed: int, **changes: Any) -> Any:
    """The same transformer over a smaller backbone."""
    torch.manual_seed(seed)
    model: Any = build_network(config(recipe(transformer=R50["transformer"] | changes)))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def small() -> Any:
    return lite(0)


def torchvision_name(name: str) -> str:
    name = re.sub(r"^res(\d)", lambda match: f"layer{int(match[1]) - 1}", name)
    name = name.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
    name = re.sub(r"conv(\d)\.norm", r"bn\1", name)
    return name.removeprefix("stem.")


AUTHORS = (
    (r"transformer\.projection\.layers\.(.+)", r"input_proj.\1"),
    (r"transformer\.content\.weight", "transformer.tgt_embed.weight"),
    (r"transformer\.class_heads\.2\.(.+)", r"transformer.enc_out_class_embed.\1"),
    (r"transformer\.box_heads\.2\.(.+)", r"transformer.enc_out_bbox_embed.\1"),
    (r"transformer\.class_heads\.(.+)", r"class_embed.\1"),
    (r"transformer\.box_heads\.(.+)", r"bbox_embed.\1"),
    (r"(.+encoder\.layers\.\d)\.self_attn_layer_norm\.(.+)", r"\1.norm1.\2"),
    (r"(.+encoder\.layers\.\d)\.final_layer_norm\.(.+)", r"\1.norm2.\2"),
    (r"(.+decoder\.layers\.\d)\.encoder_attn_layer_norm\.(.+)", r"\1.norm1.\2"),
    (r"(.+decoder\.layers\.\d)\.self_attn_layer_norm\.(.+)", r"\1.norm2.\2"),
    (r"(.+decoder\.layers\.\d)\.final_layer_norm\.(.+)", r"\1.norm3.\2"),
    (r"(.+)\.mlp\.fc(\d)\.(.+)", r"\1.linear\2.\3"),
    (r"(.+)\.encoder_attn\.(.+)", r"\1.cross_attn.\2"),
)
"""Our names as a regular expression -> those of IDEA-Research/DINO (DINO_4scale); what matches nothing has the same."""
MMDETECTION = (
    (r"transformer\.projection\.layers\.3\.0\.(.+)", r"neck.extra_convs.0.conv.\1"),
    (r"transformer\.projection\.layers\.3\.1\.(.+)", r"neck.extra_convs.0.gn.\1"),
    (r"transformer\.projection\.layers\.(\d)\.0\.(.+)", r"neck.convs.\1.conv.\2"),
    (r"transformer\.projection\.layers\.(\d)\.1\.(.+)", r"neck.convs.\1.gn.\2"),
    (r"transformer\.content\.weight", "query_embedding.weight"),
    (r"transformer\.enc_output\.(.+)", r"memory_trans_fc.\1"),
    (r"transformer\.enc_output_norm\.(.+)", r"memory_trans_norm.\1"),
    (r"transformer\.class_heads\.(.+)", r"bbox_head.cls_branches.\1"),
    (r"transformer\.box_heads\.(\d)\.layers\.0\.(.+)", r"bbox_head.reg_branches.\1.0.\2"),
    (r"transformer\.box_heads\.(\d)\.layers\.1\.(.+)", r"bbox_head.reg_branches.\1.2.\2"),
    (r"transformer\.box_heads\.(\d)\.layers\.2\.(.+)", r"bbox_head.reg_branches.\1.4.\2"),
    (r"transformer\.(.+)\.self_attn_layer_norm\.(.+)", r"\1.norms.0.\2"),
    (r"transformer\.(.+)\.encoder_attn_layer_norm\.(.+)", r"\1.norms.1.\2"),
    (r"transformer\.(encoder.+)\.final_layer_norm\.(.+)", r"\1.norms.1.\2"),
    (r"transformer\.(decoder.+)\.final_layer_norm\.(.+)", r"\1.norms.2.\2"),
    (r"transformer\.(.+)\.mlp\.fc1\.(.+)", r"\1.ffn.layers.0.0.\2"),
    (r"transformer\.(.+)\.mlp\.fc2\.(.+)", r"\1.ffn.layers.1.\2"),
    (r"transformer\.(.+)\.encoder_attn\.(.+)", r"\1.cross_attn.\2"),
    (r"transformer\.(decoder.+self_attn)\.(.+)", r"\1.attn.\2"),
    (r"label_enc\.weight", "dn_query_generator.label_embedding.weight"),
    (r"transformer\.(.+)", r"\1"),
)
"""The same for mmdetection 3."""


def joined(state: State) -> State:
    """Query, key and value of the attention between queries in one tensor, as torch keeps them."""
    found: State = {}
    for name, value in state.items():
        match = re.fullmatch(r"(.+decoder.+)\.([qkvo])_proj\.(weight|bias)", name)
        if match is None:
            found[name] = value
        elif match[2] == "o":
            found[f"{match[1]}.out_proj.{match[3]}"] = value
        elif match[2] == "q":
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            found[f"{match[1]}.in_proj_{match[3]}"] = torch.cat(parts)
    return found


def renamed(state: State, rules: tuple[tuple[str, str], ...], backbone: str) -> State:
    found: State = {}
    for name, value in joined(state).items():
        if name.startswith("backbone."):
            found[backbone + torchvision_name(name.removeprefix("backbone."))] = value
            continue
        match = next((m.expand(new) for old, new in rules if (m := re.fullmatch(old, name))), name)
        found[match] = value
    return found


def of_authors(model: Any) -> State:
    """Their decoder has the heads once more."""
    found = renamed(model.state_dict(), AUTHORS, "backbone.0.body.")
    twice = {name: value for name, value in found.items() if re.match("(class|bbox)_embed", name)}
    return found | {f"transformer.decoder.{name}": value for name, value in twice.items()}


def of_mmdetection(model: Any) -> State:
    """It has no bias before a group normalisation, and no row for a place without object."""
    found = renamed(model.state_dict(), MMDETECTION, "backbone.")
    rows = "dn_query_generator.label_embedding.weight"
    found[rows] = found[rows][:-1]
    return {n: v for n, v in found.items() if not re.fullmatch(r"neck\..*conv\.bias", n)}


LAYOUTS = {"authors": of_authors, "mmdetection": of_mmdetection}


def equal(model: Any, source: Any, but: tuple[str, ...] = ()) -> None:
    state = model.state_dict()
    for name, value in source.state_dict().items():
        if name.endswith("num_batches_tracked") or name.startswith(but):
            continue
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_of_a_checkpoint_is_taken(layout: str, tmp_path: Path) -> None:
    source = network(0)
    if layout == "mmdetection":
        for level in source.transformer.projection.layers:
            level[0].bias.data.zero_()
    source.label_enc.weight.data[-1] = 0
    path = tmp_path / "checkpoint.pth"
    state: dict[str, Tensor] = LAYOUTS[layout](source)
    torch.save({"model" if layout == "authors" else "state_dict": state, "epoch": 11}, path)
    model = network(1)
    told = load_initial(model, path)
    equal(model, source)
    count = sum(not name.endswith("num_batches_tracked") for name in model.state_dict())
    assert told == f"initial weights: {count} of {count} tensors from {path}"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_layers_of_other_classes_start_anew_and_are_named(
    small: Any, layout: str, prefix: str, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pth"
    make: Callable[[Any], State] = LAYOUTS[layout]
    state = {}
    for name, value in make(small).items():
        of_classes = any(part in name for part in ("class_embed", "cls_branches", "label"))
        state[prefix + name] = torch.zeros(91, *value.shape[1:]) if of_classes else value
    torch.save({"model": state}, path)
    model = lite(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    told = load_initial(model, path)
    assert "7 belong to its classes and start anew: transformer.class_heads.0.weight" in told
    assert all(
        torch.equal(before[name], model.state_dict()[name]) for name in before if "class_heads" in name
    )
    assert torch.equal(model.transformer.content.weight, small.transformer.content.weight)


def test_a_shorter_decoder_takes_the_encoders_heads(small: Any, tmp_path: Path) -> None:
    """And the first layers; what is more in the file is told."""
    for layout, make in LAYOUTS.items():
        path = tmp_path / f"{layout}.pth"
        torch.save({"model": make(small)}, path)
        model = lite(1, decoder_layers=1)
        told = load_initial(model, path)
        assert "of the file unknown here: " in told
        for ours, theirs in ((0, 0), (1, 2)):
            found = model.transformer.box_heads[ours].layers[0].weight
            assert torch.equal(found, small.transformer.box_heads[theirs].layers[0].weight), layout


def test_what_is_no_dino_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"model": {"fc.weight": torch.zeros(2, 2)}}, path)
    with pytest.raises(UserError, match="none of its 1 tensors is one of this network's encoder"):
        load_initial(lite(1), path)
    with pytest.raises(UserError, match="no such checkpoint"):
        load_initial(lite(1), tmp_path / "nothing.pth")
