"""ImageNet weights of a ResNet-50 from a user's file, loaded without running anything in it.

Three layouts are met: detectron2's `R-50.pkl` (MSRA, BGR), torchvision's ResNet-50 and detectron2's own names, the last
two as `.pth`/`.pt` or `.safetensors`.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from weaksam_cli.errors import UserError
from weaksam_cli.training.checkpoint import load_tensors

_PREFIX = "bottom_up."
_ALLOWED_CLASSES = {"OrderedDict": OrderedDict, "ndarray": np.ndarray, "dtype": np.dtype}
_ALLOWED_FUNCTIONS = {"_reconstruct", "scalar"}
_ARRAY_MODULES = {"numpy.core.multiarray", "numpy._core.multiarray"}


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds plain containers and numpy arrays; every other class or function is refused before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("collections", "OrderedDict"), ("numpy", "ndarray"), ("numpy", "dtype")}:
            return _ALLOWED_CLASSES[name]
        if module in _ARRAY_MODULES and name in _ALLOWED_FUNCTIONS:
            return getattr(np._core.multiarray, name)  # type: ignore[attr-defined]
        if (module, name) == ("_codecs", "encode"):  # how Python 3 pickles bytes for protocol 2
            return _encode_latin1
        raise pickle.UnpicklingError(f"the file asks for {module}.{name}")


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding not in {"latin1", "latin-1"}:
        raise pickle.UnpicklingError(f"the file asks for the encoding {encoding}")
    return text.encode("latin1")


def load_arrays(path: Path) -> Any:
    """The contents of a pickle that holds only containers, numbers, text and numpy arrays.

    Raises:
        UserError: the file is damaged or asks for anything else.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # damaged pickles raise nearly any kind
        raise UserError(
            f"refused to unpickle ({error})",
            where=str(path),
            remedy="Only files of numpy arrays are read; use detectron2's R-50.pkl, or a .pth or .safetensors file",
        ) from error


def load_resnet50(model: nn.Module, weights: str, pixels: str) -> None:
    """Load a ResNet-50 into `model.backbone.bottom_up`.

    Args:
        model: a detectron2 detector with a ResNet-50 FPN backbone.
        weights: path of the file.
        pixels: the recipe's `backbone.pixels`; it has to fit the file's layout.

    Raises:
        UserError: the file is missing, damaged or not a ResNet-50, or `pixels` does not fit it.
    """
    path = Path(weights)
    if not path.is_file():
        raise UserError(
            "no such weights file",
            where=str(path),
            remedy="Set backbone.weights to detectron2's R-50.pkl or a torchvision ResNet-50, or to `random` "
            "with backbone.norm batch and backbone.freeze_at 0",
        )
    backbone: nn.Module = model.backbone.bottom_up  # type: ignore[union-attr,assignment]
    values, caffe2 = _read(path)
    if "layer1.0.conv1.weight" in values:
        _expect_pixels(path, pixels, "imagenet_rgb", "torchvision")
        values = {torchvision_key(name): value for name, value in values.items()}
    elif path.suffix == ".pkl":
        _expect_pixels(path, pixels, "msra_bgr", "detectron2's R-50.pkl")
        values = _align(backbone, values, caffe2)
    state = {name: value for name, value in values.items() if name in backbone.state_dict()}
    missing = sorted(
        name for name in backbone.state_dict() if name not in state and "num_batches" not in name
    )
    if missing:
        raise UserError(
            f"{len(missing)} tensors of a ResNet-50 are missing, the first is {missing[0]}",
            where=str(path),
            remedy="Use detectron2's R-50.pkl or a torchvision ResNet-50",
        )
    _load(backbone, state, path)


def torchvision_key(name: str) -> str:
    """torchvision's name of a ResNet tensor as detectron2 spells it: `layer1.0.bn2.bias` is `res2.0.conv2.norm.bias`."""
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"bn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def _read(path: Path) -> tuple[dict[str, Tensor], bool]:
    caffe2 = False
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path, device="cpu")), False
        except Exception as error:
            raise UserError(f"not a safetensors file ({error})", where=str(path)) from error
    if path.suffix == ".pkl":
        content = load_arrays(path)
        if isinstance(content, Mapping) and "model" not in content:
            blobs = content.get("blobs", content)
            content = {"model": _without_momentum(blobs), "__author__": "Caffe2"}
        caffe2 = isinstance(content, Mapping) and content.get("__author__") == "Caffe2"
    else:
        content = load_tensors(path)
    if not isinstance(content, Mapping):
        raise UserError("expected a dictionary of tensors", where=str(path))
    values = content.get("model", content.get("state_dict", content))
    return {str(name): torch.as_tensor(value) for name, value in values.items() if _is_array(value)}, caffe2


def _without_momentum(blobs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in blobs.items() if not str(name).endswith("_momentum")}


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _align(backbone: nn.Module, values: dict[str, Tensor], caffe2: bool) -> dict[str, Tensor]:
    """detectron2's own matching of names by their endings, which R-50.pkl asks for."""
    from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

    wanted = {f"{_PREFIX}{name}": value for name, value in backbone.state_dict().items()}
    aligned = align_and_update_state_dicts(wanted, values, c2_conversion=caffe2)
    matched = {name.removeprefix(_PREFIX): value for name, value in aligned.items()}
    # A frozen normalisation of Caffe2 comes as weight and bias alone; its statistics stay those of the identity.
    for name, value in backbone.state_dict().items():
        if "running_" in name:
            matched.setdefault(name, value)
    return matched


def _expect_pixels(path: Path, met: str, wanted: str, layout: str) -> None:
    if met != wanted:
        raise UserError(
            f"the file has the layout of {layout}, whose pixels are {wanted}",
            where=f"backbone.pixels = {met} with {path}",
            remedy=f"Use --set backbone.pixels={wanted}",
        )


def _load(backbone: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        backbone.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(
            f"not a ResNet-50 ({' '.join(str(error).split())[:200]})",
            where=str(path),
            remedy="Use detectron2's R-50.pkl or a torchvision ResNet-50",
        ) from error
