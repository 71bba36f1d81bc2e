"""What masks of pseudo boxes cost: `pgt --masks` beside encoding an image and one batch of prompts alone.

    OMP_NUM_THREADS=1 python benchmarks/pgt_masks.py RUN [--images 20]

RUN has been through `weaksam pgt --masks`. Both sides look at the same images in turn, in one process; CPU seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.data.detections import read_detections
from weaksam_cli.data.labels import Split, read_labels
from weaksam_cli.data.source import image_root, read_source
from weaksam_cli.engine.predictors import one_thread
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.pgt.masks import MaskPredictor
from weaksam_cli.propose.segmenters import ChosenSegmenter


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=20)
    options = parser.parse_args()
    receipt = read_receipt(options.run / "pgt/masks" / f"{options.split}.json")
    assert receipt is not None, "run `weaksam pgt --masks` first"
    settings, made_from = receipt.identity.recipe, receipt.identity.inputs
    loaded = load_recipe("propose", settings["segmenter"]["method"].replace("_", "-"))
    inputs = {"weights": options.run / made_from["weights"].path} if "weights" in made_from else {}
    segmenter = ChosenSegmenter(loaded.name, loaded.method.__name__, loaded.recipe, inputs)
    images = Split(
        options.run / "labels" / f"{options.split}.json",
        image_root(options.run, read_source(options.run).splits[options.split]),
    )
    boxes = options.run / "pgt/boxes" / f"{options.split}.json"
    labels = read_labels(images.labels, images.image_root)
    found, by_key = read_detections(boxes, labels), labels.by_key()
    keys = [key for key in labels.keys if len(found[key])][: options.images]
    with one_thread():
        whole, bare = MaskPredictor(images, boxes, segmenter, "single", "cpu").open(), segmenter.open("cpu")
        spent = [0.0, 0.0]
        for key in keys:
            start = time.process_time()
            whole(key)
            middle = time.process_time()
            bare.set_image(labels.read_image(by_key[key]))
            bare.prompt_boxes(found[key].boxes, masks=True, multimask=False)
            spent[0] += middle - start
            spent[1] += time.process_time() - middle
    ours, alone = (value / len(keys) for value in spent)
    count = sum(len(found[key]) for key in keys)
    sys.stdout.write(
        f"{loaded.name}, {len(keys)} images, {count} boxes: pgt --masks {ours:.2f} s an image, the segmenter alone "
        f"{alone:.2f}: {ours / alone:.2f} x\n"
    )


if __name__ == "__main__":
    main()
