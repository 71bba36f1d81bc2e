"""Does the choice between WSOD, retrained detector and both, made without boxes, agree with AP50 on true boxes?

    python benchmarks/judge.py runs/gate/gate-200-0 runs/gate/gate-demo-0 ...

For each run, and each variant of its `retrain`, a row: AP50 on test of the three, their ranking and agreement (see
`weaksam_cli/retrain/choice.py`), the quality of the retrained one and of both over that of WSOD, what is handed over, and
what that gains. Short trainings make bad detectors on purpose: `weaksam retrain --variant short --set
schedule.min_iterations=60`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import read_detections
from weaksam_cli.data.fused_maps import best_maps
from weaksam_cli.data.ground_truth import read_ground_truth
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.data.source import read_source
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.eval.voc_ap import VOC_PROTOCOLS, voc_ap
from weaksam_cli.retrain.both import Fusion, fuse
from weaksam_cli.retrain.choice import ChoiceSettings, Use, choose

SPLIT = "test"


def ap50(run: Path, labels: Labels, found: Mapping[str, Detections]) -> float:
    truth = read_ground_truth(run, read_source(run), labels)
    assert truth is not None, f"{run}: no boxes to compare with"
    objects = {key: image.objects for key, image in truth.images.items()}
    return 100 * voc_ap(objects, found, labels.class_names, VOC_PROTOCOLS["weaksam"]).mean


def rows(root: Path) -> list[str]:
    run = RunDirectory(root)
    labels = read_labels(run.output("data", SPLIT), Path())
    maps = best_maps(run.output("cam", SPLIT), labels)
    wsod = read_detections(run.output("wsod", SPLIT), labels)
    before, written = ap50(root, labels, wsod), []
    for variant in run.variants_of("retrain"):
        path = run.with_variant("retrain", variant).output("retrain", SPLIT)
        if not path.is_file():
            continue
        retrained = read_detections(path, labels)
        both = {key: fuse(wsod[key], retrained[key], Fusion()) for key in wsod}
        found: dict[Use, Mapping[str, Detections]] = {"wsod": wsod, "retrain": retrained, "both": both}
        choice = choose(found, labels.known_classes(), maps, ChoiceSettings(), SPLIT)
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
        written.append(f"| {' | '.join(cells)} |")
    return written


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        for line in rows(Path(argument)):
            sys.stdout.write(line + "\n")
