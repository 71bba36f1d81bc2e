"""`weaksam pgt`: detections on the training images become pseudo ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import PGT, annotations_bytes, read_detections
from weaksam_cli.data.labels import LabelChoice
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.stages import Stage
from weaksam_cli.engine.steps import Step

STAGE = Stage("pgt", 2, "pgt", "{split}.json", PGT, train_only=True)

Select = Callable[[Detections, Sequence[int]], Detections]
"""From the detections of one image and the classes of its labels to its pseudo boxes."""


def selection(settings: LabelChoice, context: Context, split: str, select: Select) -> Step:
    """The step that reads the detections of a split, selects image by image, and writes COCO-JSON with scores."""
    detections = context.run.input("wsod", split)

    def run(job: Job) -> Outcome:
        labels = context.split(split).read(settings.difficult)
        found = read_detections(detections, labels)
        kept = {
            image.key: select(found[image.key], labels.class_indexes(image)) for image in labels.file.images
        }
        job.context.ops.write_atomically(job.path, annotations_bytes(kept, labels))
        boxes, covered = sum(map(len, kept.values())), sum(len(item) > 0 for item in kept.values())
        context.console.info(f"  {boxes} pseudo boxes in {covered} images", boxes=boxes, covered=covered)
        return Outcome(len(kept), ())

    return Step(
        path=context.run.output("pgt", split),
        schema=STAGE.schema,
        split=split,
        settings=settings,
        inputs={"wsod": detections, "data": context.run.input("data", split)},
        run=run,
        title="pseudo ground truth",
    )
