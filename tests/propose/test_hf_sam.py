"""Networks of `transformers` as segmenters: small ones with random weights, saved to folders and loaded from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from weaksam_cli.core import masks as rle
from weaksam_cli.errors import UserError
from weaksam_cli.propose.hf_sam import Recipe, build
from weaksam_cli.propose.hf_sam.segmenter import HfSegmenter, load_network
from weaksam_cli.propose.prompting import Segmenter

transformers = pytest.importorskip("transformers")
SIDE = 64
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


def _vit(config: type, model: type) -> Any:
    """SAM and SAM-HQ: patches of 16 pixels, images padded to a square."""
    vision: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 16,
        "output_channels": 32, "global_attn_indexes": [1], "window_size": 2, "num_pos_feats": 16, "mlp_dim": 32,
    }  # fmt: skip
    prompt = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "image_embedding_size": SIDE // 16}
    decoder: dict[str, Any] = {
        "hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32, "vit_dim": 32,
    }  # fmt: skip
    return model(
        config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder),
    )


def _sam() -> tuple[Any, Any]:
    return _vit(transformers.SamConfig, transformers.SamModel), _padding_processor()


def _sam_hq() -> tuple[Any, Any]:
    return _vit(transformers.SamHQConfig, transformers.SamHQModel), _padding_processor()


def _padding_processor() -> Any:
    square = {"height": SIDE, "width": SIDE}
    return transformers.SamImageProcessor(size={"longest_edge": SIDE}, pad_size=square)


def _sam2() -> tuple[Any, Any]:
    backbone = {
        "hidden_size": 8, "image_size": [SIDE, SIDE], "blocks_per_stage": [1, 1, 2, 1], "num_attention_heads": 1,
        "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 2], "global_attention_blocks": [3], "model_type": "sam2_hiera_det_model",
        "window_positional_embedding_background_size": [2, 2],
    }  # fmt: skip
    vision = {
        "backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2],
    }  # fmt: skip
    config = transformers.Sam2Config(vision_config=vision, **_second_half(16))
    square = {"height": SIDE, "width": SIDE}
    return transformers.Sam2Model(config), transformers.Sam2ImageProcessor(size=square)


def _sam3() -> tuple[Any, Any]:
    side = 56  # patches of 14 pixels
    backbone = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": side, "patch_size": 14, "window_size": 2, "global_attn_indexes": [1],
        "pretrain_image_size": side, "model_type": "sam3_vit_model",
    }  # fmt: skip
    sizes = [[side // 14 * factor] * 2 for factor in (4, 2, 1)]
    vision = {"backbone_config": backbone, "fpn_hidden_size": 32, "backbone_feature_sizes": sizes}
    config = transformers.Sam3TrackerConfig(vision_config=vision, **_second_half(14, side))
    return transformers.Sam3TrackerModel(config), transformers.Sam3ImageProcessor(
        size={"height": side, "width": side}
    )


def _second_half(patch: int, side: int = SIDE) -> dict[str, Any]:
    return {
        "prompt_encoder_config": {"hidden_size": 32, "image_size": side, "patch_size": patch},
        "mask_decoder_config": {
            "hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32,
        },
    }  # fmt: skip


NETWORKS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "sam": _sam,
    "sam-hq": _sam_hq,
    "sam2": _sam2,
    "sam3": _sam3,
}


@pytest.fixture(scope="module", params=list(NETWORKS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `save_pretrained` writes it."""
    torch.manual_seed(0)
    model, processor = NETWORKS[request.param]()
    path: Path = tmp_path_factory.mktemp(request.param)
    # Published weights are spread; the configurations' own start is too small for masks to differ.
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "positional_embedding" not in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture
def segmenter(folder: Path) -> HfSegmenter:
    return HfSegmenter(*load_network(folder))


def _points(count: int, each: int = 1) -> tuple[Any, Any]:
    xy = np.random.default_rng(1).uniform((0, 0), (56, 40), (count, each, 2)).astype(np.float32)
    return xy, np.ones((count, each), np.int8)


def test_it_is_a_segmenter_and_encodes_an_image_once(
    segmenter: HfSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Mock(wraps=segmenter._encode)
    monkeypatch.setattr(segmenter, "_encode", encode)
    assert isinstance(segmenter, Segmenter)
    segmenter.set_image(IMAGE)
    for count in (0, 1, 2, 6, 7):
        found = segmenter.prompt_points(*_points(count), masks=True)
        assert found.boxes.shape == (count, 3, 4)
        assert found.counts is not None and len(found.counts) == count
    assert segmenter.prompt_boxes(np.asarray([[3, 4, 30, 31]], np.float32)).area.shape == (1, 3)
    assert encode.call_count == 1


def test_masks_and_boxes_are_those_of_the_processors_own_post_processing(folder: Path) -> None:
    model, processor = load_network(folder)
    segmenter = HfSegmenter(model, processor)
    segmenter.set_image(IMAGE)
    xy, labels = _points(5, 2)
    found = segmenter.prompt_points(xy, labels, masks=True)
    batch = processor(images=IMAGE, return_tensors="pt")
    kept = batch.get("reshaped_input_sizes", [batch["pixel_values"].shape[-2:]])[0]
    scale = torch.tensor([int(kept[1]) / 56, int(kept[0]) / 40])
    with torch.inference_mode():
        answer = model(
            pixel_values=batch["pixel_values"],
            input_points=torch.from_numpy(xy)[None] * scale,
            input_labels=torch.from_numpy(labels.astype(np.int32))[None],
            multimask_output=True,
        )
    sizes = [[40, 56]]
    reshaped = [[[int(side) for side in kept]]] if "reshaped_input_sizes" in batch else []
    expected = processor.post_process_masks(answer.pred_masks, sizes, *(item for item in reshaped))[0]
    np.testing.assert_allclose(found.predicted_iou, answer.iou_scores[0], atol=1e-5)
    assert found.counts is not None
    for index, three in enumerate(found.counts):
        mine = rle.decode(three, 40, 56)
        differing = (mine != expected[index].numpy().astype(bool)).mean()
        assert differing < 0.002  # logits of about 0 fall to either side by rounding


def test_prompts_of_unequal_length_are_answered_as_alone(segmenter: HfSegmenter) -> None:
    segmenter.set_image(IMAGE)
    xy, labels = _points(3, 2)
    labels[1, 1] = -1
    together = segmenter.prompt_points(xy, labels)
    alone = segmenter.prompt_points(xy[1:2, :1], labels[1:2, :1])
    np.testing.assert_allclose(together.predicted_iou[1], alone.predicted_iou[0], atol=1e-5)
    np.testing.assert_array_equal(together.boxes[1], alone.boxes[0])


def test_without_the_first_mask_the_others_stay_and_a_box_gives_one(segmenter: HfSegmenter) -> None:
    segmenter.set_image(IMAGE)
    every = segmenter.prompt_points(*_points(4))
    later = segmenter.prompt_points(*_points(4), first_mask=False)
    np.testing.assert_array_equal(every.boxes[:, 1:], later.boxes[:, 1:])
    assert not later.area[:, 0].any()
    boxes = np.asarray([[3, 4, 30, 31], [0, 0, 56, 40]], np.float32)
    one = segmenter.prompt_boxes(boxes, masks=True, multimask=False)
    assert one.area.shape == (2, 1) and one.counts is not None
    np.testing.assert_array_equal(
        rle.areas([item[0] for item in one.counts], *IMAGE.shape[:2]), one.area[:, 0]
    )


def test_proposals_are_made_as_those_of_sam(folder: Path) -> None:
    recipe = Recipe(weights="any", points_per_side=4, predicted_iou=0, stability=0, nms=0.9, masks=True)
    propose = build(recipe, folder / "model.safetensors", "cpu")
    found = propose(IMAGE, {})
    again = propose(IMAGE, {})
    np.testing.assert_array_equal(found.boxes, again.boxes)
    assert found.counts is not None and len(found.counts) == len(found)
    np.testing.assert_array_equal(rle.tight_boxes(found.counts, 40, 56), found.boxes)


def test_a_folder_that_does_not_fit_is_told_in_words(folder: Path, tmp_path: Path) -> None:
    def changed(name: str) -> Path:
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        return copy

    cut = changed("cut")
    (cut / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    bare = changed("bare")
    (bare / "config.json").unlink()
    other = changed("other")
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    empty = changed("empty")
    (empty / "model.safetensors").unlink()
    for place in (cut, bare, other, empty):
        with pytest.raises(UserError, match=f"{place.name}.*hf download"):
            load_network(place)


def test_missing_tensors_are_not_replaced_by_random_ones(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    state = load_file(copy / "model.safetensors")
    gone = next(name for name in state if "mask_decoder" in name)
    del state[gone]
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 tensors are missing"):
        load_network(copy)
