"""Weights of a whole Mask2Former, in the layout of `transformers` or of its authors, taken as far as they fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from weaksam_cli.errors import UserError
from weaksam_cli.models.checkpoints import read_checkpoint, shapes_of
from weaksam_cli.retrain.transformers_parts import split_projection, what_was_loaded

_TRANSFORMERS: Final = {
    "model.pixel_level_module.encoder.": "backbone.",
    "model.pixel_level_module.decoder.": "head.pixel_decoder.",
    "model.transformer_module.": "head.transformer_module.",
    "class_predictor.": "head.class_predictor.",
}
_OF_AUTHORS: Final = "sem_seg_head."
_PIXELS: Final = r"sem_seg_head\.(?:pixel_decoder\.)?"
"""Their first files have no word for the pixel decoder, and call `static_query` what later is `query_feat`."""
_PREDICTOR: Final = r"sem_seg_head\.predictor\."
_LAYERS: Final = "head.transformer_module.decoder.layers."
_AUTHORS: Final = tuple(
    (re.compile(theirs), ours)
    for theirs, ours in (
        (_PREDICTOR + r"class_embed\.(.+)", r"head.class_predictor.\1"),
        (_PREDICTOR + r"(?:static_query|query_feat)\.(.+)", r"head.transformer_module.queries_features.\1"),
        (_PREDICTOR + r"query_embed\.(.+)", r"head.transformer_module.queries_embedder.\1"),
        (_PREDICTOR + r"level_embed\.(.+)", r"head.transformer_module.level_embed.\1"),
        (_PREDICTOR + r"decoder_norm\.(.+)", r"head.transformer_module.decoder.layernorm.\1"),
        (
            _PREDICTOR + r"mask_embed\.layers\.(\d+)\.(.+)",
            r"head.transformer_module.decoder.mask_predictor.mask_embedder.\1.0.\2",
        ),
        (
            _PREDICTOR + r"transformer_(self|cross)_attention_layers\.(\d+)\.norm\.(.+)",
            _LAYERS + r"\2.\1_attn_layer_norm.\3",
        ),
        (
            _PREDICTOR + r"transformer_(self|cross)_attention_layers\.(\d+)\.(?:self|multihead)_attn\.(.+)",
            _LAYERS + r"\2.\1_attn.\3",
        ),
        (_PREDICTOR + r"transformer_ffn_layers\.(\d+)\.norm\.(.+)", _LAYERS + r"\1.final_layer_norm.\2"),
        (_PREDICTOR + r"transformer_ffn_layers\.(\d+)\.linear([12])\.(.+)", _LAYERS + r"\1.fc\2.\3"),
        (_PIXELS + r"(adapter|layer)_(\d+)\.(weight|bias)", r"head.pixel_decoder.\1_\2.0.\3"),
        (_PIXELS + r"(adapter|layer)_(\d+)\.norm\.(.+)", r"head.pixel_decoder.\1_\2.1.\3"),
        (_PIXELS + r"input_proj\.(.+)", r"head.pixel_decoder.input_projections.\1"),
        (_PIXELS + r"mask_features\.(.+)", r"head.pixel_decoder.mask_projection.\1"),
        (_PIXELS + r"transformer\.level_embed", "head.pixel_decoder.level_embed"),
        (
            _PIXELS + r"transformer\.(encoder\.layers\.\d+)\.norm1\.(.+)",
            r"head.pixel_decoder.\1.self_attn_layer_norm.\2",
        ),
        (
            _PIXELS + r"transformer\.(encoder\.layers\.\d+)\.norm2\.(.+)",
            r"head.pixel_decoder.\1.final_layer_norm.\2",
        ),
        (
            _PIXELS + r"transformer\.(encoder\.layers\.\d+)\.linear([12])\.(.+)",
            r"head.pixel_decoder.\1.fc\2.\3",
        ),
        (
            _PIXELS + r"transformer\.(encoder\.layers\.\d+\.self_attn\..+)",
            r"head.pixel_decoder.\1",
        ),
    )
)
"""Names in the authors' checkpoints, which are detectron2's -> ours. A backbone has detectron2's names here, too."""
_OF_ALL_CLASSES: Final = "head.class_predictor."
_COUNTER: Final = ".num_batches_tracked"
_NOT_LEARNT: Final = ("head.criterion.", "criterion.")
_REMEDY: Final = "Give a whole Mask2Former: model.safetensors of transformers, or a .pkl of its authors"


def our_name(name: str) -> str | None:
    """The name in `WeakSamMask2Former` of a tensor that `transformers` calls `name`; None for one that is not of use.

    A ResNet's are those of detectron2: `encoder.stages.0.layers.1.layer.2.convolution` is `res2.1.conv3`.
    """
    for theirs, ours in _TRANSFORMERS.items():
        if name.startswith(theirs):
            rest = name.removeprefix(theirs)
            return ours + (_resnet_name(rest) if ours == "backbone." else rest)
    return None


def _resnet_name(name: str) -> str:
    name = name.replace("embedder.embedder.", "stem.layer.0.")
    name = re.sub(r"^encoder\.stages\.(\d)\.layers\.", lambda match: f"res{int(match[1]) + 2}.", name)
    name = re.sub(r"layer\.(\d)\.", lambda match: f"conv{int(match[1]) + 1}.", name)
    return name.replace("convolution.", "").replace("normalization.", "norm.")


def name_of_authors(name: str) -> str:
    """The same of a tensor of the authors; what means nothing here keeps its name."""
    matches = ((theirs.fullmatch(name), ours) for theirs, ours in _AUTHORS)
    return next((match.expand(ours) for match, ours in matches if match), name)


def our_tensors(tensors: Mapping[str, Tensor], wanted: Set[str]) -> dict[str, Tensor]:
    """Tensors of either layout by our names.

    Args:
        tensors: of the file.
        wanted: names of the network; an attention's projection that is one tensor in the file may be three of them.
    """
    by_authors = any(name.startswith(_OF_AUTHORS) for name in tensors)
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        ours = name_of_authors(name) if by_authors else our_name(name)
        if ours is not None and not ours.endswith(_COUNTER) and not ours.startswith(_NOT_LEARNT):
            parts = dict(split_projection(ours, value))
            found |= parts if parts.keys() & wanted else {ours: value}
    return found


def load_initial(network: nn.Module, path: Path) -> str:
    """Load what fits of a published Mask2Former.

    Args:
        network: a `WeakSamMask2Former`, changed in place.
        path: a safetensors file, one of `torch.save`, or a pickle of arrays.

    Returns:
        What was loaded and what was not, for people.

    Raises:
        UserError: the file is missing, damaged or of another network: nothing of the decoders fits.
    """
    tensors = read_checkpoint(path, remedy=_REMEDY).tensors
    wanted = {
        name: shape
        for name, shape in shapes_of(network).items()
        if not name.endswith(_COUNTER) and not name.startswith(_NOT_LEARNT)
    }
    found = our_tensors(tensors, wanted.keys())
    fits = {name: value for name, value in found.items() if wanted.get(name) == tuple(value.shape)}
    if not any(name.startswith("head.") and not name.startswith(_OF_ALL_CLASSES) for name in fits):
        what = f"none of its {len(tensors)} tensors is one of this network's decoders"
        raise UserError(what, where=str(path), remedy=_REMEDY)
    network.load_state_dict(fits, strict=False)
    return what_was_loaded(path, wanted, fits, found, (_OF_ALL_CLASSES,))
