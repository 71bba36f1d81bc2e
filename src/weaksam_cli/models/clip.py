"""CLIP with a vision transformer: its official file as a network of `open_clip`, and what that makes of texts and images.

Read are unit vectors of words, and of images patch tokens, attention, and the last block with gradients. The blocks are
`open_clip`'s; walking over them takes the place of its `forward`, which gives no attention and has the class token alone
pooled. Numbers and order: spec 01 §c.1, §c.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from weaksam_cli.errors import UserError
from weaksam_cli.models.checkpoints import filled, read_checkpoint

_TEXTS_AT_ONCE: Final = 64
_HEAD_WIDTH: Final = 64
"""Of every published CLIP transformer; the file does not say how many heads there are."""
_REMEDY: Final = (
    "Use ViT-B-16.pt as OpenAI publishes it (`weaksam weights`), or a state dict with its key names"
)


def load_clip(checkpoint: Path, *, device: torch.device | str = "cpu") -> Any:
    """The network, frozen, in evaluation mode, in float32.

    Args:
        checkpoint: the official TorchScript archive, or a plain state dict or safetensors file with its key names.
        device: where it shall live.

    Returns:
        An `open_clip.CLIP` with QuickGELU. Its size is read from the shapes, as the official loader does.

    Raises:
        UserError: a missing, damaged or foreign file.
    """
    state = read_checkpoint(checkpoint, remedy=_REMEDY).tensors
    network = build_clip(state, where=str(checkpoint))
    return network.to(device=device)


def build_clip(state: Mapping[str, Tensor], *, where: str) -> Any:
    """The network that the tensors are of, with them in it; see `load_clip`.

    Raises:
        UserError: tensors are missing, or their shapes do not belong together.
    """
    from open_clip import CLIP

    try:
        sizes = _sizes(state)
    except (KeyError, IndexError, ValueError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"not a CLIP with a vision transformer: {reason}", where=where, remedy=_REMEDY
        ) from error
    # Without memory of its own, the network costs no random initialisation.
    with torch.device("meta"):
        network = CLIP(**sizes, quick_gelu=True)
    # A TorchScript archive does not tell weights from other tensors (masks).
    filled(network, state, where=where, remedy=_REMEDY, more_allowed=True)
    # The mask is no part of the state dict, so it has to be made where the network got its memory.
    length = network.context_length
    network.attn_mask = torch.full((length, length), float("-inf")).triu_(1)
    return network


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    patches = state["visual.conv1.weight"]
    width, text_width = patches.shape[0], state["ln_final.weight"].shape[0]
    layers, text_layers = _count_blocks(state, "visual.transformer."), _count_blocks(state, "transformer.")
    if width % _HEAD_WIDTH or text_width % _HEAD_WIDTH or not layers or not text_layers:
        raise ValueError(
            f"expected widths in multiples of {_HEAD_WIDTH} and at least one block, "
            f"got {width} and {text_width}, {layers} and {text_layers}"
        )
    grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    return {
        "embed_dim": state["text_projection"].shape[1],
        "vision_cfg": CLIPVisionCfg(
            layers=layers,
            width=width,
            head_width=_HEAD_WIDTH,
            patch_size=patches.shape[-1],
            image_size=grid * patches.shape[-1],
        ),
        "text_cfg": CLIPTextCfg(
            context_length=state["positional_embedding"].shape[0],
            vocab_size=state["token_embedding.weight"].shape[0],
            width=text_width,
            heads=text_width // _HEAD_WIDTH,
            layers=text_layers,
        ),
    }


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return sum(key.startswith(prefix) and key.endswith(".attn.in_proj_weight") for key in state)


@torch.no_grad()
def embed_words(network: Any, words: Sequence[str], templates: Sequence[str]) -> Tensor:
    """One embedding for each of n words (spec 01 §c.1).

    Args:
        network: CLIP, see `load_clip`.
        words: n texts: class or background names.
        templates: at least one, each with one `{}`.

    Returns:
        float32 (n, embed), unit vectors: the embedding of each filled template is normalised, their mean as well.

    Raises:
        UserError: a text is longer than the network reads, or the network has another vocabulary.
    """
    texts = [template.replace("{}", word) for word in words for template in templates]
    tokens = tokenise(texts, context_length=network.context_length, vocabulary=network.vocab_size)
    tokens = tokens.to(network.positional_embedding.device)
    encoded = torch.cat(
        [F.normalize(network.encode_text(batch), dim=-1) for batch in tokens.split(_TEXTS_AT_ONCE)]
    )
    return F.normalize(encoded.reshape(len(words), len(templates), -1).mean(dim=1), dim=-1)


def tokenise(texts: Sequence[str], *, context_length: int, vocabulary: int) -> Tensor:
    """int64 (n, context_length): start, byte pairs, end, zeros.

    Raises:
        UserError: a text is longer than the network reads (the library would cut it), or the vocabulary is another.
    """
    from open_clip import SimpleTokenizer

    tokenizer = SimpleTokenizer(context_length=context_length)
    if vocabulary != tokenizer.vocab_size:
        raise UserError(
            f"the network has {vocabulary} tokens, CLIP's vocabulary {tokenizer.vocab_size}",
            where="weights",
            remedy="Use a checkpoint that was trained with CLIP's own vocabulary",
        )
    for text in texts:
        length = len(tokenizer.encode(text)) + 2
        if length > context_length:
            raise UserError(
                f"{text!r} has {length} tokens, the network reads {context_length}",
                where="class names and templates",
                remedy="Say it shorter: --set 'class_prompts={NAME: WORDS}'",
            )
    tokens: Tensor = tokenizer(list(texts))
    return tokens


@dataclass(frozen=True)
class Trunk:
    """An image before the last block.

    Attributes:
        tokens: float32 (1, 1 + h * w, width): class token, patch tokens row-major.
        attention: float32 (h * w, h * w), head-averaged patch-to-patch attention summed over the last blocks but one;
            rows are queries.
        size: (h, w).
    """

    tokens: Tensor
    attention: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class LastBlock:
    """What the last block makes of a trunk.

    Attributes:
        normed: float32 (1, 1 + h * w, width), what its `ln_1` gives: the leaf that gradients are taken for. The residual
            path does not pass through it.
        class_feature, patch_feature: float32 (embed,), unit vectors: of the class token, and of the mean of the patch
            tokens.
        attention: float32 (h * w, h * w), without a gradient.
    """

    normed: Tensor
    class_feature: Tensor
    patch_feature: Tensor
    attention: Tensor


def interpolate_positions(positions: Tensor, height: int, width: int, *, half: bool) -> Tensor:
    """Position embeddings for another grid of patches.

    Args:
        positions: float32 (1 + g * g, d), the class token's first.
        height, width: the grid wanted.
        half: round the result to float16, as the published code does even on a CPU.

    Returns:
        float32 (1 + height * width, d); the patch part is resized bilinearly, half-pixel centres.
    """
    resized: Tensor = resample_abs_pos_embed(
        positions[None], [height, width], num_prefix_tokens=1, interpolation="bilinear", antialias=False
    )[0]
    return resized.to(torch.float16).to(positions.dtype) if half else resized


@torch.no_grad()
def run_trunk(visual: Any, pixels: Tensor, *, attention_blocks: int, half_positions: bool) -> Trunk:
    """All blocks but the last.

    Args:
        visual: the vision transformer of `open_clip`.
        pixels: float32 (1, 3, H, W), normalised; H and W are multiples of the patch.
        attention_blocks: the attention of how many blocks is wanted, counted from the end, the last block among them.
        half_positions: see `interpolate_positions`.
    """
    blocks = visual.transformer.resblocks
    patches = visual.conv1(pixels)
    height, width = patches.shape[-2:]
    tokens = torch.cat([visual.class_embedding[None, None], patches.flatten(2).permute(0, 2, 1)], dim=1)
    positions = interpolate_positions(visual.positional_embedding, height, width, half=half_positions)
    tokens = visual.ln_pre(tokens + positions)
    total = tokens.new_zeros((height * width, height * width))
    for index, block in enumerate(blocks[:-1]):
        wanted = index >= len(blocks) - attention_blocks
        tokens, attention = _finish(block, tokens, block.ln_1(tokens), need_attention=wanted)
        if attention is not None:
            total += attention
    return Trunk(tokens, total, (height, width))


def run_last_block(visual: Any, trunk: Trunk) -> LastBlock:
    """The last block and what texts are compared with, with the graph from `normed` to both features."""
    block = visual.transformer.resblocks[-1]
    with torch.enable_grad():
        normed = block.ln_1(trunk.tokens).detach().requires_grad_()
        tokens, attention = _finish(block, trunk.tokens, normed, need_attention=True)
        tokens = visual.ln_post(tokens)[0]
        projected = torch.stack([tokens[0], tokens[1:].mean(dim=0)]) @ visual.proj
        class_feature, patch_feature = F.normalize(projected, dim=-1)
    assert attention is not None  # it was asked for
    return LastBlock(normed, class_feature, patch_feature, attention.detach())


def _finish(
    block: Any, tokens: Tensor, normed: Tensor, *, need_attention: bool
) -> tuple[Tensor, Tensor | None]:
    """A block from behind its first layer norm, and the patch-to-patch part of its head-averaged attention."""
    attended, attention = block.attn(normed, normed, normed, need_weights=need_attention)
    tokens = tokens + attended
    tokens = tokens + block.mlp(block.ln_2(tokens))
    return tokens, None if attention is None else attention[0, 1:, 1:]
