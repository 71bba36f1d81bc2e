"""All that only a CUDA machine can show, in ten minutes, as one page of Markdown: what `make gpu-check` runs.

    python benchmarks/gpu_check.py --out gpu-check.md            # or: make gpu-check
    python benchmarks/gpu_check.py --device cpu --tiny           # that it runs at all; its figures mean nothing

Each part is a benchmark of this folder, or the tests that are marked `gpu`. Weights are random and images are made: the time
does not depend on them. A part that fails is named and the others go on; the exit code tells.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).parent
IMAGES = 8


def make_images(folder: Path, height: int, width: int) -> list[str]:
    paths = []
    for number in range(IMAGES):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 255, (height // 25, width // 25, 3), dtype=np.uint8)
        paths.append(str(folder / f"{number}.jpg"))
        Image.fromarray(coarse).resize((width, height)).save(paths[-1], quality=90)
    return paths


def parts(images: list[str], device: str) -> dict[str, list[str]]:
    """Title -> arguments of Python."""

    def script(name: str, *arguments: str) -> list[str]:
        return [str(HERE / name), *arguments, "--device", device]

    sam = ["--images", *images[:4], "--precision", "auto"]
    return {
        "Proposals, SAM ViT-B beside SamAutomaticMaskGenerator": script(
            "propose.py", *sam, "--model", "vit_b"
        ),
        "Proposals, SAM ViT-H beside SamAutomaticMaskGenerator": script(
            "propose.py", *sam, "--model", "vit_h"
        ),
        "The same in float32": script("propose.py", "--images", *images[:2], "--model", "vit_b"),
        "Class maps of WeakTr and MCTformer beside the bare network": script("cam.py", "--images", *images),
        "A step and a detection of MIST on VGG16": script("wsod_vgg.py", "--images", *images[:2]),
        "Trainings of retrain, one process": script("trainings.py"),
        "Query drop": [str(HERE / "query_drop.py"), "--device", device],
        "Tests that need a GPU": ["-m", "pytest", "-q", "-m", "gpu", str(HERE.parent / "tests")],
    }


def tiny_parts(_: list[str], device: str) -> dict[str, list[str]]:
    """One of them, in seconds on a CPU."""
    small = ("--set", "train_images.short_sides=[64]", "--set", "train_images.max_size=96")
    training = ("--recipes", "faster-rcnn-lite0-fpn", "--steps", "1", "--device", device)
    return {"Trainings of retrain": [str(HERE / "trainings.py"), *training, *small]}


def run(title: str, arguments: list[str]) -> tuple[str, bool]:
    """A section of the page, and whether the part ended well."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    said = done.stdout.strip() or "(nothing)"
    table = said if said.startswith("|") else f"```\n{said}\n```"
    ended = (
        ""
        if done.returncode == 0
        else f"\n\n**failed**, exit code {done.returncode}: `{last_line(done.stderr)}`"
    )
    words = " ".join(Path(word).name if word.startswith("/") else word for word in arguments)
    return f"## {title}\n\n`python {words}` ({seconds:.0f} s)\n\n{table}{ended}\n", done.returncode == 0


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["(nothing)"])[-1]


def machine(device: str) -> str:
    name = torch.cuda.get_device_name() if device != "cpu" else "CPU"
    return f"# GPU check\n\n{name}, torch {torch.__version__}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, help="also write the page there")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        sys.exit("error: there is no CUDA device on this machine (--device cpu --tiny: that it runs at all)")
    page, well = [machine(options.device)], True
    with TemporaryDirectory() as folder:
        images = make_images(Path(folder), *((75, 100) if options.tiny else (375, 500)))
        for title, arguments in (tiny_parts if options.tiny else parts)(images, options.device).items():
            section, ended_well = run(title, arguments)
            page.append(section)
            well &= ended_well
            sys.stdout.write(section + "\n")
            sys.stdout.flush()
    if options.out:
        options.out.write_text("\n".join(page))
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
