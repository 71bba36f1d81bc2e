"""Weights of a whole Mask2Former in the layout of `transformers`, taken as far as they fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from torch import nn

from weaksam_cli.errors import UserError
from weaksam_cli.models.checkpoints import read_checkpoint, shapes_of
from weaksam_cli.retrain.transformers_parts import what_was_loaded

_PREFIXES: Final = {
    "model.pixel_level_module.encoder.": "backbone.",
    "model.pixel_level_module.decoder.": "head.pixel_decoder.",
    "model.transformer_module.": "head.transformer_module.",
    "class_predictor.": "head.class_predictor.",
}
_OF_ALL_CLASSES: Final = "head.class_predictor."
_COUNTER: Final = ".num_batches_tracked"
_NOT_LEARNT: Final = "head.criterion."


def our_name(name: str) -> str | None:
    """The name in `WeakSamMask2Former` of a tensor that `transformers` calls `name`; None for one that is not of use.

    A ResNet's are those of detectron2: `encoder.stages.0.layers.1.layer.2.convolution` is `res2.1.conv3`.
    """
    for theirs, ours in _PREFIXES.items():
        if name.startswith(theirs) and not name.endswith(_COUNTER):
            rest = name.removeprefix(theirs)
            return ours + (_resnet_name(rest) if ours == "backbone." else rest)
    return None


def _resnet_name(name: str) -> str:
    name = name.replace("embedder.embedder.", "stem.layer.0.")
    name = re.sub(r"^encoder\.stages\.(\d)\.layers\.", lambda match: f"res{int(match[1]) + 2}.", name)
    name = re.sub(r"layer\.(\d)\.", lambda match: f"conv{int(match[1]) + 1}.", name)
    return name.replace("convolution.", "").replace("normalization.", "norm.")


def load_initial(network: nn.Module, path: Path) -> str:
    """Load what fits of a checkpoint in the layout of `transformers`.

    Args:
        network: a `WeakSamMask2Former`, changed in place.
        path: a safetensors file, or one of `torch.save`.

    Returns:
        What was loaded and what was not, for people.

    Raises:
        UserError: the file is missing, damaged or of another network: nothing of the decoders fits.
    """
    remedy = "Give the model.safetensors of a Mask2Former in the layout of transformers"
    found = read_checkpoint(path, remedy=remedy).tensors
    names = {ours: name for name in found if (ours := our_name(name)) is not None}
    wanted = {
        name: shape
        for name, shape in shapes_of(network).items()
        if not name.endswith(_COUNTER) and not name.startswith(_NOT_LEARNT)
    }
    fits = {ours: found[name] for ours, name in names.items() if wanted.get(ours) == tuple(found[name].shape)}
    if not any(name.startswith("head.") and not name.startswith(_OF_ALL_CLASSES) for name in fits):
        what = f"none of its {len(found)} tensors is one of this network's decoders"
        raise UserError(what, where=str(path), remedy=remedy)
    network.load_state_dict(fits, strict=False)
    return what_was_loaded(path, wanted, fits, names, (_OF_ALL_CLASSES,))
