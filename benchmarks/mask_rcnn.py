"""Mask R-CNN on real photographs with masks: quality by the masks it learns from, and what an iteration costs.

    OMP_NUM_THREADS=1 python benchmarks/mask_rcnn.py path/to/voc12-inst-mini --pgt true --set roi_drop.enabled=false
    OMP_NUM_THREADS=1 python benchmarks/mask_rcnn.py path/to/voc12-inst-mini --pgt runs/masks/pgt/train.json
    OMP_NUM_THREADS=1 python benchmarks/mask_rcnn.py path/to/voc12-inst-mini --speed        # or --resolution

`--pgt true` writes the annotated objects of the training split as if `weaksam pgt --masks` had made them: the upper bound of
what weak labels can reach. A row: average precision of masks at IoU .25, .5, .7 and .75 by the usual rule of weakly
supervised segmentation (area under the curve) and by COCO's, COCO's AP of masks, COCO's AP and AP50 of boxes; on the images
of the other split. `--pgt` takes any file of `weaksam pgt --masks` for the training split.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from weaksam_cli.core.types import Detections, GroundTruth
from weaksam_cli.data.detections import annotations_bytes, read_detections, result_texts
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.data.source import read_source
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.eval import coco_ap, mask_ap
from weaksam_cli.eval.case import Case, load_ground_truth
from weaksam_cli.retrain.settings import InferenceSettings, TrainImages

RECIPES = ("faster-rcnn-lite0-fpn", "mask-rcnn-lite0-fpn")
STEPS = 10


def weaksam(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "weaksam_cli", *map(str, arguments)], check=True)


def labels_of(options: argparse.Namespace, split: str) -> Labels:
    return read_labels(RunDirectory(options.out).output("data", split), options.data / "JPEGImages")


def truth_of(options: argparse.Namespace, labels: Labels) -> dict[str, GroundTruth]:
    return load_ground_truth(options.out, read_source(options.out), labels, masks=True).objects


def write_true_masks(options: argparse.Namespace, target: Path) -> None:
    """The annotated objects as pseudo ground truth; those without a mask are left out."""
    labels = labels_of(options, options.train)
    found = {}
    for key, objects in truth_of(options, labels).items():
        drawn = objects.masks or ()
        chosen = np.asarray([index for index, mask in enumerate(drawn) if mask], np.int64)
        scores, masks = np.ones(len(chosen), np.float32), tuple(mask for mask in drawn if mask)
        found[key] = Detections(objects.boxes[chosen], objects.class_index[chosen], scores, masks)
    target.write_bytes(annotations_bytes(found, labels))


def detect(options: argparse.Namespace, labels: Labels, model: Path, target: Path) -> None:
    from weaksam_cli.retrain.detection import load_detector

    recipe = load_recipe("retrain", options.recipe, options.set).recipe
    look = load_detector(model, recipe.part(InferenceSettings).inference, labels.class_names, "cpu")
    texts = result_texts(labels)
    entries = [
        text for image in labels.file.images for text in texts(image.key, look(labels.read_image(image)))
    ]
    target.write_text(f"[{','.join(entries)}]")


def quality(options: argparse.Namespace) -> str:
    root, variant = options.out, options.variant
    pgt = root.with_name(f"{root.name}-true-masks.json") if options.pgt == "true" else Path(options.pgt)
    if options.pgt == "true":
        write_true_masks(options, pgt)
    sets = [item for text in options.set for item in ("--set", text)]
    where = ("--run-dir", root, "--dataset", root.name, "--recipe", options.recipe, "--variant", variant)
    given = ("--input", f"pgt={pgt}", "--split", options.train, "--seed", options.seed)
    weaksam("retrain", *where, *given, "--workers", 1, *sets)
    folder, labels = (
        RunDirectory(root, {"retrain": variant}).folder("retrain"),
        labels_of(options, options.test),
    )
    path = folder / f"{options.test}.json"
    detect(options, labels, folder / "model.safetensors", path)
    case = Case("retrain", variant, path, labels, truth_of(options, labels), "voc", {})
    metrics = [
        *mask_ap.evaluate(case, mask_ap.MaskApSettings()),
        *coco_ap.evaluate(case, coco_ap.CocoSettings()),
    ]
    values = {metric.name: 100 * (metric.value or 0.0) for metric in metrics}
    cells = [
        *(
            " / ".join(f"{values[f'mask AP{at} ({rule})']:.1f}" for at in (25, 50, 70, 75))
            for rule in ("voc", "coco")
        ),
        f"{values['mask AP (coco)']:.1f}",
        f"{values['COCO AP']:.1f} / {values['COCO AP50']:.1f}",
    ]
    return f"| {variant} | {' | '.join(cells)} |"


def speed(options: argparse.Namespace) -> str:
    """CPU seconds of an iteration of each recipe on true masks, in turn; and of an image in which 100 boxes are kept."""
    from weaksam_cli.engine.predictors import one_thread
    from weaksam_cli.retrain.detection import load_detector
    from weaksam_cli.retrain.detector import detectron_config, fit, stored_config, training_entries
    from weaksam_cli.training.checkpoint import model_bytes
    from weaksam_cli.training.loop import TrainingRun

    pgt = options.out.with_name(f"{options.out.name}-true-masks.json")
    write_true_masks(options, pgt)
    labels = labels_of(options, options.train)
    images, found = labels.by_key(), read_detections(pgt, labels, masks=True)
    entries = training_entries(labels, found, TrainImages())
    pixels = labels.read_image(labels.file.images[0])
    iterations: dict[str, list[float]] = {name: [] for name in RECIPES}
    detections: dict[str, list[float]] = {name: [] for name in RECIPES}
    for name in RECIPES * 2:
        short = (f"schedule.min_iterations={STEPS}", "schedule.epochs=0.001", "inference.score_threshold=0")
        loaded = load_recipe("retrain", name, short)
        settings = loaded.recipe.part(loaded.method.ModelSettings).resolved(len(entries))
        ticks: list[float] = []
        place, seen = options.out / "speed.safetensors", ticks.append
        run = TrainingRun(
            "cpu",
            0,
            place.with_suffix(".pt"),
            name,
            lambda *_: None,
            lambda *_, seen=seen: seen(time.process_time()),
            checkpoint_every=10**6,
        )
        with one_thread():
            cfg = detectron_config(settings, len(labels.class_names), "cpu")
            model = fit(settings, cfg, entries, lambda key: labels.read_image(images[key]), run)
            told = {"class_names": labels.class_names, "detectron2": stored_config(cfg)}
            place.write_bytes(model_bytes(model, told))
            inference = loaded.recipe.part(InferenceSettings).inference
            look = load_detector(place, inference, labels.class_names, "cpu")
            look(pixels)
            start = time.process_time()
            assert len(look(pixels)) == inference.detections
            detections[name].append(time.process_time() - start)
        iterations[name] += [after - before for before, after in itertools.pairwise(ticks)]
    return "\n".join(
        f"| {name} | {statistics.median(iterations[name]):.3f} | {min(detections[name]):.2f} |"
        for name in RECIPES
    )


def resolution(options: argparse.Namespace) -> str:
    """The best that masks of some side can reach: IoU of true masks with themselves, resized to it as a target and back."""
    import torch

    from weaksam_cli.core.masks import decode
    from weaksam_cli.detectron.compat import import_detectron2
    from weaksam_cli.retrain.detection import pasted

    import_detectron2()
    from detectron2.structures import BitMasks

    labels = labels_of(options, options.train)
    sizes = {image.key: (image.height, image.width) for image in labels.file.images}
    found: dict[int, list[float]] = {14: [], 28: [], 56: []}
    for key, objects in truth_of(options, labels).items():
        drawn = [index for index, mask in enumerate(objects.masks or ()) if mask]
        true = decode([(objects.masks or ())[index] or b"" for index in drawn], *sizes[key])
        boxes = torch.from_numpy(objects.boxes[drawn])
        for side, values in found.items():
            small = BitMasks(torch.from_numpy(true)).crop_and_resize(boxes, side).float()
            again = decode(pasted(small, boxes, *sizes[key]), *sizes[key])
            values += [
                float((one & two).sum() / (one | two).sum()) for one, two in zip(true, again, strict=True)
            ]
    return "\n".join(
        f"| {side} x {side} | {np.mean(values):.3f} | {np.mean(np.asarray(values) >= 0.75):.3f} |"
        for side, values in found.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/masks"))
    parser.add_argument("--pgt", default="true", help="`true`, or a file of weaksam pgt --masks")
    parser.add_argument("--recipe", default=RECIPES[1])
    parser.add_argument("--variant", default="true-masks")
    parser.add_argument("--set", action="append", default=[], help="see weaksam retrain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", default="train")
    parser.add_argument("--test", default="val")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--resolution", action="store_true")
    options = parser.parse_args()
    measure = speed if options.speed else resolution if options.resolution else quality
    if not (options.out / "labels/source.json").exists():
        weaksam("data", options.data, "--run-dir", options.out, "--dataset", options.out.name)
    sys.stdout.write(measure(options) + "\n")


if __name__ == "__main__":
    main()
