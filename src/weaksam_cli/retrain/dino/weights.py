"""Published weights of a whole DINO, in the authors' layout or mmdetection's, taken as far as they fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from weaksam_cli.detectron.backbones import torchvision_key
from weaksam_cli.errors import UserError
from weaksam_cli.models.checkpoints import read_checkpoint, shapes_of
from weaksam_cli.retrain.transformers_parts import split_projection, what_was_loaded

_ENCODER: Final = "encoder"
"""Stands for the number of the encoder's heads until the network tells how many layers its decoder has."""
_AUTHORS: Final = (
    (r"backbone\.0\.body\.(.+)", r"backbone.\1"),
    (r"input_proj\.(.+)", r"transformer.projection.layers.\1"),
    (r"transformer\.tgt_embed\.weight", "transformer.content.weight"),
    (r"transformer\.(level_embed|enc_output.*)", r"transformer.\1"),
    (r"transformer\.((?:en|de)coder\.layers\.\d+\..*_attn\..+)", r"transformer.\1"),
    (r"transformer\.(encoder\.layers\.\d+)\.norm1\.(.+)", r"transformer.\1.self_attn_layer_norm.\2"),
    (r"transformer\.(decoder\.layers\.\d+)\.norm2\.(.+)", r"transformer.\1.self_attn_layer_norm.\2"),
    (r"transformer\.(decoder\.layers\.\d+)\.norm1\.(.+)", r"transformer.\1.encoder_attn_layer_norm.\2"),
    (r"transformer\.(encoder\.layers\.\d+)\.norm2\.(.+)", r"transformer.\1.final_layer_norm.\2"),
    (r"transformer\.(decoder\.layers\.\d+)\.norm3\.(.+)", r"transformer.\1.final_layer_norm.\2"),
    (r"transformer\.((?:en|de)coder\.layers\.\d+)\.linear([12])\.(.+)", r"transformer.\1.mlp.fc\2.\3"),
    (r"transformer\.(decoder\.(?:norm|ref_point_head)\..+)", r"transformer.\1"),
    (r"(?:transformer\.decoder\.)?class_embed\.(.+)", r"transformer.class_heads.\1"),
    (r"(?:transformer\.decoder\.)?bbox_embed\.(.+)", r"transformer.box_heads.\1"),
    (r"transformer\.enc_out_class_embed\.(.+)", rf"transformer.class_heads.{_ENCODER}.\1"),
    (r"transformer\.enc_out_bbox_embed\.(.+)", rf"transformer.box_heads.{_ENCODER}.\1"),
    (r"label_enc\.weight", "label_enc.weight"),
)
_MMDETECTION: Final = (
    (r"backbone\.(.+)", r"backbone.\1"),
    (r"neck\.((?:extra_)?convs\.\d+)\.conv\.(.+)", r"transformer.projection.\1.0.\2"),
    (r"neck\.((?:extra_)?convs\.\d+)\.gn\.(.+)", r"transformer.projection.\1.1.\2"),
    (r"query_embedding\.weight", "transformer.content.weight"),
    (r"level_embed", "transformer.level_embed"),
    (r"memory_trans_fc\.(.+)", r"transformer.enc_output.\1"),
    (r"memory_trans_norm\.(.+)", r"transformer.enc_output_norm.\1"),
    (r"(decoder\.layers\.\d+\.self_attn)\.attn\.(.+)", r"transformer.\1.\2"),
    (r"((?:en|de)coder\.layers\.\d+\..*_attn\..+)", r"transformer.\1"),
    (r"((?:en|de)coder\.layers\.\d+)\.norms\.0\.(.+)", r"transformer.\1.self_attn_layer_norm.\2"),
    (r"(encoder\.layers\.\d+)\.norms\.1\.(.+)", r"transformer.\1.final_layer_norm.\2"),
    (r"(decoder\.layers\.\d+)\.norms\.1\.(.+)", r"transformer.\1.encoder_attn_layer_norm.\2"),
    (r"(decoder\.layers\.\d+)\.norms\.2\.(.+)", r"transformer.\1.final_layer_norm.\2"),
    (r"((?:en|de)coder\.layers\.\d+)\.ffn\.layers\.0\.0\.(.+)", r"transformer.\1.mlp.fc1.\2"),
    (r"((?:en|de)coder\.layers\.\d+)\.ffn\.layers\.1\.(.+)", r"transformer.\1.mlp.fc2.\2"),
    (r"(decoder\.(?:norm|ref_point_head)\..+)", r"transformer.\1"),
    (r"bbox_head\.cls_branches\.(.+)", r"transformer.class_heads.\1"),
    (r"bbox_head\.reg_branches\.(\d+)\.0\.(.+)", r"transformer.box_heads.\1.layers.0.\2"),
    (r"bbox_head\.reg_branches\.(\d+)\.2\.(.+)", r"transformer.box_heads.\1.layers.1.\2"),
    (r"bbox_head\.reg_branches\.(\d+)\.4\.(.+)", r"transformer.box_heads.\1.layers.2.\2"),
    (r"dn_query_generator\.label_embedding\.weight", "label_enc.weight"),
)
_OF_CLASSES: Final = ("transformer.class_heads.", "label_enc.")
_COUNTER: Final = ".num_batches_tracked"
_REMEDY: Final = "Give a DINO of 4 scales on a ResNet-50, of its authors (checkpoint*.pth) or of mmdetection"


def load_initial(network: Any, path: Path) -> str:
    """Load what fits of a published DINO.

    Args:
        network: a `WeakSamDino`, changed in place; what does not fit keeps its weights.
        path: a file of `torch.save` or of safetensors.

    Returns:
        What was loaded and what was not, for people.

    Raises:
        UserError: the file is missing, damaged or of another network: nothing of the transformer fits.
    """
    tensors = read_checkpoint(path, remedy=_REMEDY).tensors
    found = our_tensors(tensors, layers=len(network.transformer.decoder.layers))
    rows = found.get("label_enc.weight")
    if rows is not None and len(rows) == network.class_count:
        found["label_enc.weight"] = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
    wanted = {name: shape for name, shape in shapes_of(network).items() if not name.endswith(_COUNTER)}
    fits = {name: value for name, value in found.items() if wanted.get(name) == tuple(value.shape)}
    if not any(name.startswith("transformer.encoder.") for name in fits):
        what = f"none of its {len(tensors)} tensors is one of this network's encoder"
        raise UserError(what, where=str(path), remedy=_REMEDY)
    network.load_state_dict(fits, strict=False)
    with torch.no_grad():  # the row that stands for no object says nothing
        network.label_enc.weight[-1] = 0.0
    return what_was_loaded(path, wanted, fits, found, _OF_CLASSES)


def our_tensors(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Tensors of either layout by our names; those that mean nothing here keep theirs.

    Args:
        tensors: of the file.
        layers: of our decoder; the heads of the encoder's cells come behind those of its layers.
    """
    plain = {name.removeprefix("module."): value for name, value in tensors.items()}
    by_authors = any(name.startswith("transformer.") for name in plain)
    rules = [(re.compile(theirs), ours) for theirs, ours in (_AUTHORS if by_authors else _MMDETECTION)]
    named: dict[str, Tensor] = {}
    for name, value in plain.items():
        if not name.endswith(_COUNTER):
            named |= dict(split_projection(_our_name(name, rules), value))
    found: dict[str, Tensor] = {}
    for name, value in named.items():
        if value.dim() == 4 and name.startswith("transformer.projection."):  # mmdetection has no bias there
            found.setdefault(_placed(name, named, layers)[:-6] + "bias", value.new_zeros(len(value)))
        found[_placed(name, named, layers)] = value
    return found


def _our_name(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for theirs, ours in rules:
        match = theirs.fullmatch(name)
        if match:
            name = match.expand(ours)
            break
    if name.startswith("backbone."):
        return "backbone." + torchvision_key(name.removeprefix("backbone."))
    return name.replace(".cross_attn.", ".encoder_attn.").replace("self_attn.out_proj.", "self_attn.o_proj.")


def _placed(name: str, names: Mapping[str, Tensor], layers: int) -> str:
    """The name with the number that a level of the projection, or a head of the encoder, has here."""
    match = re.fullmatch(r"transformer\.projection\.(extra_)?convs\.(\d+)\.(.+)", name)
    if match is not None:
        plain = {item.split(".")[3] for item in names if item.startswith("transformer.projection.convs.")}
        number = int(match[2]) + (len(plain) if match[1] else 0)
        return f"transformer.projection.layers.{number}.{match[3]}"
    match = re.fullmatch(r"transformer\.(class|box)_heads\.(\w+)\.(.+)", name)
    if match is None:
        return name
    theirs = {item.split(".")[3] for item in names if item.startswith("transformer.decoder.layers.")}
    layer = str(layers) if match[2] in (_ENCODER, str(len(theirs))) else match[2]
    return f"transformer.{match[1]}_heads.{layer}.{match[3]}"
