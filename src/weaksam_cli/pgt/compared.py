"""Top-1 boxes, adaptive boxes and pseudo instance labels of the same images: the rows of the paper's Figure 4."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from weaksam_cli.artifacts.receipt import read_receipt
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import has_masks
from weaksam_cli.data.labels import Labels
from weaksam_cli.pgt import adaptive, top1

TOP1, ADAPTIVE, MASKS, KEPT = "Top-1", "Adaptive", "Pseudo instance labels", "This run"
_DIFFICULT: Final = ("include", "exclude")


def selections(
    found: Mapping[str, Detections], kept: Mapping[str, Detections], labels: Labels, recipe: Mapping[str, Any]
) -> dict[str, dict[str, Detections]]:
    """What several selections make of the detections that pseudo labels were chosen from.

    Args:
        found: image key -> detections of WSOD on a training image, at least those of `kept`.
        kept: image key -> the pseudo labels of the run.
        labels: image-level labels.
        recipe: what `kept` was chosen with. Where that is another method than adaptive, the adaptive row has its defaults.

    Returns:
        Name of a row -> image key -> boxes. The last row is `kept`: after top-1 and adaptive boxes where it has masks, and
        after top-1 where it has not.
    """
    difficult = recipe.get("difficult")
    chosen = labels.counting(difficult if difficult in _DIFFICULT else None)
    known = {name: value for name, value in recipe.items() if name in adaptive.Recipe.model_fields}
    relative = adaptive.Recipe.model_validate(known if recipe.get("method") == "adaptive" else {})
    classes = {image.key: chosen.class_indexes(image) for image in chosen.file.images if image.key in kept}
    best = {key: top1.select(found[key], own, top1.Recipe()) for key, own in classes.items()}
    if not has_masks(kept):
        return {TOP1: best, KEPT: dict(kept)}
    more = {key: adaptive.select(found[key], own, relative) for key, own in classes.items()}
    return {TOP1: best, ADAPTIVE: more, MASKS: dict(kept)}


def detections_behind(pgt: Path, root: Path) -> Path | None:
    """The detections that pseudo labels were chosen from, also where boxes and masks lie between them.

    Args:
        pgt: the pseudo labels.
        root: folder of their run.

    Returns:
        None where no receipt says it, or the file is gone.
    """
    waiting, seen = [pgt], set[Path]()
    while waiting:
        path = waiting.pop()
        record = None if path in seen else read_receipt(path)
        seen.add(path)
        for name, item in record.identity.inputs.items() if record else ():
            if name == "wsod":
                return root / item.path if (root / item.path).is_file() else None
            if name.startswith("pgt"):
                waiting.append(root / item.path)
    return None
