"""What a method of another module can do: networks, outputs, losses and a step of its own, on either network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tests.wsod.vgg_helpers import CLASSES, detector_of, sample
from torch import Tensor, nn

from weaksam_cli.training.loop import Stateful, Step, Training, TrainingRun, optimizer_step
from weaksam_cli.wsod.detector import FrozenDetector, RegionDetector, Sample, fit_detector
from weaksam_cli.wsod.losses import refinement_losses, wsddn_loss_sum, wsddn_scores
from weaksam_cli.wsod.method import Method, Outputs, Regions, Sizes
from weaksam_cli.wsod.mining import assign, top_one_pseudo_boxes
from weaksam_cli.wsod.settings import ScheduleSettings

SEEN: list[tuple[int, float]] = []


class Average:
    """State that a checkpoint keeps."""

    def __init__(self) -> None:
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


class Own(Method):
    """One branch, an embedding of RoIs that images of a batch compare, and a count of steps."""

    method: Literal["own"] = "own"

    @property
    def branches(self) -> int:
        return 1

    def modules(self, sizes: Sizes) -> dict[str, nn.Module]:
        return {"embedding": nn.Linear(sizes.features, 2)}

    def outputs(self, heads: Any, pooled: Tensor, neck: Callable[[Tensor], Tensor]) -> Outputs:
        features = neck(pooled)
        plain = heads(features)
        embedded = heads.embedding(features)
        return Outputs(
            plain.class_logits, plain.detection_logits, plain.refinement_logits, extra={"embedding": embedded}
        )

    def losses(self, outputs: Outputs, regions: Regions) -> dict[str, Tensor]:
        scores = wsddn_scores(outputs.class_logits, outputs.detection_logits)

        def mine(source: Tensor) -> Any:
            return assign(regions.boxes, top_one_pseudo_boxes(source, regions.boxes, regions.image_labels))

        return {"loss_img": wsddn_loss_sum(scores, regions.image_labels)} | refinement_losses(
            outputs, scores.detach(), regions.boxes, mine, (1.0,)
        )

    def batch_losses(self, outputs: Sequence[Outputs], regions: Sequence[Regions]) -> dict[str, Tensor]:
        SEEN.append((len(outputs), regions[0].progress))
        centres = torch.stack([item.extra["embedding"].mean(dim=0) for item in outputs])
        return super().batch_losses(outputs, regions) | {"loss_apart": centres.var()}

    def training_step(self, detector: RegionDetector, iterations: int) -> tuple[Step, dict[str, Stateful]]:
        average = Average()

        def step(training: Training, batch: Any) -> dict[str, float]:
            average.steps += 1
            return optimizer_step(training, batch)

        return step, {"average": average}


@pytest.mark.parametrize("network", ["lite0", "vgg16"])
def test_it_trains_on_either_network(network: str, tmp_path: Path) -> None:
    SEEN.clear()
    torch.manual_seed(0)

    def load(iteration: int, position: int, index: int) -> Sample:
        made = sample(6 + position, present=(index,))
        if network == "vgg16":
            return made
        return Sample(torch.randn(6 + position, 5), made.regions)

    detector: RegionDetector = detector_of(Own())
    if network == "lite0":
        detector = FrozenDetector(Own(), torch.ones(2, 5), CLASSES)
    reported: list[dict[str, float]] = []
    run = TrainingRun(
        "cpu",
        0,
        tmp_path / "checkpoint.pt",
        "own",
        Path.write_bytes,
        lambda _done, _total, losses: reported.append(losses),
    )
    fit_detector(detector, load, 3, ScheduleSettings(iterations=2, batch_size=3, learning_rate=1e-3), run)
    assert [set(losses) for losses in reported] == [{"loss_img", "loss_ref_cls0", "loss_apart"}] * 2
    assert SEEN == [(3, 0.0), (3, 0.5)]
    (answer,) = detector.eval()([load(0, 0, 0)])
    assert answer.scores.shape == (6, CLASSES)
