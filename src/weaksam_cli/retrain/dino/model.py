"""DINO as a model of detectron2: a dict of losses in training, instances otherwise.

Importing this module registers `WeakSamDino` with detectron2; it reads `MODEL.METHOD.SETTINGS` (`settings.ModelPart`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from weaksam_cli.detectron.compat import import_detectron2

import_detectron2()

from detectron2.layers import batched_nms  # noqa: E402
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone  # noqa: E402
from detectron2.structures import Boxes, ImageList, Instances  # noqa: E402
from detectron2.utils.events import get_event_storage  # noqa: E402

from weaksam_cli.detectron.training import FIGURES  # noqa: E402
from weaksam_cli.retrain.dino.denoising import noisy_queries  # noqa: E402
from weaksam_cli.retrain.dino.losses import (  # noqa: E402
    Match,
    Targets,
    Wanted,
    box_distances,
    dropped_by,
    layer_losses,
    matched,
    wanted_of,
)
from weaksam_cli.retrain.dino.network import DinoTransformer, Noisy, Outputs  # noqa: E402
from weaksam_cli.retrain.dino.query_drop import query_costs  # noqa: E402
from weaksam_cli.retrain.dino.settings import ModelPart  # noqa: E402
from weaksam_cli.retrain.transformers_parts import method_settings  # noqa: E402

Sample = Mapping[str, Any]
"""detectron2's dict of an image: `image` uint8 (3, h, w), in training `instances`."""


class QueryLosses(NamedTuple):
    """What each query is taught.

    Attributes:
        boxes: float (Q, 4), xyxy pixel edges.
        classification: float (Q,), binary cross-entropy, by which queries are dropped.
        regression: float (Q,), the weighted L1 distance and GIoU loss; 0 for background.
        assigned: int64 (Q,), the object; -1 for background.
    """

    boxes: Tensor
    classification: Tensor
    regression: Tensor
    assigned: Tensor


@META_ARCH_REGISTRY.register()
class WeakSamDino(nn.Module):
    """DINO with query drop."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.settings = method_settings(cfg, ModelPart)
        self.class_count: int = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        self.backbone = build_backbone(cfg)
        self.features: list[str] = list(cfg.MODEL.RESNETS.OUT_FEATURES)
        shapes = self.backbone.output_shape()
        channels = [shapes[name].channels for name in self.features]
        self.transformer = DinoTransformer(channels, self.settings.transformer, self.class_count)
        width = self.settings.transformer.channels
        # The last row stands where an image has fewer objects than others of its batch.
        self.label_enc = nn.Embedding(self.class_count + 1, width, padding_idx=self.class_count)
        for name, values in (("pixel_mean", cfg.MODEL.PIXEL_MEAN), ("pixel_std", cfg.MODEL.PIXEL_STD)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.score_threshold: float = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
        # Where several views are united, suppression comes after that (test-time augmentation of the released code).
        self.nms: float = 1.0 if cfg.TEST.AUG.ENABLED else cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST
        self.detections: int = cfg.TEST.DETECTIONS_PER_IMAGE
        self.to(cfg.MODEL.DEVICE)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def forward(self, batch: Sequence[Sample]) -> Any:
        """Losses by name in training; else instances in pixels of the images as given."""
        if not self.training:
            return self.inference(batch)
        images = self._images(batch)
        targets = [
            _targets(sample["instances"].to(self.device), size)
            for sample, size in zip(batch, images.image_sizes, strict=True)
        ]
        settings = self.settings
        noise = noisy_queries(targets, self.label_enc, settings.transformer.queries, settings.denoising)
        outputs = self._look(images, None if noise is None else noise[0])
        losses = self._query_losses(outputs, targets)
        return losses if noise is None else losses | self._denoising_losses(outputs, targets, noise[1])

    def _images(self, batch: Sequence[Sample]) -> ImageList:
        pixels = [
            (sample["image"].to(self.device).float() - self.pixel_mean) / self.pixel_std for sample in batch
        ]
        return ImageList.from_tensors(pixels, self.backbone.size_divisibility)

    def _look(self, images: ImageList, noisy: Noisy | None) -> Outputs:
        maps = self.backbone(images.tensor)
        count, _, height, width = images.tensor.shape
        valid = torch.zeros((count, height, width), dtype=torch.bool, device=self.device)
        for mask, (rows, columns) in zip(valid, images.image_sizes, strict=True):
            mask[:rows, :columns] = True
        found: Outputs = self.transformer([maps[name] for name in self.features], valid, noisy)
        return found

    def _query_losses(self, outputs: Outputs, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Of the queries, in each decoder layer and of the encoder's cells; queries may be dropped."""
        queries, weights = outputs.encoder_logits.shape[1], self.settings.losses
        said = [
            *(
                (str(layer), logits[:, -queries:], boxes[:, -queries:])
                for layer, (logits, boxes) in enumerate(zip(outputs.logits, outputs.boxes, strict=True))
            ),
            ("encoder", outputs.encoder_logits, outputs.encoder_boxes),
        ]
        losses: dict[str, Tensor] = {}
        gone: list[tuple[Tensor, Tensor]] = []
        for name, logits, boxes in said:
            matches = matched(logits, boxes, targets, self.settings.matching)
            wanted = wanted_of(matches, targets, queries, self.class_count)
            dropped = self._dropped(logits.flatten(0, 1), wanted)
            if dropped is not None:
                gone.append((dropped, wanted.classes < self.class_count))
            found = layer_losses(logits.flatten(0, 1), boxes.flatten(0, 1), wanted, weights, dropped)
            losses |= {f"loss_{key}_{name}": value for key, value in found.items()}
        if gone:
            _tell_dropped(gone)
        return losses

    def _dropped(self, logits: Tensor, wanted: Wanted) -> Tensor | None:
        drop = self.settings.query_drop
        return dropped_by(logits, wanted, drop) if drop.active(get_event_storage().iter) else None

    def _denoising_losses(
        self, outputs: Outputs, targets: Sequence[Targets], matches: Sequence[Match]
    ) -> dict[str, Tensor]:
        """Of the denoising queries, in each decoder layer; none is dropped."""
        count = outputs.logits[0].shape[1] - outputs.encoder_logits.shape[1]
        wanted = wanted_of(matches, targets, count, self.class_count)
        losses: dict[str, Tensor] = {}
        for layer, (logits, boxes) in enumerate(zip(outputs.logits, outputs.boxes, strict=True)):
            queries = logits[:, :count].flatten(0, 1), boxes[:, :count].flatten(0, 1)
            found = layer_losses(*queries, wanted, self.settings.losses)
            losses |= {f"loss_dn_{key}_{layer}": value for key, value in found.items()}
        return losses

    def query_losses(self, image: Tensor, boxes: Tensor, classes: Tensor) -> QueryLosses:
        """What each query of the last layer is taught by the objects of one image, which nobody learns from.

        Args:
            image: uint8 (3, h, w).
            boxes: float (k, 4), xyxy pixel edges.
            classes: int64 (k,).
        """
        size = image.shape[1], image.shape[2]
        objects = Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes).to(self.device)
        targets = [_targets(objects, size)]
        outputs = self._look(self._images([{"image": image}]), None)
        logits, places = outputs.logits[-1].float(), outputs.boxes[-1].float()
        (match,) = matched(logits, places, targets, self.settings.matching)
        queries, found = match[0].to(self.device), match[1].to(self.device)
        wanted = wanted_of([match], targets, logits.shape[1], self.class_count)
        assigned = torch.full_like(wanted.classes, -1)
        assigned[queries] = found
        regression = torch.zeros_like(logits[0, :, 0])
        l1, giou = box_distances(places[0, queries], targets[0].boxes[found])
        regression[queries] = self.settings.losses.l1 * l1 + self.settings.losses.giou * giou
        corners = box_convert(places[0], "cxcywh", "xyxy") * places.new_tensor([*size[::-1]] * 2)
        return QueryLosses(corners, query_costs(logits[0], wanted.classes), regression, assigned)

    def inference(self, batch: Sequence[Sample], do_postprocess: bool = False) -> list[Any]:
        """Detections of each image, best first, in pixels of the image as given.

        Args:
            batch: images.
            do_postprocess: as other networks of detectron2 take it; who asks brings boxes to another size.
        """
        images = self._images(batch)
        outputs = self._look(images, None)
        scores, boxes = outputs.logits[-1].float().sigmoid(), outputs.boxes[-1].float()
        return [
            self._instances(said, places, size)
            for said, places, size in zip(scores, boxes, images.image_sizes, strict=True)
        ]

    def _instances(self, scores: Tensor, boxes: Tensor, size: tuple[int, int]) -> Any:
        best, places = scores.flatten().topk(min(self.detections, scores.numel()))
        kept = best > self.score_threshold
        best, places = best[kept], places[kept]
        queries, classes = places // self.class_count, places % self.class_count
        found = Boxes(box_convert(boxes[queries], "cxcywh", "xyxy") * best.new_tensor([*size[::-1]] * 2))
        found.clip(size)
        if self.nms < 1:
            kept = batched_nms(found.tensor, best, classes, self.nms)
            best, classes, found = best[kept], classes[kept], found[kept]
        return Instances(size, pred_boxes=found, scores=best, pred_classes=classes)


def _targets(instances: Any, size: tuple[int, int]) -> Targets:
    boxes = box_convert(instances.gt_boxes.tensor, "xyxy", "cxcywh")
    return Targets(boxes / boxes.new_tensor([*size[::-1]] * 2), instances.gt_classes)


def _tell_dropped(gone: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Keep in detectron2's event storage how many queries were dropped, means over the layers of one batch."""
    storage = get_event_storage()
    for name, kinds in (("things", [dropped & thing for dropped, thing in gone]),
                        ("background", [dropped & ~thing for dropped, thing in gone])):  # fmt: skip
        storage.put_scalar(f"{FIGURES}{name}", float(torch.stack(kinds).sum()) / len(gone))
