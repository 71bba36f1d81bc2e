"""Class activation maps of a class-token transformer beside its bare forward over the same views, in the same run.

    OMP_NUM_THREADS=1 python benchmarks/cam.py --images DATA/voc07-mini/JPEGImages/*.jpg --limit 10 --long-side 500

DeiT-S with random weights: the time does not depend on them. "Whole" is everything after decoding: resizing, the forwards,
all kinds of maps of two classes, packing the rows. "Bare" is the trunk with torch's own attention, which gives tokens and
nothing else; its views come one at a time or in pairs, and the faster way counts. On a CPU, processor seconds of one thread
are compared, which other work on the machine moves less than wall seconds; on a GPU, wall seconds. Of two repeats the faster
counts.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from weaksam_cli.cam.class_tokens.maps import ClueNetwork, Views, class_maps, make_views
from weaksam_cli.cam.class_tokens.method import MapSettings
from weaksam_cli.cam.mctformer import MCTformerMaps
from weaksam_cli.cam.weaktr import WeakTrMaps
from weaksam_cli.data.images import read_image
from weaksam_cli.models.vit.checkpoint import VitShape
from weaksam_cli.models.vit.mctformer import MCTformer
from weaksam_cli.models.vit.weaktr import FusionShape, WeakTr

METHODS = ("weaktr-v3", "weaktr-v1-max", "weaktr-v1-avg", "weaktr-none", "mctformer-v1", "mctformer-v2")


def random_network(method: str, classes: int, device: str, precision: str) -> ClueNetwork:
    torch.manual_seed(0)
    shape = VitShape(classes)
    name, variant, *rest = method.split("-")
    settings: MapSettings
    network: WeakTr | MCTformer
    if name == "weaktr":
        pool = "avg" if rest == ["avg"] else "max"
        settings = WeakTrMaps.model_validate({"precision": precision, "pool": pool})
        fusion = None
        if variant in ("v1", "v3"):
            fusion = FusionShape.published("v1" if variant == "v1" else "v3", shape, 8)
        network = WeakTr(shape, fusion, pool=settings.pool)
    else:
        kind = "attention" if variant == "v1" else "fused"
        settings = MCTformerMaps.model_validate(
            {"precision": precision, "version": variant, "attention_type": kind, "scales": (1.0, 0.8, 1.2)}
        )
        network = MCTformer(shape, settings.version, attention_type=settings.attention_type)
    network.requires_grad_(False).eval().to(device)
    return ClueNetwork(network, tuple(range(classes)), settings, device)


@torch.inference_mode()
def bare(clues: ClueNetwork, views: Views, paired: bool) -> None:
    for pixels in views.pixels:
        plain = torch.from_numpy(pixels)[None].to(clues.device)
        both = [plain, plain.flip(-1)]
        for batch in [torch.cat(both)] if paired else both:
            half = clues.settings.precision == "auto" and clues.device != "cpu"
            with torch.autocast("cuda", torch.float16, enabled=half):
                clues.network.encode(batch)


def seconds_of(work: Callable[[], object], device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def measure(clues: ClueNetwork, image: NDArray[np.uint8], given: list[int]) -> dict[str, float]:
    settings, patch = clues.settings, clues.network.shape.patch

    def views() -> Views:
        return make_views(image, settings.scales, max_side=settings.max_side, patch=patch)

    ready = views()
    ways: dict[str, Callable[[], object]] = {
        "bare, one at a time": lambda: bare(clues, ready, False),
        "whole": lambda: class_maps(clues, views(), given).to_rows(scaled=True),
        "bare, in pairs": lambda: bare(clues, ready, True),
    }
    repeats = [{name: seconds_of(work, clues.device) for name, work in ways.items()} for _ in range(2)]
    return {name: min(repeat[name] for repeat in repeats) for name in ways}


def report(method: str, found: list[dict[str, float]]) -> list[str]:
    best = [min(item["bare, one at a time"], item["bare, in pairs"]) for item in found]
    ratios = [item["whole"] / least for item, least in zip(found, best, strict=True)]
    names = ("bare, one at a time", "bare, in pairs", "whole")
    means = {name: statistics.mean(item[name] for item in found) for name in names}
    times = "; ".join(f"{name} {seconds:.3f} s" for name, seconds in means.items())
    return [
        f"{method}: {times} an image, {1 / means['whole']:.2f} images a second",
        f"  whole / faster bare: {sum(item['whole'] for item in found) / sum(best):.2f}, median of the images "
        f"{statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}",
    ]


def prepared(path: Path, long_side: int | None) -> NDArray[np.uint8]:
    image = read_image(path)
    if long_side is None:
        return image
    height, width = image.shape[:2]
    factor = long_side / max(height, width)
    size = round(width * factor), round(height * factor)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--long-side", type=int, help="size of the images; VOC's is 500")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--classes", type=int, default=20, help="class tokens")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "auto"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    all_images = [prepared(path, options.long_side) for path in options.images[: options.limit]]
    for method in options.methods:
        clues = random_network(method, options.classes, options.device, options.precision)
        measure(clues, all_images[0], [0, 1])
        found = [measure(clues, image, [0, 1]) for image in all_images]
        sys.stdout.write("\n".join(report(method, found)) + "\n")
        sys.stdout.flush()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sys.stdout.write(f"largest resident size {peak:.2f} GB\n")


if __name__ == "__main__":
    main()
