"""Does the choice between WSOD and retrained detector, made without boxes, agree with AP50 on true boxes?

    python benchmarks/judge.py runs/gate/gate-200-0 runs/gate/gate-demo-0 ...

For each run, and each variant of its `retrain`, a row: AP50 on test of both, ranking and agreement of both (see
`weaksam_cli/retrain/choice.py`), the quality of the retrained one over that of the other, and which is handed over. Short
trainings make bad detectors on purpose: `weaksam retrain --variant short --set schedule.min_iterations=60`.
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
        found: dict[Use, Mapping[str, Detections]] = {"wsod": wsod, "retrain": read_detections(path, labels)}
        choice = choose(found, labels.known_classes(), maps, ChoiceSettings(), SPLIT)
        after, one, other = ap50(root, labels, found["retrain"]), choice.wsod, choice.retrain
        cells = [
            root.name, variant or "recipe", f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}",
            f"{100 * one.ranking:.1f} / {100 * other.ranking:.1f}", f"{one.agreement:.3f} / {other.agreement:.3f}",
            f"{other.product / one.product:.2f}", choice.use,
        ]  # fmt: skip
        written.append(f"| {' | '.join(cells)} |")
    return written


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        for line in rows(Path(argument)):
            sys.stdout.write(line + "\n")
