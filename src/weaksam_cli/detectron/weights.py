"""ImageNet weights of a ResNet-50 from a user's file.

Three layouts occur: detectron2's `R-50.pkl` (MSRA, BGR), torchvision's ResNet-50 and detectron2's own names, the last
two as `.pth`/`.pt` or `.safetensors`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from weaksam_cli.errors import UserError
from weaksam_cli.models.checkpoints import Checkpoint, mismatches, read_checkpoint, shapes_of

_PREFIX: Final = "bottom_up."
_REMEDY: Final = "Use detectron2's R-50.pkl or a torchvision ResNet-50"


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
    checkpoint = read_checkpoint(path, remedy=_REMEDY)
    values = checkpoint.tensors
    if "layer1.0.conv1.weight" in values:
        _expect_pixels(path, pixels, "imagenet_rgb", "torchvision")
        values = {torchvision_key(name): value for name, value in values.items()}
    elif path.suffix == ".pkl":
        _expect_pixels(path, pixels, "msra_bgr", "detectron2's R-50.pkl")
        values = _align(backbone, checkpoint)
    # Files of torch before 0.4.1 do not count batches.
    shapes = shapes_of(backbone)
    wanted = {name: shape for name, shape in shapes.items() if "num_batches" not in name}
    unfit = mismatches(wanted, values, more_allowed=True)
    if unfit:
        raise UserError(f"does not fit ResNet-50: {'; '.join(unfit)}", where=str(path), remedy=_REMEDY)
    backbone.load_state_dict({name: value for name, value in values.items() if name in shapes}, strict=False)


def torchvision_key(name: str) -> str:
    """torchvision's name of a ResNet tensor as detectron2 spells it: `layer1.0.bn2.bias` is `res2.0.conv2.norm.bias`."""
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"bn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def _align(backbone: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """detectron2's own matching of names by their endings, which R-50.pkl asks for."""
    from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

    caffe2 = checkpoint.table != "model" or checkpoint.beside.get("__author__") == "Caffe2"
    found = {name: value for name, value in checkpoint.tensors.items() if not name.endswith("_momentum")}
    wanted = {f"{_PREFIX}{name}": value for name, value in backbone.state_dict().items()}
    aligned = align_and_update_state_dicts(wanted, found, c2_conversion=caffe2)
    matched = {name.removeprefix(_PREFIX): value for name, value in aligned.items()}
    # A frozen normalisation of Caffe2 comes as weight and bias alone; its statistics stay those of the identity.
    for name, value in backbone.state_dict().items():
        if "running_" in name:
            matched.setdefault(name, value)
    return matched


def _expect_pixels(path: Path, got: str, wanted: str, layout: str) -> None:
    if got != wanted:
        raise UserError(
            f"the file has the layout of {layout}, whose pixels are {wanted}",
            where=f"backbone.pixels = {got} with {path}",
            remedy=f"Use --set backbone.pixels={wanted}",
        )
