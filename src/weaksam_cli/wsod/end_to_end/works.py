"""What the detecting step of MIST and OICR on VGG16 does to each image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.core.boxes import FloatArray
from weaksam_cli.core.types import Detections
from weaksam_cli.data.labels import read_labels
from weaksam_cli.engine.execution import Overlapped
from weaksam_cli.wsod.end_to_end.recipe import MistRecipe, OicrRecipe

Loaded = tuple[NDArray[np.uint8], FloatArray]
"""An image, uint8 RGB (H, W, 3), and the proposals that are used, float32 (R, 4)."""


@dataclass(frozen=True)
class VggDetectWork:
    """Detections of one image.

    Attributes:
        recipe: of the model.
        labels, proposals: artifacts of the split.
        image_root: folder of the images.
        model: file of the trained detector.
        device: where it runs.
    """

    recipe: MistRecipe | OicrRecipe
    labels: Path
    proposals: Path
    image_root: Path
    model: Path
    device: str

    def open(self) -> Overlapped[Loaded, Detections]:
        """Load the network once a process; images and proposals are read while the one before is computed."""
        from weaksam_cli.wsod.end_to_end.fit import load_detector
        from weaksam_cli.wsod.end_to_end.predict import detect
        from weaksam_cli.wsod.end_to_end.views import usable_proposals

        labels = read_labels(self.labels, self.image_root)
        images = labels.by_key()
        proposals = open_artifact(self.proposals, PROPOSALS, verify=False)
        network = load_detector(self.model, self.recipe, labels.class_names, self.device)

        def load(image_id: str) -> Loaded:
            pixels = labels.read_image(images[image_id])
            raw = proposals.rows(image_id, "boxes").astype(np.float32)
            return pixels, usable_proposals(raw, pixels.shape[0], pixels.shape[1], self.recipe.proposals)

        def compute(image_id: str, loaded: Loaded) -> Detections:
            return detect(network, *loaded, self.recipe)

        return Overlapped(load, compute)
