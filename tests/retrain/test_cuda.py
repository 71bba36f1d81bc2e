"""What only a GPU can show of a training: it runs there, in float16 where the recipe says so, and its model reads as any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.retrain.helpers import CLASSES, VALUES, entries, read_image, saved
from weaksam_cli.retrain.detection import load_detector
from weaksam_cli.retrain.detector import detectron_config, fit
from weaksam_cli.retrain.faster_rcnn import Recipe
from weaksam_cli.training.loop import TrainingRun

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_a_training_and_its_detections(tmp_path: Path, mixed_precision: bool) -> None:
    schedule = VALUES["schedule"] | {"mixed_precision": mixed_precision}
    wanted = Recipe.model_validate(VALUES | {"schedule": schedule})
    run = TrainingRun("cuda", 5, tmp_path / "checkpoint.pt", "recipe", Path.write_bytes)
    cfg = detectron_config(wanted, len(CLASSES), "cuda")
    model = fit(wanted, cfg, entries(), read_image, run)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    path = saved(tmp_path / "model.safetensors", model, wanted)
    found = {
        name: load_detector(path, wanted.inference, CLASSES, name)(read_image("1"))
        for name in ("cuda", "cpu")
    }
    assert len(found["cuda"]) == len(found["cpu"])
    assert found["cuda"].scores == pytest.approx(found["cpu"].scores, abs=1e-2)
    again = fit(wanted, cfg, entries(), read_image, replace(run, checkpoint=tmp_path / "checkpoint.pt"))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
