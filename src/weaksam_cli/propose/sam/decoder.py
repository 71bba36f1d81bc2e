"""SAM's mask decoder with the work shared that does not depend on the prompt.

The answers are those of `segment_anything.modeling.MaskDecoder` up to float32 rounding; the arithmetic is arranged anew:

* Until the first image-to-token attention has run, the image tokens are the same for all prompts, so the keys, values and
  queries that the first layer projects from them are computed once an image.
* Later, a prompt has its own N image tokens of width d but only t tokens of its own (7 for one point). Instead of projecting
  the N image tokens, the t tokens are projected the other way: with queries q of a head and its key projection W,
  q (W x) = (Wᵀ q) x. A product with h·t rows replaces one with d/2 rows, and a bias that is the same for all image tokens
  leaves the softmax as it is. Values and the output projection are moved through the weighted sum in the same way.
* Upscaling is a transposed convolution of stride 2 and kernel 2: a matrix product for each token, channels last, so that
  nothing is transposed but the masks in the end; masks that nobody asked for are not computed.

For the published decoder this is 0.85 instead of 1.81 GMAC for one point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor


class _Linear(NamedTuple):
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class _CrossAttention:
    """The projections of one attention layer, split by head: h heads of e channels each, width d."""

    query: _Linear
    key: _Linear
    value: _Linear
    out: _Linear

    @classmethod
    def of(cls, attention: Any) -> _CrossAttention:
        heads = attention.num_heads
        scale = (attention.internal_dim // heads) ** -0.5

        def split(layer: Any, factor: float = 1.0) -> _Linear:
            weight, bias = layer.weight.detach() * factor, layer.bias.detach() * factor
            return _Linear(weight.unflatten(0, (heads, -1)), bias.unflatten(0, (heads, -1)))

        out = attention.out_proj.weight.detach().unflatten(1, (heads, -1)).permute(1, 2, 0).contiguous()
        return cls(
            split(attention.q_proj, scale),
            split(attention.k_proj),
            split(attention.v_proj),
            _Linear(out, attention.out_proj.bias.detach()),
        )


@dataclass(frozen=True)
class PreparedImage:
    """What the decoder needs of an image, whatever the prompt.

    Attributes:
        tokens: (N, d), image tokens with the embedding of "no mask prompt" added.
        position: (N, d), their positional encoding.
        first_keys, first_values, first_queries: (h, N, e), of the first layer's two cross-attentions.
    """

    tokens: Tensor
    position: Tensor
    first_keys: Tensor
    first_values: Tensor
    first_queries: Tensor


def _project(x: Tensor, layer: _Linear) -> Tensor:
    """(..., n, d) by a weight (h, e, d) to (..., h, n, e)."""
    return x.unsqueeze(-3) @ layer.weight.transpose(-1, -2) + layer.bias.unsqueeze(-2)


class SharedDecoder:
    """Decodes prompts on one image.

    Args:
        sam: the network; its weights are read, nothing is changed in it. Dtype and device are those of its decoder.
    """

    def __init__(self, sam: Sam) -> None:
        decoder = sam.mask_decoder
        self._sam = sam
        self._decoder = decoder
        self._layers = list(decoder.transformer.layers)
        self._to_image = [_CrossAttention.of(layer.cross_attn_token_to_image) for layer in self._layers]
        self._to_tokens = [_CrossAttention.of(layer.cross_attn_image_to_token) for layer in self._layers]
        self._final = _CrossAttention.of(decoder.transformer.final_attn_token_to_image)
        self._output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).detach()
        self._first_step = _as_linear(decoder.output_upscaling[0])
        self._second_step = _as_linear(decoder.output_upscaling[3])

    def prepare(self, features: Tensor) -> PreparedImage:
        """Project the image features (1, d, h, w) of the encoder once for all prompts."""
        dtype = self._output_tokens.dtype
        no_mask = self._sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1)
        tokens = (features.flatten(2)[0].T + no_mask).to(dtype).contiguous()
        position = self._sam.prompt_encoder.get_dense_pe().flatten(2)[0].T.to(dtype).contiguous()
        placed = tokens + position
        to_image, to_tokens = self._to_image[0], self._to_tokens[0]
        return PreparedImage(
            tokens,
            position,
            _project(placed, to_image.key),
            _project(tokens, to_image.value),
            _project(placed, to_tokens.query),
        )

    def decode(self, image: PreparedImage, prompts: Tensor, masks: slice) -> tuple[Tensor, Tensor]:
        """Decode b prompts.

        Args:
            image: from `prepare`.
            prompts: sparse prompt embeddings (b, p, d) of the prompt encoder.
            masks: which of the mask tokens are asked for.

        Returns:
            Logits (b, k, 4 h, 4 w) and predicted IoU (b, k) of the k masks.
        """
        start = self._output_tokens.expand(len(prompts), -1, -1)
        placement = torch.cat([start, prompts.to(start.dtype)], dim=1)
        tokens, image_tokens = self._transform(image, placement)
        of_masks = tokens[:, 1 : 1 + self._decoder.num_mask_tokens][:, masks]
        networks = list(self._decoder.output_hypernetworks_mlps)[masks]
        weights = torch.stack([net(of_masks[:, index]) for index, net in enumerate(networks)], dim=1)
        quality = self._decoder.iou_prediction_head(tokens[:, 0])[:, masks]
        return self._upscale(image_tokens, weights), quality

    def _transform(self, image: PreparedImage, placement: Tensor) -> tuple[Tensor, Tensor]:
        """The two-way transformer: prompt tokens (b, t, d) and image tokens (b, N, d)."""
        tokens, image_tokens = placement, image.tokens
        placed = image_tokens
        for index, layer in enumerate(self._layers):
            tokens = self._attend_to_tokens(layer, tokens, placement)
            if index:
                placed = image_tokens + image.position
                update = _attend_to_image(self._to_image[index], tokens + placement, placed, image_tokens)
            else:
                update = _attend_to_shared(self._to_image[0], tokens + placement, image)
            tokens = layer.norm2(tokens + update)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            cross = self._to_tokens[index]
            shared = None if index else image.first_queries
            attended = _attend_from_image(cross, placed, tokens + placement, tokens, shared)
            image_tokens = layer.norm4(attended.add_(image_tokens))
        placed = image_tokens + image.position
        update = _attend_to_image(self._final, tokens + placement, placed, image_tokens)
        return self._decoder.transformer.norm_final_attn(tokens + update), image_tokens

    @staticmethod
    def _attend_to_tokens(layer: Any, tokens: Tensor, placement: Tensor) -> Tensor:
        """Self-attention of the prompt tokens; the first layer knows no placement and replaces instead of adding."""
        if layer.skip_first_layer_pe:
            return layer.norm1(layer.self_attn(q=tokens, k=tokens, v=tokens))
        placed = tokens + placement
        return layer.norm1(tokens + layer.self_attn(q=placed, k=placed, v=tokens))

    def _upscale(self, image_tokens: Tensor, weights: Tensor) -> Tensor:
        """Logits (b, k, 4 h, 4 w) of image tokens (b, h w, d) and mask weights (b, k, d / 8)."""
        _, norm, activation, _, last = self._decoder.output_upscaling
        x = F.linear(image_tokens, *self._first_step).unflatten(-1, (4, -1))
        x = activation(F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        x = last(F.linear(x, *self._second_step).unflatten(-1, (4, -1)))
        logits = x.flatten(1, -2) @ weights.transpose(1, 2)
        height, width = self._sam.prompt_encoder.image_embedding_size
        # (row, column, half row, half column, quarter row, quarter column): each stride of 2 splits a pixel in four.
        split = logits.view(len(x), height, width, 2, 2, 2, 2, -1)
        return split.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(len(x), -1, 4 * height, 4 * width)


def _as_linear(convolution: Any) -> _Linear:
    """A transposed convolution of kernel and stride 2 as weight (4 channels out, channels in) and bias, 2 x 2 row-major."""
    weight = convolution.weight.detach().permute(2, 3, 1, 0).flatten(0, 2).contiguous()
    return _Linear(weight, convolution.bias.detach().repeat(4))


def _attend_to_shared(attention: _CrossAttention, queries: Tensor, image: PreparedImage) -> Tensor:
    """Tokens (b, t, d) attend to image tokens that are the same for all prompts."""
    batch, count = queries.shape[:2]
    query = _project(queries.flatten(0, 1), attention.query)
    weights = (query @ image.first_keys.transpose(1, 2)).softmax(dim=-1)
    found = (weights @ image.first_values).transpose(0, 1).flatten(1)
    return (found @ attention.out.weight.flatten(0, 1) + attention.out.bias).unflatten(0, (batch, count))


def _attend_to_image(attention: _CrossAttention, queries: Tensor, placed: Tensor, values: Tensor) -> Tensor:
    """Tokens (b, t, d) attend to the image tokens (b, N, d) of their prompt; keys are not projected, queries are back."""
    query = _project(queries, attention.query) @ attention.key.weight
    weights = torch.bmm(query.flatten(1, 2), placed.transpose(1, 2)).softmax(dim=-1)
    mixed = torch.bmm(weights, values).unflatten(1, query.shape[1:3])
    found = mixed @ attention.value.weight.transpose(1, 2) + attention.value.bias.unsqueeze(1)
    return found.transpose(1, 2).flatten(2) @ attention.out.weight.flatten(0, 1) + attention.out.bias


def _attend_from_image(
    attention: _CrossAttention, placed: Tensor, keys: Tensor, values: Tensor, shared: Tensor | None
) -> Tensor:
    """Image tokens (b, N, d) attend to the tokens (b, t, d) of their prompt: what is added to them, (b, N, d).

    `shared` are the projected queries (h, N, e) where all prompts have the same image tokens.
    """
    key = _project(keys, attention.key)
    value = _project(values, attention.value) @ attention.out.weight
    if shared is not None:
        scores = key @ shared.transpose(1, 2)
    else:
        back = (key @ attention.query.weight).flatten(1, 2)
        bias = key @ attention.query.bias.unsqueeze(-1)
        scores = torch.bmm(back, placed.transpose(1, 2)).unflatten(1, key.shape[1:3]) + bias
    weights = scores.softmax(dim=2).flatten(1, 2)
    return torch.baddbmm(attention.out.bias, weights.transpose(1, 2), value.flatten(1, 2))
