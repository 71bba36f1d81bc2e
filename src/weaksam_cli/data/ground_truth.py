"""The door to ground truth, for `eval` and `report` alone: no other stage may import this module."""

from __future__ import annotations

from pathlib import Path

from weaksam_cli.data.dataset import GroundTruthSplit
from weaksam_cli.data.source import SOURCE_FILE, Source
from weaksam_cli.engine.methods import load_method


def read_ground_truth(
    run_root: Path, source: Source, split: str, *, masks: bool = False
) -> GroundTruthSplit | None:
    """Annotated objects of one split, difficult ones flagged; with `masks`, their compressed RLE too.

    None for a layout that has labels alone, as folders and CSV tables.

    Raises:
        UserError: as the reader of the layout.
    """
    layout = load_method("data", source.layout, where=str(run_root / SOURCE_FILE))
    if not hasattr(layout, "read_ground_truth"):
        return None
    known = {name: value for name, value in source.recipe.items() if name in layout.Recipe.model_fields}
    images = Path(source.images) if source.images else None
    found: GroundTruthSplit = layout.read_ground_truth(
        run_root / source.path, split, layout.Recipe.model_validate(known), images, masks=masks
    )
    return found
