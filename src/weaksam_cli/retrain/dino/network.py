"""DINO's transformer: deformable encoder, mixed query selection, and a decoder that looks forward twice (Zhang et al. 2022).

Composed of the parts of transformers' Deformable DETR: multi-scale deformable attention, encoder, decoder layers, heads.
DINO's own are the choice of queries, their positions, which follow their boxes, and the boxes' gradients.

Boxes are (centre x, centre y, width, height), as shares of the image without its padding, unless they are said to be logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr import modeling_deformable_detr as parts

from weaksam_cli.retrain.dino.settings import Network

_LEAST_PROBABILITY: Final = 0.01
"""That every class begins with, so that the many background queries do not flood the first steps."""
_PROPOSAL_SIDE: Final = 0.05
"""Of the box that a cell of the finest map proposes; each coarser map doubles it."""
_BORDER: Final = 0.01
"""Cells whose centre is nearer to the image's edge propose nothing."""


@dataclass(frozen=True)
class Maps:
    """Feature maps of all levels, one behind the other, S cells in all.

    Attributes:
        values, positions: float (n, S, channels).
        valid: bool (n, S), False where a cell lies in the padding.
        shapes: height and width of each level.
        ratios: float (n, levels, 2), valid share of width and height.
    """

    values: Tensor
    positions: Tensor
    valid: Tensor
    shapes: list[tuple[int, int]]
    ratios: Tensor

    def places(self) -> dict[str, Any]:
        """How transformers' layers are told of the levels."""
        shapes = torch.tensor(self.shapes, device=self.values.device)
        starts = F.pad(shapes.prod(dim=1).cumsum(0), (1, 0))[:-1]
        return {"spatial_shapes": shapes, "spatial_shapes_list": self.shapes, "level_start_index": starts}


@dataclass(frozen=True)
class Noisy:
    """Denoising queries, which stand before the others.

    Attributes:
        content: float (n, D, channels).
        box_logits: float (n, D, 4).
        mask: float (D + queries, D + queries), added to the logits of the attention between queries.
    """

    content: Tensor
    box_logits: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Outputs:
    """What the layers say.

    Attributes:
        logits: of each decoder layer, float (n, D + queries, classes).
        boxes: of each decoder layer, float (n, D + queries, 4).
        encoder_logits, encoder_boxes: of the cells that became queries, float (n, queries, ...).
    """

    logits: list[Tensor]
    boxes: list[Tensor]
    encoder_logits: Tensor
    encoder_boxes: Tensor


def cell_positions(valid: Tensor, channels: int, temperature: float, offset: float = 0.0) -> Tensor:
    """Sines that tell the place of each cell of a map: float (n, channels, h, w).

    Args:
        valid: bool (n, h, w), what is no padding.
        channels: half of them for y, then half for x.
        temperature: of the longest wave.
        offset: added to the number of a row or column, which begins at 1.
    """
    cells = valid.float()
    places = []
    for axis in (1, 2):
        count = cells.cumsum(axis)
        size = count.narrow(axis, count.shape[axis] - 1, 1)
        places.append(_sines((count + offset) / (size + 1e-6), channels // 2, temperature))
    return torch.cat(places, dim=3).permute(0, 3, 1, 2)


def box_positions(boxes: Tensor, channels: int) -> Tensor:
    """Sines that tell boxes (..., 4): float (..., 2 * channels), a quarter each for y, x, width, height."""
    x, y, width, height = (_sines(part, channels // 2, 10_000) for part in boxes.unbind(dim=-1))
    return torch.cat([y, x, width, height], dim=-1)


def _sines(values: Tensor, channels: int, temperature: float) -> Tensor:
    waves = temperature ** (2 * (torch.arange(channels, device=values.device) // 2) / channels)
    angles = values[..., None] * 2 * math.pi / waves
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2)


def cell_proposals(maps: Maps) -> Tensor:
    """The box that each cell proposes, as logits: float (n, S, 4); infinite in the padding and at the image's edge."""
    boxes = []
    for level, (height, width) in enumerate(maps.shapes):
        y = torch.arange(height, device=maps.values.device) + 0.5
        x = torch.arange(width, device=maps.values.device) + 0.5
        grid = torch.stack([x[None].expand(height, -1), y[:, None].expand(-1, width)], dim=2).flatten(0, 1)
        sides = grid.new_tensor([width, height])
        centres = grid / (maps.ratios[:, None, level] * sides)
        boxes.append(torch.cat([centres, torch.full_like(centres, _PROPOSAL_SIDE * 2**level)], dim=2))
    found = torch.cat(boxes, dim=1)
    inside = ((found > _BORDER) & (found < 1 - _BORDER)).all(dim=2) & maps.valid
    return torch.logit(found).masked_fill(~inside[..., None], torch.inf)


class Projection(nn.Module):
    """From the backbone's maps to `levels` maps of as many channels; coarser ones are made of the backbone's last."""

    def __init__(self, in_channels: Sequence[int], levels: int, channels: int) -> None:
        super().__init__()
        extra = levels - len(in_channels)
        kernels = [(count, 1) for count in in_channels]
        kernels += [(in_channels[-1] if number == 0 else channels, 3) for number in range(extra)]
        groups = math.gcd(32, channels // 4)  # the published 32 where there are 256 channels
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(count, channels, kernel, stride=2 if kernel == 3 else 1, padding=kernel // 2),
                nn.GroupNorm(groups, channels),
            )
            for count, kernel in kernels
        )
        layer: Any
        for layer in self.layers:
            convolution = layer[0]
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (n, channels, h, w), finest first."""
        found = [layer(item) for layer, item in zip(self.layers, maps, strict=False)]
        last = maps[-1]
        for layer in self.layers[len(maps) :]:
            last = layer(last)
            found.append(last)
        return found


class Decoder(parts.DeformableDetrDecoder):
    """Decoder layers of transformers; the position of a query is that of its box, which each layer refines."""

    def __init__(self, config: DeformableDetrConfig) -> None:
        super().__init__(config)
        self.norm: nn.Module = nn.LayerNorm(config.d_model)
        self.ref_point_head = parts.DeformableDetrMLPPredictionHead(
            2 * config.d_model, config.d_model, config.d_model, 2
        )

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        maps: Maps,
        memory: Tensor,
        box_heads: Sequence[nn.Module],
        mask: Tensor | None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """States (n, Q, channels) of all layers, and the boxes (n, Q, 4) that each layer's prediction is relative to.

        Look forward twice: a layer's own offsets are taught by its loss and, through the box that the next layer's
        prediction is relative to, by the next one's; what a layer looks at carries no gradient.
        """
        states, relative_to = [], [references]
        ratios = torch.cat([maps.ratios, maps.ratios], dim=2)
        places = maps.places()
        attention = None if mask is None else mask[None, None]
        for layer, head in zip(self.layers, box_heads, strict=False):
            scaled = references[:, :, None] * ratios[:, None]
            queries = layer(
                queries,
                self.query_positions(scaled[:, :, 0]),
                scaled,
                encoder_hidden_states=memory,
                encoder_attention_mask=maps.valid,
                attention_mask=attention,
                **places,
            )
            states.append(self.norm(queries))
            refined = (head(queries) + parts.inverse_sigmoid(references)).sigmoid()
            relative_to.append(refined)
            references = refined.detach()
        return states, relative_to[:-1]

    def query_positions(self, boxes: Tensor) -> Tensor:
        """Float (n, Q, channels) of boxes (n, Q, 4) as shares of the padded finest map."""
        found: Tensor = self.ref_point_head(box_positions(boxes, self.config.d_model))
        return found


class DinoTransformer(nn.Module):
    """All that comes after the backbone.

    Args:
        in_channels: of the backbone's maps, finest first.
        settings: sizes.
        class_count: number of classes.
    """

    def __init__(self, in_channels: Sequence[int], settings: Network, class_count: int) -> None:
        super().__init__()
        config, channels = layer_config(settings), settings.channels
        self.settings = settings
        self.projection = Projection(in_channels, settings.levels, channels)
        self.level_embed = nn.Parameter(torch.empty(settings.levels, channels))
        self.encoder = parts.DeformableDetrEncoder(config)
        self.enc_output, self.enc_output_norm = nn.Linear(channels, channels), nn.LayerNorm(channels)
        self.decoder = Decoder(config)
        self.content = nn.Embedding(settings.queries, channels)
        # One more pair than decoder layers: the last one is of the encoder's cells.
        count = settings.decoder_layers + 1
        self.class_heads = nn.ModuleList(nn.Linear(channels, class_count) for _ in range(count))
        self.box_heads = nn.ModuleList(
            parts.DeformableDetrMLPPredictionHead(channels, channels, 4, 3) for _ in range(count)
        )
        self._initialise()

    def _initialise(self) -> None:
        for part in (self.encoder, self.decoder, self.enc_output):
            for weight in part.parameters():
                if weight.dim() > 1:
                    nn.init.xavier_uniform_(weight)
        for module in (*self.encoder.modules(), *self.decoder.modules()):
            if isinstance(module, parts.DeformableDetrMultiscaleDeformableAttention):
                self.encoder._init_weights(module)
        nn.init.normal_(self.level_embed)
        nn.init.normal_(self.content.weight)
        for classes in self.class_heads:
            nn.init.constant_(classes.bias, -math.log(1 / _LEAST_PROBABILITY - 1))  # type: ignore[arg-type]
        for boxes in self.box_heads:
            last: Any = boxes.layers[-1]  # type: ignore[index]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, features: Sequence[Tensor], valid: Tensor, noisy: Noisy | None = None) -> Outputs:
        """What the layers say of images.

        Args:
            features: the backbone's maps (n, c, h, w), finest first.
            valid: bool (n, H, W), False in the padding of the images.
            noisy: denoising queries, in training.
        """
        maps = self.maps_of(self.projection(features), valid)
        memory = self.encode(maps)
        content, box_logits, encoder_logits = self.select(memory, maps)
        references = box_logits.detach().sigmoid()
        mask = None
        if noisy is not None:
            content = torch.cat([noisy.content, content], dim=1)
            references = torch.cat([noisy.box_logits.sigmoid(), references], dim=1)
            size = content.shape[1]  # small images have fewer cells than there are queries
            mask = noisy.mask[:size, :size]
        states, relative_to = self.decoder(content, references, maps, memory, self.box_heads, mask)
        logits = [head(state) for head, state in zip(self.class_heads, states, strict=False)]
        boxes = [
            (head(state) + parts.inverse_sigmoid(reference)).sigmoid()
            for head, state, reference in zip(self.box_heads, states, relative_to, strict=False)
        ]
        return Outputs(logits, boxes, encoder_logits, box_logits.sigmoid())

    def maps_of(self, levels: Sequence[Tensor], valid: Tensor) -> Maps:
        """The levels one behind the other, with the place of each cell and whether it is padding."""
        values, positions, masks, ratios = [], [], [], []
        for level, item in enumerate(levels):
            mask = F.interpolate(valid[:, None].float(), size=item.shape[-2:])[:, 0] > 0
            place = self.cell_positions(mask) + self.level_embed[level][:, None, None]
            values.append(item.flatten(2).transpose(1, 2))
            positions.append(place.flatten(2).transpose(1, 2))
            masks.append(mask.flatten(1))
            height, width = mask.shape[1:]
            ratios.append(torch.stack([mask[:, 0].sum(1) / width, mask[:, :, 0].sum(1) / height], dim=1))
        shapes = [(item.shape[2], item.shape[3]) for item in levels]
        return Maps(
            torch.cat(values, 1), torch.cat(positions, 1), torch.cat(masks, 1), shapes, torch.stack(ratios, 1)
        )

    def cell_positions(self, valid: Tensor) -> Tensor:
        """See the function of this name."""
        return cell_positions(valid, self.settings.channels, self.settings.temperature)

    def encode(self, maps: Maps) -> Tensor:
        """The encoder's cells, float (n, S, channels)."""
        found: Tensor = self.encoder(
            inputs_embeds=maps.values,
            attention_mask=maps.valid,
            spatial_position_embeddings=maps.positions,
            valid_ratios=maps.ratios,
            **maps.places(),
        ).last_hidden_state
        return found

    def select(self, memory: Tensor, maps: Maps) -> tuple[Tensor, Tensor, Tensor]:
        """Mixed query selection: places from the cells that are surest of a class, contents that were learnt.

        Returns:
            Content (n, queries, channels), boxes as logits (n, queries, 4) and class logits (n, queries, classes); fewer
            queries where there are fewer cells.
        """
        logits, box_logits = self.propose(memory, maps)
        sure = logits.amax(dim=2).masked_fill(~torch.isfinite(box_logits[..., 0]), -torch.inf)
        best = sure.topk(min(self.settings.queries, sure.shape[1]), dim=1).indices[..., None]
        content = self.content.weight[None, : best.shape[1]].expand(len(memory), -1, -1)
        chosen = box_logits.gather(1, best.expand(-1, -1, 4))
        return content, chosen, logits.gather(1, best.expand(-1, -1, logits.shape[2]))

    def propose(self, memory: Tensor, maps: Maps) -> tuple[Tensor, Tensor]:
        """Class logits (n, S, classes) and boxes as logits (n, S, 4) of all cells."""
        proposals = cell_proposals(maps)
        usable = torch.isfinite(proposals[..., :1])
        cells = self.enc_output_norm(self.enc_output(memory.masked_fill(~usable, 0.0)))
        return self.class_heads[-1](cells), self.box_heads[-1](cells) + proposals


def layer_config(settings: Network) -> DeformableDetrConfig:
    """How transformers calls these sizes."""
    config = DeformableDetrConfig(
        d_model=settings.channels,
        num_feature_levels=settings.levels,
        encoder_layers=settings.encoder_layers,
        decoder_layers=settings.decoder_layers,
        encoder_attention_heads=settings.heads,
        decoder_attention_heads=settings.heads,
        encoder_n_points=settings.points,
        decoder_n_points=settings.points,
        encoder_ffn_dim=settings.feedforward,
        decoder_ffn_dim=settings.feedforward,
        dropout=settings.dropout,
    )
    config._attn_implementation = "sdpa"
    return config
