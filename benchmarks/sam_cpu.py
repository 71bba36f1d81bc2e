"""Where SAM's time goes on a CPU, and whether another engine encodes an image faster with equal boxes.

    python -m benchmarks.sam_cpu PHOTO.jpg --parts          # about two minutes of the CPU
    python -m benchmarks.sam_cpu PHOTO.jpg [--threads 2]    # about five; pip install onnx onnxruntime openvino

The first shows the parts of `propose --recipe sam-vit-b` over the grid and 60 peaks, and the operations of one encoding. The
second compares image encoders in one process, in turn: seconds, the largest difference of the features from ours, and how
many boxes of 16 grid points and 30 peaks are the very same. Weights are random (see `propose.py`). Other engines are given
the published network (`package`) and ours, its attention in blocks.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from benchmarks.propose import inclusive_of, peaks, random_sam
from numpy.typing import NDArray
from torch import Tensor, nn

from weaksam_cli.artifacts.proposals import SOURCES
from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.data.images import read_image
from weaksam_cli.propose import torch_segmenter
from weaksam_cli.propose.mask_logits import measure_masks
from weaksam_cli.propose.prompting import PromptingSettings, assemble
from weaksam_cli.propose.sam import encoder as own
from weaksam_cli.propose.sam.segmenter import SamSegmenter

Encoder = Callable[[Tensor], Tensor]


@contextmanager
def counted(seconds: defaultdict[str, float], name: str) -> Iterator[None]:
    """Adds the CPU seconds of what is inside."""
    start = time.process_time()
    yield
    seconds[name] += time.process_time() - start


class Parts(SamSegmenter):
    """A segmenter that says how long its parts take."""

    seconds: defaultdict[str, float]

    def _encode(self, image: NDArray[np.uint8]) -> Any:
        with counted(self.seconds, "set_image (encoder)"):
            return super()._encode(image)

    def _decode(self, masks: range, **prompts: Any) -> tuple[Tensor, Tensor]:
        with counted(self.seconds, "decoder"):
            return super()._decode(masks, **prompts)


def profile(sam: Any, image: NDArray[np.uint8]) -> list[str]:
    """Seconds of the parts, and shares of an encoding's operations."""
    segmenter, seconds = Parts(sam), defaultdict[str, float](float)
    segmenter.seconds = seconds

    def measured(*arguments: Any) -> Any:
        with counted(seconds, "measuring masks"):
            return measure_masks(*arguments)

    with counted(seconds, "all"), patch.object(torch_segmenter, "measure_masks", measured):
        assemble(segmenter, PromptingSettings(cross_nms=1.0), image, peaks(image, 60, 2))
    whole = seconds.pop("all")
    seconds["the rest"] = whole - sum(seconds.values())
    lines = [f"  {name:26s} {value:8.2f} {100 * value / whole:5.1f} %" for name, value in seconds.items()]
    with torch.profiler.profile() as found, torch.inference_mode():
        segmenter.set_image(image)
    operations = sorted(found.key_averages(), key=lambda item: -item.self_cpu_time_total)
    total = sum(item.self_cpu_time_total for item in operations)
    shares = (f"{item.key} {100 * item.self_cpu_time_total / total:.0f} %" for item in operations[:8])
    return ["CPU seconds of the grid of 32 x 32 and 60 peaks", *lines, f"  encoder: {', '.join(shares)}"]


class Ours(nn.Module):
    """Our encoder as a module, with one of the ways to attend."""

    def __init__(self, encoder: nn.Module, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.encoder, self.attend = encoder, attend

    def forward(self, pixels: Tensor) -> Tensor:
        with patch.object(own, "chunked_attention", self.attend):
            return own.encode(self.encoder, pixels)


def attention_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, bias: tuple[Tensor, Tensor] | None
) -> Tensor:
    """As `chunked_attention`, without assignments, which no other engine does well; windows are one block."""
    count, rows = query.shape[2], max(1, own.SCORES_AT_ONCE // query.shape[2] // query.shape[1])
    if count <= rows * query.shape[1]:
        return own.fused_attention(query, key, value, bias)
    found = []
    for row in range(0, count, rows):
        some = slice(row, row + rows)
        parts = None if bias is None else (bias[0][:, :, some], bias[1][:, :, some])
        found.append(own.fused_attention(query[:, :, some], key, value, parts))
    return torch.cat(found, dim=2)


def encoders(sam: Any, pixels: Tensor, folder: Path, threads: int) -> dict[str, Callable[[], Encoder]]:
    """Name -> what makes an encoder: ours, what torch offers, and other engines in float32 where they are installed."""
    other = {"ONNX Runtime": ("onnxruntime", onnx_runtime), "OpenVINO": ("openvino", openvino)}
    modules = {"package": sam.image_encoder, "ours": Ours(sam.image_encoder, attention_in_blocks)}
    found: dict[str, Callable[[], Encoder]] = {
        "ours": lambda: partial(own.encode, sam.image_encoder),
        "package": lambda: sam.image_encoder,
        "ours, channels_last": channels_last,
        "ours, frozen by torch.jit": lambda: frozen(sam, pixels),
        "ours, bfloat16": half,
    }
    for network, module in modules.items():
        for name, (package, load) in other.items():
            if find_spec("onnx") and find_spec(package):
                file = folder / f"{network}.onnx"
                found[f"{network}, {name}"] = partial(
                    lambda f, m, o: o(exported(f, m, pixels), threads), file, module, load
                )
    return found


def channels_last() -> Encoder:
    encoder = random_sam("vit_b", "cpu").image_encoder.to(memory_format=torch.channels_last)
    return lambda pixels: own.encode(encoder, pixels.to(memory_format=torch.channels_last))


def half() -> Encoder:
    encoder = random_sam("vit_b", "cpu").image_encoder.to(torch.bfloat16)
    return lambda pixels: own.encode(encoder, pixels).float()


def frozen(sam: Any, pixels: Tensor) -> Encoder:
    """Fused for oneDNN."""
    traced = torch.jit.trace(Ours(sam.image_encoder, own.chunked_attention), pixels, check_trace=False)
    made: Encoder = torch.jit.optimize_for_inference(torch.jit.freeze(traced.eval()))
    return made


def exported(file: Path, module: nn.Module, pixels: Tensor) -> Path:
    """The ONNX file of a network."""
    if not file.exists():
        torch.onnx.export(module.eval(), (pixels,), file, dynamo=False, opset_version=17)
    return file


def onnx_runtime(path: Path, threads: int) -> Encoder:
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: torch.from_numpy(session.run(None, {name: pixels.numpy()})[0])


def openvino(path: Path, threads: int) -> Encoder:
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = import_module("openvino").compile_model(path, "CPU", settings)
    return lambda pixels: torch.from_numpy(model(pixels.numpy())[0].copy())


def boxes_with(sam: Any, features: Tensor, image: NDArray[np.uint8]) -> FloatArray:
    """Boxes of the whole pipeline, in order."""
    segmenter = SamSegmenter(sam)
    segmenter._encoder = lambda *_: features
    settings = PromptingSettings(points_per_side=4, cross_nms=1.0)
    return inclusive_of(assemble(segmenter, settings, image, peaks(image, 30, 2)), SOURCES)


def same(ours: FloatArray, theirs: FloatArray) -> int:
    mine = {tuple(row) for row in ours.tolist()}
    return sum(tuple(row) in mine for row in theirs.tolist())


@torch.inference_mode()
def compare(
    sam: Any, image: NDArray[np.uint8], pixels: Tensor, wanted: dict[str, Callable[[], Encoder]], rounds: int
) -> list[str]:
    """A row for each encoder."""
    ready = {name: make() for name, make in wanted.items()}
    features = {name: encode(pixels) for name, encode in ready.items()}
    cpu, wall = (dict.fromkeys(ready, np.inf) for _ in range(2))
    for _ in range(rounds):
        for name, encode in ready.items():
            starts = time.process_time(), time.perf_counter()
            encode(pixels)
            cpu[name] = min(cpu[name], time.process_time() - starts[0])
            wall[name] = min(wall[name], time.perf_counter() - starts[1])
    reference, rows = boxes_with(sam, features["ours"], image), []
    for name, found in features.items():
        boxes = same(reference, boxes_with(sam, found, image))
        difference = float((found - features["ours"]).abs().max())
        cells = [f"{cpu[name]:.2f}", f"{wall[name]:.2f}", f"{cpu['ours'] / cpu[name]:.2f}"]
        rows.append(f"| {' | '.join([name, *cells, f'{difference:.1g}', f'{boxes} of {len(reference)}'])} |")
    return rows


HEAD = """
| encoder | CPU s | wall s | times as fast | largest difference | equal boxes |
| --- | ---: | ---: | ---: | ---: | ---: |"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--rounds", type=int, default=2, help="of which the fastest counts, after one that does not"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="encoders with one of the words in their name"
    )
    parser.add_argument("--parts", action="store_true", help="where the time of the whole goes, instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # of tracing, which torch calls deprecated
    sam, image = random_sam("vit_b", "cpu").requires_grad_(False), read_image(options.image)
    if options.parts:
        sys.stdout.write("\n".join(profile(sam, image)) + "\n")
        return
    resized = SamSegmenter(sam)._transform.apply_image(image)
    pixels = sam.preprocess(torch.as_tensor(resized).permute(2, 0, 1).contiguous()[None])
    with TemporaryDirectory() as folder:
        made = encoders(sam, pixels, Path(folder), options.threads)
        words = options.only or [""]
        wanted = {
            name: make for name, make in made.items() if name == "ours" or any(word in name for word in words)
        }
        sys.stdout.write("\n".join([HEAD, *compare(sam, image, pixels, wanted, options.rounds)]) + "\n")


if __name__ == "__main__":
    main()
