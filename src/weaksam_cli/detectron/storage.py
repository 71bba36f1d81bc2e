"""The training loop inside detectron2's `EventStorage`, which its proposal network and heads ask for."""

from __future__ import annotations

from typing import Any

from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.training.loop import Step, Training, optimizer_step


def in_event_storage(step: Step = optimizer_step) -> Step:
    """The step with an `EventStorage` of its own around it, whose iteration is that of the training.

    What detectron2 puts into it is thrown away. Its hooks are not run: rates and checkpoints are the loop's, and there is
    nothing to evaluate, because a training never sees ground truth.
    """
    import_detectron2()
    from detectron2.utils.events import EventStorage

    def stored(training: Training, batch: Any) -> dict[str, float]:
        with EventStorage(training.iteration):
            return step(training, batch)

    return stored
