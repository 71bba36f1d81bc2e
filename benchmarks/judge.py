"""Does the choice between WSOD, retrained detector and both, made without boxes, agree with AP50 on true boxes?

    python benchmarks/judge.py runs/gate/gate-200-0 runs/gate/gate-demo-0 ...
    python benchmarks/judge.py --views 60 runs/gate/gate-200-0

For each run, and each variant of its `retrain`, a row: AP50 on test of the three, their ranking and agreement (see
`weaksam_cli/retrain/choice.py`), the quality of the retrained one and of both over that of WSOD, what is handed over, and
what that gains. Short trainings make bad detectors on purpose: `weaksam retrain --variant short --set
schedule.min_iterations=60`.

`--views N` adds two signs, on N of the images: the mean IoU of the best box of each class that an image shows and the best
one in its mirror image, and when the network sees it at 0.8 of the size. A detector of WSOD makes the maps and proposals of
a mirror image anew; at the other size it keeps its proposals.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.cli.options import CommonOptions, build_context
from weaksam_cli.console import Console, Mode
from weaksam_cli.core.boxes import flip_horizontal, iou
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import read_detections
from weaksam_cli.data.fused_maps import best_maps
from weaksam_cli.data.ground_truth import read_ground_truth
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.data.source import image_root, read_source
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.detectors import ResultsPredictor
from weaksam_cli.engine.recipes import recorded_recipe
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.engine.sharded import ImageByImage, PerImage
from weaksam_cli.engine.steps import Step, computed
from weaksam_cli.eval.voc_ap import VOC_PROTOCOLS, voc_ap
from weaksam_cli.predict.images import ImageDetector
from weaksam_cli.predict.threshold import Threshold
from weaksam_cli.predict.trained import find_detector
from weaksam_cli.retrain.both import Fusion, fuse
from weaksam_cli.retrain.choice import ChoiceSettings, Use, choose
from weaksam_cli.retrain.detection import load_detector
from weaksam_cli.retrain.settings import InferenceSettings
from weaksam_cli.wsod.lite0 import DetectionPredictor, RegionPredictor

SPLIT, SMALLER = "test", 0.8
View = Callable[[str], Detections]
"""From the key of an image to what is found in a view of it, in pixels of the image."""


def ap50(run: Path, labels: Labels, found: Mapping[str, Detections]) -> float:
    truth = read_ground_truth(run, read_source(run), labels)
    assert truth is not None, f"{run}: no boxes to compare with"
    objects = {key: image.objects for key, image in truth.images.items()}
    return 100 * voc_ap(objects, found, labels.class_names, VOC_PROTOCOLS["weaksam"]).mean


def mirrored(detect: Callable[[NDArray[np.uint8]], Detections], labels: Labels) -> View:
    """What a detector finds in mirror images."""
    images = labels.by_key()

    def view(key: str) -> Detections:
        pixels = labels.read_image(images[key])
        found = detect(np.ascontiguousarray(pixels[:, ::-1]))
        return replace(found, boxes=flip_horizontal(found.boxes, pixels.shape[1]))

    return view


def wsod_views(root: Path, labels: Labels) -> tuple[View, View]:
    """A detector of WSOD on lite0 on mirror images, and on features of smaller images."""
    receipt = read_receipt(RunDirectory(root).output("wsod", SPLIT))
    assert receipt is not None, f"{root}: there are no detections of WSOD"
    options = CommonOptions(
        run_dir=root, dataset=receipt.identity.dataset, seed=receipt.identity.seed, device="cpu"
    )
    context = replace(build_context(options, None, Console(Mode.QUIET)), allow_stale=True)
    detector = ImageDetector(find_detector(root, "wsod"), Threshold(score=0, share=0), context)
    index = {name: number for number, name in enumerate(labels.class_names)}

    def detect(pixels: NDArray[np.uint8]) -> Detections:
        found = detector(pixels)
        return Detections(
            found.boxes, np.array([index[name] for name in found.classes], np.int32), found.scores
        )

    steps = [step for step in recorded_recipe(receipt).steps(context, SPLIT) if step.split == SPLIT]
    work, last = (work_of(step, context) for step in steps[-2:])
    assert isinstance(work.predictor, RegionPredictor) and isinstance(last.predictor, ResultsPredictor)
    settings = work.predictor.settings
    side = round(SMALLER * settings.dense.short_side)
    settings = settings.model_copy(update={"dense": settings.dense.model_copy(update={"short_side": side})})
    predictor = replace(work.predictor, settings=settings)
    run = ImageByImage(lambda _: replace(work, predictor=predictor))
    heads = last.predictor.detector
    assert isinstance(heads, DetectionPredictor)
    smaller = replace(heads, regions=computed(replace(steps[-2], run=run), context))
    return mirrored(detect, labels), smaller.open()


def work_of(step: Step, context: Context) -> PerImage:
    assert isinstance(step.run, ImageByImage)
    return step.run.work(context)


def retrained_views(run: RunDirectory, labels: Labels) -> tuple[View, View]:
    """A retrained detector on mirror images, and on smaller ones."""
    receipt = read_receipt(run.output("retrain", SPLIT))
    assert receipt is not None, f"{run.root}: there are no detections of a retrained detector"
    inference = InferenceSettings.model_validate(receipt.identity.recipe).inference
    less = inference.model_copy(update={"short_side": round(SMALLER * inference.short_side)})
    model, images = run.folder("retrain") / "model.safetensors", labels.by_key()
    plain, small = (load_detector(model, item, labels.class_names, "cpu") for item in (inference, less))
    return mirrored(plain, labels), lambda key: small(labels.read_image(images[key]))


def steadiness(
    found: Mapping[str, Detections], view: Mapping[str, Detections], truth: Mapping[str, NDArray[np.bool_]]
) -> float:
    """Mean IoU of the best boxes in an image and in a view of it, of each class that it shows; 0 where one has none."""
    values = []
    for key, other in view.items():
        for index in np.flatnonzero(truth[key]):
            best = [item.take(item.class_index == index) for item in (found[key], other)]
            best = [item.take(np.argsort(-item.scores, kind="stable")[:1]) for item in best]
            values.append(float(iou(best[0].boxes, best[1].boxes)[0, 0]) if all(map(len, best)) else 0.0)
    return float(np.mean(values))


def rows(root: Path, views: int) -> list[str]:
    run = RunDirectory(root)
    labels = read_labels(run.output("data", SPLIT), image_root(root, read_source(root).split(SPLIT, root)))
    truth = labels.known_classes()
    learnt = len(read_labels(run.output("data", "trainval"), Path()).known_classes())
    keys = [key for key in truth if truth[key].any()][:views]
    maps = best_maps(run.output("cam", SPLIT), labels)
    wsod = read_detections(run.output("wsod", SPLIT), labels)
    before, written = ap50(root, labels, wsod), []
    old = [{key: view(key) for key in keys} for view in wsod_views(root, labels)] if keys else []
    for variant in run.variants_of("retrain"):
        own = run.with_variant("retrain", variant)
        path = own.output("retrain", SPLIT)
        if not path.is_file():
            continue
        retrained = read_detections(path, labels)
        both = {key: fuse(wsod[key], retrained[key], Fusion()) for key in wsod}
        found: dict[Use, Mapping[str, Detections]] = {"wsod": wsod, "retrain": retrained, "both": both}
        choice = choose(found, truth, maps, ChoiceSettings(), SPLIT, training_images=learnt)
        assert choice.both is not None, "it was given"
        figures = {"wsod": before} | {use: ap50(root, labels, found[use]) for use in ("retrain", "both")}
        three = (choice.wsod, choice.retrain, choice.both)
        cells = [
            root.name,
            variant or "recipe",
            " / ".join(f"{value:.1f}" for value in figures.values()),
            " / ".join(f"{100 * item.ranking:.1f}" for item in three),
            " / ".join(f"{item.agreement:.3f}" for item in three),
            " / ".join(f"{item.product / choice.wsod.product:.2f}" for item in three[1:]),
            choice.use,
            f"{figures[choice.use] - before:+.1f}",
        ]
        if keys:
            new = [{key: view(key) for key in keys} for view in retrained_views(own, labels)]
            fused = [
                {key: fuse(first[key], second[key], Fusion()) for key in keys}
                for first, second in zip(old, new, strict=True)
            ]
            each: Sequence[tuple[Mapping[str, Detections], list[dict[str, Detections]]]]
            each = [(wsod, old), (retrained, new), (both, fused)]
            cells += [
                " / ".join(f"{steadiness(plain, seen[place], truth):.3f}" for plain, seen in each)
                for place in range(2)
            ]
        written.append(f"| {' | '.join(cells)} |")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument(
        "--views", type=int, default=0, metavar="N", help="images that are seen in other ways, too"
    )
    options = parser.parse_args()
    for run in options.runs:
        for line in rows(run, options.views):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
