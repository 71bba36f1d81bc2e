"""What would make lite0's forward pass cheaper on a CPU: CPU seconds of one view of 480 and of two of 320, in turn.

    OMP_NUM_THREADS=1 python benchmarks/lite0_forward.py PHOTO.jpg [--rounds 7]

As the program has it; with batch normalisation folded into the convolutions; that as a frozen TorchScript graph; and by
OpenVINO where it is installed (it is no dependency). In the end, the largest difference of the last maps, which go to 6.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from weaksam_cli.models.lite import Lite, frozen_lite, preprocess, resize_to_short_side

Forward = Callable[[Tensor], Tensor]


class Last(nn.Module):
    """From views to the last map."""

    def __init__(self, backbone: Lite) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, views: Tensor) -> Tensor:
        return self.backbone.head(self.backbone.trunk(views))


def folded(module: nn.Module) -> nn.Module:
    """In place: each convolution takes the normalisation after it, of which the activation stays."""
    before = None
    for name, child in module.named_children():
        if isinstance(before, tuple) and isinstance(child, nn.BatchNorm2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, child.act)  # timm's have one
        else:
            folded(child)
        before = (name, child) if isinstance(child, nn.Conv2d) else None
    return module


def by_openvino(network: nn.Module, views: Tensor) -> Forward:
    import openvino  # type: ignore[import-not-found,unused-ignore]

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    made = openvino.Core().compile_model(
        openvino.convert_model(network, example_input=views), "CPU", settings
    )
    return lambda given: torch.from_numpy(made(given.numpy())[0])


def ways(views: Tensor) -> dict[str, Forward]:
    plain = Last(frozen_lite("lite0"))
    without = copy.deepcopy(plain)
    folded(without)
    found: dict[str, Forward] = {"as it is": plain, "folded": without}
    traced = torch.jit.trace(without, views, check_trace=False)
    found["folded, TorchScript"] = torch.jit.optimize_for_inference(torch.jit.freeze(traced.eval()))
    if find_spec("openvino"):
        found["OpenVINO"] = by_openvino(without, views)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photo", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    image = np.asarray(Image.open(options.photo).convert("RGB"))
    for side, count in ((480, 1), (320, 2)):
        views = preprocess(np.stack([resize_to_short_side(image, side)] * count))
        with torch.inference_mode():
            every = ways(views)
            seconds: dict[str, list[float]] = {name: [] for name in every}
            last: dict[str, Tensor] = {}
            for _ in range(options.rounds):
                for name, forward in every.items():
                    start = time.process_time()
                    last[name] = forward(views)
                    seconds[name].append(time.process_time() - start)
        for name, spent in seconds.items():
            ratio = np.median(seconds["as it is"]) / np.median(spent)
            apart = float((last[name] - last["as it is"]).abs().max())
            sys.stdout.write(
                f"{count} x {side}: {name:20s} {np.median(spent):.4f} s {ratio:5.2f} x  {apart:.1e}\n"
            )


if __name__ == "__main__":
    main()
