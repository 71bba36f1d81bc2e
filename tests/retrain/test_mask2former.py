"""Mask2Former: the network against that of `transformers`, its training, its masks, tiny models throughout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from tests.retrain import helpers
from tests.retrain.helpers import CLASSES, HEIGHT, WIDTH, Killed, build, config, entries, saved
from weaksam_cli.core.masks import areas, decode, encode, tight_boxes
from weaksam_cli.detectron.training import SeededMapper
from weaksam_cli.engine.recipes import load_recipe
from weaksam_cli.errors import UserError
from weaksam_cli.retrain.detection import load_detector
from weaksam_cli.retrain.detector import make_optimizer
from weaksam_cli.retrain.mask2former import ModelSettings, Recipe
from weaksam_cli.retrain.mask2former.settings import Jitter
from weaksam_cli.retrain.mask2former.weights import load_initial
from weaksam_cli.retrain.region_losses import read_description
from weaksam_cli.retrain.torchscript import scripted_bytes
from weaksam_cli.retrain.whole_masks import STRIDE, drawn_at_size, with_drawn_masks
from weaksam_cli.training.checkpoint import model_bytes

transformers = pytest.importorskip("transformers")

LOSSES = {"loss_cross_entropy", "loss_mask", "loss_dice"}
SIZES = {
    "queries": 7, "channels": 32, "heads": 2, "pixel_layers": 1, "pixel_feedforward": 16, "decoder_layers": 3,
    "feedforward": 16, "points": 32,
}  # fmt: skip
VALUES: dict[str, Any] = {
    "network": "mask2former-lite0",
    "backbone": {"weights": "random", "freeze_at": 3},
    "segmenter": SIZES,
    "schedule": {
        "iterations": 4,
        "batch_size": 2,
        "optimizer": "adamw",
        "learning_rate": 0.001,
        "undecayed": ["norm", "embedding"],
        "gradient_clip": 0.01,
    },
    "train_images": {"jitter": {"side": 64, "least": 0.5, "most": 2.0}},
    "inference": {"short_side": 64, "max_size": 96, "score_threshold": 0.0, "nms": 1.0, "detections": 9},
}
R50 = VALUES | {"network": "mask2former-r50", "backbone": {"weights": "random", "freeze_at": 0}}


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate(VALUES | changes)


def settings_of(**changes: Any) -> ModelSettings:
    return recipe(**changes).part(ModelSettings)


def rectangle(left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


RUN_LENGTHS = encode(rectangle(15, 10, 55, 40)[None])[0]


def train(folder: Path, wanted: Recipe, kill_after: int | None = None) -> nn.Module:
    drawn = entries(segmentation={"size": [HEIGHT, WIDTH], "counts": RUN_LENGTHS})
    return helpers.train(folder, wanted, drawn, LOSSES, kill_after=kill_after)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return train(tmp_path_factory.mktemp("whole"), recipe())


@pytest.fixture(scope="module")
def model_file(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "model.safetensors", trained, settings_of())


# the network of transformers


def plain(class_count: int = len(CLASSES), **backbone: Any) -> Any:
    """Mask2Former of `transformers` on a ResNet-50, as large as `SIZES`, in evaluation mode."""
    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    network = transformers.Mask2FormerForUniversalSegmentation(
        transformers.Mask2FormerConfig(
            backbone_config=transformers.ResNetConfig(out_features=stages, **backbone),
            num_labels=class_count,
            num_queries=7,
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            num_attention_heads=2,
            encoder_layers=1,
            encoder_feedforward_dim=16,
            decoder_layers=4,
            dim_feedforward=16,
            train_num_points=32,
        )
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None and module.running_mean is not None
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return network.eval()


def stored(network: Any, path: Path) -> Path:
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Ours and that of `transformers` with equal weights."""
    theirs = plain()
    ours: Any = build_network(R50).eval()
    told = load_initial(ours, stored(theirs, tmp_path_factory.mktemp("weights") / "model.safetensors"))
    assert told.startswith("initial weights: 381 of 381 tensors") and ";" not in told
    return ours, theirs


def build_network(values: dict[str, Any]) -> nn.Module:
    from weaksam_cli.retrain.mask2former import register_network

    register_network()
    return build(Recipe.model_validate(values).part(ModelSettings))


def test_equal_weights_give_the_outputs_of_transformers(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = ours.backbone(pixels)
        classes, masks = ours.head([maps[name] for name in ours.maps])
        expected = theirs(pixels, output_auxiliary_logits=True)
    assert len(classes) == len(masks) == 4
    earlier = zip(classes, masks, expected.auxiliary_logits, strict=False)
    for logits, drawn, auxiliary in earlier:
        torch.testing.assert_close(logits, auxiliary["class_queries_logits"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(drawn, auxiliary["masks_queries_logits"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(classes[-1], expected.class_queries_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(masks[-1], expected.masks_queries_logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("counts", [(0, 0), (0, 1), (2, 6), (7, 9)])
def test_losses_are_those_of_transformers(both: tuple[Any, Any], counts: tuple[int, int]) -> None:
    """For images without objects, and with more than there are queries."""
    ours, theirs = both
    draw = torch.Generator().manual_seed(sum(counts))
    pixels = torch.randn(2, 3, 64, 96, generator=draw)
    labels = [torch.randint(0, len(CLASSES), (count,), generator=draw) for count in counts]
    drawn = [(torch.rand(count, 64, 96, generator=draw) > 0.5).float() for count in counts]
    with torch.no_grad():
        torch.manual_seed(3)
        expected = theirs(pixels, mask_labels=drawn, class_labels=labels).loss
        torch.manual_seed(3)
        maps = ours.backbone(pixels)
        found = ours.head.losses(*ours.head([maps[name] for name in ours.maps]), labels, drawn)
    assert set(found) == LOSSES
    torch.testing.assert_close(sum(found.values()), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
def test_every_trained_parameter_learns(count: int) -> None:
    from detectron2.structures import BitMasks, Instances

    network: Any = build_network(VALUES)
    instances = Instances((60, 70))
    instances.gt_classes = torch.arange(count) % len(CLASSES)
    if count:  # as of detectron2's mapper
        instances.gt_masks = BitMasks(torch.rand(count, 60, 70) > 0.5)
    losses = network([{"image": torch.zeros(3, 60, 70, dtype=torch.uint8), "instances": instances}])
    sum(losses.values()).backward()
    still = [name for name, item in network.named_parameters() if item.requires_grad and item.grad is None]
    assert not still
    frozen = [name for name, item in network.named_parameters() if not item.requires_grad]
    assert all(name.startswith("backbone.") for name in frozen)
    moved = {name for name, item in network.named_parameters() if item.grad is not None and item.grad.any()}
    assert ("head.transformer_module.decoder.mask_predictor.mask_embedder.0.0.weight" in moved) == (count > 0)


def test_rates_and_decay_are_the_published_ones() -> None:
    """The backbone learns a tenth as fast; weights of normalisation and of embeddings do not decay."""
    wanted = load_recipe("retrain", "mask2former-r50").recipe.part(ModelSettings)
    small = wanted.model_copy(update={"segmenter": settings_of().segmenter})
    network: Any = build_network(R50)
    groups = make_optimizer(network, small.schedule).param_groups
    names = {id(item): name for name, item in network.named_parameters()}
    found = {
        (group["lr"], group["weight_decay"]): {names[id(item)] for item in group["params"]}
        for group in groups
    }
    assert set(found) == {(1e-5, 0.05), (1e-4, 0.05), (1e-4, 0.0)}  # the backbone's normalisation is frozen
    assert all(name.startswith("backbone.") for name in found[1e-5, 0.05])
    plain_names = ("norm", "queries_embedder", "queries_features", "transformer_module.level_embed", ".1.")
    assert all(any(word in name for word in plain_names) for name in found[1e-4, 0.0])
    assert {"head.pixel_decoder.level_embed", "head.class_predictor.bias"} <= found[1e-4, 0.05]


# initial weights


def test_a_checkpoint_of_other_classes_leaves_the_classifier(tmp_path: Path) -> None:
    network = build_network(R50)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    told = load_initial(network, stored(plain(80), tmp_path / "model.safetensors"))
    assert (
        "379 of 381 tensors" in told
        and "2 belong to its classes and start anew: head.class_predictor" in told
    )
    same = {name for name, value in network.state_dict().items() if torch.equal(value, before[name])}
    assert {"head.class_predictor.weight", "head.class_predictor.bias"} <= same
    assert "head.transformer_module.queries_features.weight" not in same


def test_a_checkpoint_over_another_backbone_gives_its_decoders(tmp_path: Path) -> None:
    other = plain(hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1])
    told = load_initial(build_network(VALUES), stored(other, tmp_path / "model.safetensors"))
    assert "of another shape: head.pixel_decoder" in told
    assert "not in the file: backbone.stem" in told
    assert "of the file unknown here: backbone.stem.conv1" in told


def test_a_file_without_decoders_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"layer1.0.weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="none of its 1 tensors is one of this network's decoders"):
        load_initial(build_network(VALUES), path)


def test_without_transformers_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from weaksam_cli.retrain.mask2former import register_network

    monkeypatch.setattr("weaksam_cli.retrain.transformers_parts.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'weaksam-cli\[hf\]'"):
        register_network()


# training


def test_a_killed_training_ends_in_the_same_bytes(
    trained: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for kill_after in (1, 3):
        with pytest.raises(Killed):
            train(tmp_path, recipe(), kill_after)
    assert model_bytes(train(tmp_path, recipe()), {}) == model_bytes(trained, {})
    assert capfd.readouterr() == ("", "")


def test_images_without_objects_teach_that_there_is_nothing(tmp_path: Path) -> None:
    wanted = recipe(train_images=VALUES["train_images"] | {"keep_empty": True})
    train(tmp_path, wanted)


@pytest.mark.parametrize("shape", [(50, 70), (2, 900), (64, 64), (300, 40)])
def test_jitter_gives_squares_with_the_masks_of_the_objects(shape: tuple[int, int]) -> None:
    """The mask of an image that is bright in its left half, whatever scale, cut and flip are drawn."""
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = 255
    mask = {"size": [height, width], "counts": encode(image[None, :, :, 0] > 0)[0]}
    box = {"bbox": [0, 0, width // 2, height], "bbox_mode": 0, "category_id": 0, "segmentation": mask}
    size = {"height": height, "width": width}
    entry = {"key": "0", **size, "annotations": [{"iscrowd": 0, **box}]}
    wanted = settings_of(train_images={"jitter": {"side": 64, "least": 0.1, "most": 2.0}})
    cfg = config(wanted)
    mapper = SeededMapper(cfg, [entry], lambda _: image, 0, wanted.augmentations(cfg))
    for iteration in range(12):
        item = mapper.item(iteration, 0, 0)
        assert item["image"].shape == (3, 64, 64)
        if len(item["instances"]):
            (drawn,) = item["instances"].gt_masks.tensor
            bright = item["image"][0] > 200
            assert (drawn != bright).float().mean() < 0.05


# masks


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_masks_are_drawn_a_few_at_a_time(count: int, at_once: int) -> None:
    """As Mask2Former does it: four times larger, the padding cut off, then to the image's size."""
    logits = torch.randn(count, 8, 16, generator=torch.Generator().manual_seed(count))
    masks, certainty = drawn_at_size(logits, (30, 50), (45, 75), at_once * 45 * 75 + 1)
    grown = (
        nn.functional.interpolate(logits[None], scale_factor=STRIDE, mode="bilinear")
        if count
        else logits[None]
    )
    expected = (
        nn.functional.interpolate(grown[..., :30, :50], (45, 75), mode="bilinear")[0] if count else logits
    )
    assert len(masks) == count and certainty.shape == (count,)
    for index, mask in enumerate(decode(masks, 45, 75)):
        assert np.array_equal(mask, expected[index].numpy() > 0)
        share = expected[index].sigmoid()[torch.from_numpy(mask)].mean()
        assert float(certainty[index]) == pytest.approx(float(share), abs=1e-5)


def test_scores_boxes_and_what_is_left_out() -> None:
    """An empty mask goes, and one whose box another of the class covers; a score is class times mask."""
    from detectron2.structures import Instances

    logits = torch.full((4, 16, 16), -4.0)
    logits[0, 2:6, 4:12] = logits[1, 2:6, 4:12] = logits[2, 2:6, 4:12] = 4.0
    given = Instances((64, 64))
    given.mask_logits, given.scores = logits, torch.tensor([0.5, 0.9, 0.8, 0.7])
    given.pred_classes = torch.tensor([0, 1, 0, 1])
    found = with_drawn_masks(given, (64, 64), 10**6, 0.0, 0.7)
    assert found.pred_classes.tolist() == [1, 0]
    assert found.pred_boxes.tensor.tolist() == [[16, 8, 48, 24]] * 2
    assert found.scores.tolist() == pytest.approx([0.9 * 0.95, 0.8 * 0.95], abs=0.03)
    assert len(with_drawn_masks(given, (64, 64), 10**6, 0.0, 1.0)) == 3
    assert len(with_drawn_masks(given, (64, 64), 10**6, 0.8, 1.0)) == 1


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (1, 1), (3, 500)])
def test_predictions_of_images_of_all_shapes(model_file: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found = load_detector(model_file, recipe().inference, CLASSES, "cpu")(pixels)
    assert found.masks is not None and len(found.masks) == len(found) <= 9
    assert (areas(found.masks, *size) > 0).all()
    np.testing.assert_allclose(found.boxes, tight_boxes(found.masks, *size))
    assert (np.diff(found.scores) <= 0).all() and ((found.scores > 0) & (found.scores < 1)).all()
    assert set(found.class_index.tolist()) <= {0, 1}


def test_training_goes_on_after_a_prediction_of_the_same_size(model_file: Path, tmp_path: Path) -> None:
    """`transformers` keeps the positions of the last size, which no gradient may need."""
    load_detector(model_file, recipe().inference, CLASSES, "cpu")(np.zeros((64, 64, 3), np.uint8))
    train(tmp_path, recipe())


def test_what_it_cannot_do_is_refused(model_file: Path) -> None:
    with pytest.raises(UserError, match="is a detector of mask2former, whose layers fix the size") as told:
        scripted_bytes(model_file, recipe().inference, CLASSES)
    assert "weaksam predict" in str(told.value)
    with pytest.raises(UserError, match="is a detector of mask2former, which has no regions of interest"):
        read_description(model_file)


def test_a_file_with_foreign_settings_is_refused(trained: nn.Module, tmp_path: Path) -> None:
    from weaksam_cli.retrain.detector import stored_config

    stranger = stored_config(config(settings_of()))
    stranger["MODEL"]["METHOD"]["SETTINGS"]["queries"] = 10**9
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes(trained, {"class_names": CLASSES, "detectron2": stranger}))
    with pytest.raises(UserError, match="none of this version's mask2former"):
        load_detector(path, recipe().inference, CLASSES, "cpu")


# recipes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segmenter": {"channels": 48}}, "multiple of 32"),
        ({"segmenter": {"channels": 32, "heads": 3}}, r"heads: expected a divisor of channels \(32\), got 3"),
        (
            {"train_images": {"jitter": {"least": 2, "most": 1}}},
            r"least: expected at most 1.0 \(most\), got 2.0",
        ),
        ({"train_images": {"short_sides": [64]}}, "Extra inputs"),
        ({"network": "lite0-fpn"}, "takes faster_rcnn, mask_rcnn only, got mask2former"),
        ({"network": "mask2former-r50", "roi_drop": {}}, "Extra inputs"),
        (
            {"inference": VALUES["inference"] | {"augment": True}},
            "looks at an image once, expected false, got true",
        ),
        ({"initial_weights": ""}, "at least 1 character"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**changes)


@pytest.mark.parametrize(
    ("name", "iterations", "milestones"),
    [
        ("mask2former-r50", 33069, (29395, 31844)),
        ("mask2former-r50-coco17", 368750, (327778, 355092)),
    ],
)
def test_published_recipes(name: str, iterations: int, milestones: tuple[int, int]) -> None:
    wanted = load_recipe("retrain", name).recipe.part(ModelSettings)
    schedule, segmenter = wanted.schedule, wanted.segmenter
    assert (schedule.steps, schedule.milestones) == (iterations, milestones)
    assert (schedule.batch_size, schedule.learning_rate, schedule.weight_decay) == (16, 1e-4, 0.05)
    assert (schedule.backbone_factor, schedule.gradient_clip, schedule.mixed_precision) == (0.1, 0.01, True)
    assert (schedule.warmup_iterations, schedule.warmup_factor) == (10, 1.0)
    assert (segmenter.queries, segmenter.decoder_layers, segmenter.pixel_layers, segmenter.points) == (
        100,
        9,
        6,
        12544,
    )
    assert wanted.train_images.jitter == Jitter(side=1024, least=0.1, most=2.0) and wanted.train_images.flip


def test_r50_is_as_large_as_transformers_own() -> None:
    """The paper's 44 million parameters, from the published recipe's numbers."""
    wanted = load_recipe("retrain", "mask2former-r50").recipe.part(ModelSettings)
    from weaksam_cli.retrain.mask2former.network import transformers_config

    ours, theirs = transformers_config(wanted.segmenter, 80), transformers.Mask2FormerConfig(num_labels=80)
    assert ours.to_dict() == theirs.to_dict()
