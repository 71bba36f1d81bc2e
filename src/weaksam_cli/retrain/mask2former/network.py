"""Mask2Former as a network of detectron2: a backbone of its own below the decoders, matcher and losses of `transformers`.

`transformers` is imported here and nowhere else; nothing is ever fetched: the configuration is written in code.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.retrain.mask2former.settings import Segmenter
from weaksam_cli.retrain.transformers_parts import method_settings
from weaksam_cli.retrain.whole_masks import STRIDE

import_detectron2()

from detectron2.config import configurable  # noqa: E402
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone  # noqa: E402
from detectron2.structures import ImageList, Instances  # noqa: E402
from transformers import Mask2FormerConfig, Mask2FormerPreTrainedModel  # noqa: E402
from transformers.models.mask2former.modeling_mask2former import (  # noqa: E402
    Mask2FormerLoss,
    Mask2FormerPixelDecoder,
    Mask2FormerTransformerModule,
)

_DIVISIBILITY: Final = 32
"""Images are padded to multiples of the coarsest map's stride, so that each map is half as large as the one before."""


def transformers_config(settings: Segmenter, class_count: int) -> Any:
    """The settings as a `Mask2FormerConfig`; its backbone is not used."""
    configuration: Any = Mask2FormerConfig
    return configuration(
        num_labels=class_count,
        num_queries=settings.queries,
        feature_size=settings.channels,
        mask_feature_size=settings.channels,
        hidden_dim=settings.channels,
        num_attention_heads=settings.heads,
        encoder_layers=settings.pixel_layers,
        encoder_feedforward_dim=settings.pixel_feedforward,
        # It counts the prediction of the queries as they come, before any layer.
        decoder_layers=settings.decoder_layers + 1,
        dim_feedforward=settings.feedforward,
        common_stride=STRIDE,
        train_num_points=settings.points,
        oversample_ratio=settings.oversample,
        importance_sample_ratio=settings.importance,
        no_object_weight=settings.no_object_weight,
        class_weight=settings.class_weight,
        mask_weight=settings.mask_weight,
        dice_weight=settings.dice_weight,
    )


class Mask2FormerHead(Mask2FormerPreTrainedModel):
    """Pixel decoder, transformer decoder and classifier of `transformers`, with their own initial weights.

    Args:
        config: of `transformers_config`.
        channels: of the four maps below, finest first.
    """

    def __init__(self, config: Any, channels: Sequence[int]) -> None:
        super().__init__(config)
        with warnings.catch_warnings():
            # It advises on a CUDA kernel that it does not use.
            warnings.filterwarnings("ignore", "You'd better set embed_dim")
            self.pixel_decoder = Mask2FormerPixelDecoder(config, feature_channels=[*channels])
        self.transformer_module = Mask2FormerTransformerModule(in_features=config.feature_size, config=config)
        self.class_predictor = nn.Linear(config.hidden_dim, config.num_labels + 1)
        self.weights = {
            "loss_cross_entropy": config.class_weight,
            "loss_mask": config.mask_weight,
            "loss_dice": config.dice_weight,
        }
        self.criterion = Mask2FormerLoss(config=config, weight_dict=self.weights)
        self.post_init()

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of classes (B, queries, classes + 1), the last for no object, and of masks (B, queries, h, w).

        Args:
            maps: features (B, c, h / s, w / s) at strides s of 4, 8, 16, 32 pixels.

        Returns:
            A pair of lists: of the queries as they come, then after each layer of the decoder.
        """
        pixels = self.pixel_decoder(list(maps), output_hidden_states=False)
        decoded = self.transformer_module(
            multi_scale_features=pixels.multi_scale_features,
            mask_features=pixels.mask_features,
            output_hidden_states=True,
            output_attentions=False,
        )
        states = decoded.intermediate_hidden_states
        classes = [self.class_predictor(state.transpose(0, 1)) for state in states]
        return classes, list(decoded.masks_queries_logits)

    def losses(
        self,
        classes: Sequence[Tensor],
        masks: Sequence[Tensor],
        class_labels: list[Tensor],
        mask_labels: list[Tensor],
    ) -> dict[str, Tensor]:
        """The weighted losses, each the sum over all layers; in float32, whatever the network computed in.

        Args:
            classes, masks: of `forward`.
            class_labels: int64 (n,) of each image.
            mask_labels: float (n, H, W) of each image, all images of one size.
        """
        device = classes[-1].device.type
        with torch.autocast(device, enabled=False):
            pairs = [(mask.float(), logits.float()) for mask, logits in zip(masks, classes, strict=True)]
            *earlier, last = pairs
            found: Mapping[str, Tensor] = self.criterion(
                *last,
                mask_labels,
                class_labels,
                [{"masks_queries_logits": mask, "class_queries_logits": logits} for mask, logits in earlier],
            )
        return {
            name: weight * torch.stack([value for key, value in found.items() if key.startswith(name)]).sum()
            for name, weight in self.weights.items()
        }


@META_ARCH_REGISTRY.register()
class WeakSamMask2Former(nn.Module):
    """Mask2Former over any backbone of detectron2 with maps at strides 4, 8, 16 and 32.

    Attributes:
        backbone: of detectron2.
        head: what stands above it.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,
        backbone: nn.Module,
        maps: Sequence[str],
        settings: Segmenter,
        class_count: int,
        pixels: tuple[Sequence[float], Sequence[float]],
        score_threshold: float,
        detections: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.maps = tuple(maps)
        shapes: Any = backbone.output_shape()  # type: ignore[operator]
        config = transformers_config(settings, class_count)
        self.head = Mask2FormerHead(config, [shapes[name].channels for name in self.maps])
        for name, values in zip(("pixel_mean", "pixel_std"), pixels, strict=True):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.score_threshold, self.detections = score_threshold, detections

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """What the constructor takes, from detectron2's configuration."""
        return {
            "backbone": build_backbone(cfg),
            "maps": cfg.MODEL.RESNETS.OUT_FEATURES,
            "settings": method_settings(cfg, Segmenter),
            "class_count": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "pixels": (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
            "score_threshold": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        """In training the losses of images with `instances`, else what `inference` gives."""
        if not self.training:
            return self.inference(batch)
        images, classes, masks = self._look(batch)
        height, width = images.tensor.shape[-2:]
        class_labels, mask_labels = [], []
        for item in batch:
            instances = item["instances"].to(self.pixel_mean.device)
            class_labels.append(instances.gt_classes)
            drawn = instances.gt_masks.tensor if instances.has("gt_masks") else None
            if drawn is None:  # detectron2's mapper gives an image without objects no masks
                drawn = self.pixel_mean.new_zeros(0, *instances.image_size)
            right, below = width - drawn.shape[2], height - drawn.shape[1]
            mask_labels.append(F.pad(drawn.float(), (0, right, 0, below)))
        return self.head.losses(classes, masks, class_labels, mask_labels)

    def inference(self, batch: list[dict[str, Any]], do_postprocess: bool = False) -> list[Instances]:
        """Of each image the best pairs of a query and a class, best first.

        Args:
            batch: dictionaries with `image`, uint8 or float (3, H, W).
            do_postprocess: as other networks of detectron2 take it; the masks are drawn by `whole_masks`.

        Returns:
            Instances of the image's size with `scores` (the probability of the class), `pred_classes`, and `mask_logits`
            (n, h, w), of the image padded below and to the right, at a quarter of its size.
        """
        images, classes, masks = self._look(batch)
        found = []
        for size, logits, drawn in zip(images.image_sizes, classes[-1], masks[-1], strict=True):
            probabilities = logits.float().softmax(-1)[:, :-1].flatten()
            scores, places = probabilities.topk(min(self.detections, len(probabilities)))
            places = places[scores > self.score_threshold]
            instances = Instances(size)
            instances.scores = scores[: len(places)]
            instances.pred_classes = places % (logits.shape[1] - 1)
            instances.mask_logits = drawn[places // (logits.shape[1] - 1)].float()
            found.append(instances)
        return found

    def _look(self, batch: list[dict[str, Any]]) -> tuple[ImageList, list[Tensor], list[Tensor]]:
        """The images, normalised and padded, and the logits of `Mask2FormerHead`."""
        pixels = [
            (item["image"].to(self.pixel_mean.device) - self.pixel_mean) / self.pixel_std for item in batch
        ]
        images = ImageList.from_tensors(pixels, _DIVISIBILITY)
        features = self.backbone(images.tensor)
        return images, *self.head([features[name] for name in self.maps])
