"""A detector of detectron2: built from the settings, trained on pseudo ground truth, written to a file and read again.

detectron2 is imported by functions, after `weaksam_cli.detectron` has mended what it does not know of today's libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml
from torch import nn

from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.core import boxes as box_math
from weaksam_cli.core import masks as mask_codec
from weaksam_cli.core.types import Detections
from weaksam_cli.data.detections import read_detections
from weaksam_cli.data.labels import Labels, Split
from weaksam_cli.detectron.backbones import add_backbone_config
from weaksam_cli.detectron.compat import base_config
from weaksam_cli.detectron.training import ImageReader, SeededMapper, step_in_event_storage
from weaksam_cli.engine.context import Job
from weaksam_cli.engine.methods import load_method
from weaksam_cli.errors import UserError
from weaksam_cli.retrain.heads import add_roi_heads_config
from weaksam_cli.retrain.schedule import Schedule
from weaksam_cli.retrain.settings import DetectorSettings, Inference, TrainImages, keys_of, read_network
from weaksam_cli.training.batches import EpochSampler, sampled
from weaksam_cli.training.checkpoint import expect_classes, load_model, model_bytes, read_metadata
from weaksam_cli.training.loop import LearningRateSchedule, Training, TrainingRun, train, training_run

_NORMS: Final = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def detectron_config(
    settings: DetectorSettings, class_count: int, device: str, weights: Path | None = None
) -> Any:
    """detectron2's configuration of a network for `class_count` classes: its defaults, or a base of its model zoo, and what
    differs. `MODEL.ROI_HEADS.NUM_CLASSES` counts the classes of every network, with RoI heads or without.

    Args:
        settings: the network, and what the recipe says of it.
        class_count: number of classes.
        device: where the model is built.
        weights: the file that `settings.backbone.weights` names, where it is one.
    """
    from detectron2.config import CfgNode

    network = read_network(settings.network)
    cfg = _empty_config()
    if "base" in network:
        cfg.merge_from_file(str(base_config(network["base"])))
    cfg.merge_from_other_cfg(CfgNode(network["detectron2"]))
    _merge(cfg, settings.detectron_keys())
    settings.configure(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = class_count
    cfg.MODEL.DEVICE = device
    if weights is not None:
        cfg.MODEL.BACKBONE.WEIGHTS = str(weights)
    return cfg


def _empty_config() -> Any:
    from detectron2.config import CfgNode, get_cfg

    cfg = get_cfg()
    add_backbone_config(cfg)
    add_roi_heads_config(cfg)
    # A method with a network of its own: its module has `register_network`, which registers the META_ARCHITECTURE; what
    # that reads stands in SETTINGS.
    cfg.MODEL.METHOD = CfgNode({"NAME": ""})
    cfg.MODEL.METHOD.SETTINGS = CfgNode(new_allowed=True)  # a node inside a dictionary would lose this
    return cfg


def _merge(cfg: Any, keys: Mapping[str, Any]) -> None:
    cfg.merge_from_list([item for pair in keys.items() for item in pair])


def build_network(cfg: Any) -> nn.Module:
    """The network of a configuration, in the memory format that convolutions on a CPU are fastest with."""
    from detectron2.modeling import build_model

    if cfg.MODEL.METHOD.NAME:
        load_method("retrain", cfg.MODEL.METHOD.NAME, where="MODEL.METHOD.NAME").register_network()
    model: nn.Module = build_model(cfg)
    return model.to(memory_format=torch.channels_last)


def stored_config(cfg: Any) -> dict[str, Any]:
    """The configuration as a model file carries it, plain values, the same wherever the model was trained."""
    neutral = cfg.clone()
    neutral.MODEL.DEVICE = "cpu"
    neutral.MODEL.BACKBONE.WEIGHTS = "random"  # the trained ones are loaded over whatever it would start from
    values: dict[str, Any] = yaml.safe_load(neutral.dump())
    return values


def training_entries(
    labels: Labels, found: Mapping[str, Detections], images: TrainImages
) -> list[dict[str, Any]]:
    """detectron2's dataset dicts, in the order of the labels, with an image's `key` in place of a file name.

    Args:
        labels: of the training split; a class is its place in `class_names`.
        found: key -> pseudo boxes, which are cut to the image, with their masks where there are some; objects whose box or
            mask has no area are left out.
        images: which images and boxes are left out.

    Raises:
        UserError: no image has a pseudo box.
    """
    entries = []
    for image in labels.file.images:
        annotations = _annotations(found[image.key], image.height, image.width, images.min_box)
        large = min(image.height, image.width) >= images.min_size
        if large and (annotations or images.keep_empty):
            size = {"height": image.height, "width": image.width}
            entries.append({"key": image.key, "image_id": image.id, **size, "annotations": annotations})
    if not any(entry["annotations"] for entry in entries):
        raise UserError(
            "no image has a pseudo box",
            where="pseudo ground truth",
            remedy="Lower the thresholds of `weaksam pgt` or look at the detections of `weaksam wsod`",
        )
    return entries


def _annotations(found: Detections, height: int, width: int, least: int) -> list[dict[str, Any]]:
    boxes = box_math.clip(found.boxes, height, width)
    has_area, drawn = box_math.area(boxes) > 0, found.masks
    has_area &= (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= least
    if drawn is not None:
        has_area &= mask_codec.areas(drawn, height, width) > 0
    annotations = []
    for index in has_area.nonzero()[0].tolist():
        # bbox_mode 0 is detectron2's XYXY_ABS
        item = {"bbox": boxes[index].tolist(), "bbox_mode": 0, "iscrowd": 0}
        item["category_id"] = int(found.class_index[index])
        if drawn is not None:
            item["segmentation"] = {"size": [height, width], "counts": drawn[index]}
        annotations.append(item)
    return annotations


def expect_masks(found: Mapping[str, Detections], path: Path) -> None:
    """Refuse pseudo ground truth, read from `path`, some of whose boxes have no masks.

    Raises:
        UserError: it names an image.
    """
    shown = [key for key, item in found.items() if len(item)]
    without = [key for key in shown if found[key].masks is None]
    if without:
        what = f"{len(without)} of {len(shown)} images have pseudo boxes without masks, as {without[0]!r}"
        remedy = "Make them: weaksam pgt --masks; or train on boxes alone: a recipe of Faster R-CNN"
        raise UserError(what, where=str(path), remedy=remedy)


def fit_detector(
    settings: DetectorSettings,
    pgt: Path,
    split: Split,
    weights: Path | None,
    job: Job,
    *,
    initial: Path | None = None,
) -> Outcome:
    """Train, going on from the checkpoint where there is one, and write the model as safetensors.

    Args:
        settings: the detector and its training.
        pgt: pseudo ground truth of the split.
        split: the training images.
        weights: the file that `settings.backbone.weights` names, where it is one.
        job: what is written, and where.
        initial: the file of `settings.initial_file`, where there is one.

    Raises:
        UserError: damaged or foreign pseudo ground truth, or one without the masks that are learnt; what `fit` raises.
    """
    labels = split.read()
    images = labels.by_key()
    found = read_detections(pgt, labels, masks=settings.learns_masks)
    if settings.learns_masks:
        expect_masks(found, pgt)
    entries = training_entries(labels, found, settings.train_images)
    settings = settings.resolved(len(entries))
    words = settings.in_words(len(entries))
    job.context.console.info(f"training: {words}", schedule=settings.schedule.model_dump())
    with training_run(job, settings.schedule.steps) as run:
        cfg = detectron_config(settings, len(labels.class_names), run.device, weights)
        metadata = {
            "class_names": labels.class_names,
            "detectron2": stored_config(cfg),
            "schedule": settings.schedule.model_dump(mode="json"),
        }
        told = replace(run, metadata=metadata)

        def start(network: nn.Module) -> None:
            if initial is not None:
                job.context.console.info(settings.load_initial(network, initial))

        model = fit(settings, cfg, entries, lambda key: labels.read_image(images[key]), told, start=start)
    job.context.ops.write_atomically(job.path, model_bytes(model, metadata))
    return Outcome(len(entries), ())


def fit(
    settings: DetectorSettings,
    cfg: Any,
    entries: Sequence[Mapping[str, Any]],
    read_image: ImageReader,
    run: TrainingRun,
    *,
    start: Callable[[nn.Module], None] = lambda _: None,
) -> nn.Module:
    """Build and train the detector, going on from its checkpoint where there is one.

    Args:
        settings: with a schedule in iterations.
        cfg: of `detectron_config`.
        entries: images with pseudo boxes, see `training_entries`.
        read_image: an image by its key.
        run: where, and from which seed: it decides the initial weights, the order of the images, the augmentation and the
            sampling.
        start: puts more into the new network than its backbone's weights.

    Raises:
        UserError: a weights file is missing, damaged or of another network; what `train` raises.
    """
    torch.manual_seed(run.seed)
    model = build_network(cfg)
    start(model)
    schedule = settings.schedule
    sampler = EpochSampler(len(entries), schedule.batch_size, run.seed)
    mapper = SeededMapper(cfg, entries, read_image, run.seed, settings.augmentations(cfg))
    train(
        Training(
            model,
            make_optimizer(model, schedule),
            run,
            gradient_clip=schedule.gradient_clip,
            mixed_precision=schedule.mixed_precision,
            images_at_once=schedule.images_at_once,
        ),
        sampled(sampler, mapper.item, run.workers, run.processes),
        LearningRateSchedule(
            iterations=schedule.steps,
            milestones=schedule.milestones,
            gamma=schedule.gamma,
            warmup_iterations=schedule.warmup_iterations,
            warmup_factor=schedule.warmup_factor,
            cosine=schedule.decay == "cosine",
        ),
        step=step_in_event_storage,
    )
    return model


def make_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """The recipe's optimiser over the layers that are not frozen."""
    pyramid: Any = model.backbone
    bottom_up = getattr(pyramid, "bottom_up", pyramid)
    backbone = {id(parameter) for parameter in bottom_up.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            factor = schedule.backbone_factor if id(parameter) in backbone else 1.0
            decay = 0.0 if kinds_of(module, name) & {*schedule.without_decay} else schedule.weight_decay
            groups.setdefault((schedule.learning_rate * factor, decay), []).append(parameter)
    settings = [
        {"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()
    ]
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(settings, lr=schedule.learning_rate)
    return torch.optim.SGD(settings, lr=schedule.learning_rate, momentum=schedule.momentum)


def kinds_of(module: nn.Module, name: str) -> set[str]:
    """What a parameter is in the words of `Schedule.undecayed`: `norm` or `embedding` by its module, `bias` by its name."""
    kinds = {"bias"} if name == "bias" else set()
    if isinstance(module, _NORMS):
        kinds.add("norm")
    if isinstance(module, nn.Embedding):
        kinds.add("embedding")
    return kinds


def trained_inference(path: Path) -> Inference:
    """How images are looked at where nothing but the model's file says it: at the largest size of its training.

    Raises:
        UserError: the file is missing, damaged, or no detector of `weaksam retrain`.
    """
    images = _trained_config(path, None).INPUT
    return Inference(short_side=max(images.MIN_SIZE_TRAIN), max_size=images.MAX_SIZE_TRAIN)


def _trained_config(path: Path, class_names: Sequence[str] | None) -> Any:
    """The configuration that a model file carries; `class_names` are expected of it, None for any.

    Raises:
        UserError: the file is missing, damaged, no detector of `weaksam retrain`, or for other classes.
    """
    return config_of(read_metadata(path), path, class_names)


def config_of(metadata: Mapping[str, Any], path: Path, class_names: Sequence[str] | None) -> Any:
    """The configuration in the metadata of a trained detector, which were read from `path`; see `_trained_config`."""
    from detectron2.config import CfgNode

    cfg = _empty_config()
    names, remedy = metadata.get("class_names"), "Train it again"
    if not isinstance(metadata.get("detectron2"), dict) or not isinstance(names, list):
        raise UserError("is no detector of `weaksam retrain`", where=str(path), remedy=remedy)
    if class_names is not None:
        expect_classes(names, class_names, path)
    try:
        cfg.merge_from_other_cfg(CfgNode(metadata["detectron2"]))
    except Exception as error:  # detectron2 raises all kinds for keys and values that it does not know
        what = (
            f"its configuration is none of this version of detectron2 ({' '.join(str(error).split())[:200]})"
        )
        raise UserError(what, where=str(path), remedy=remedy) from error
    if len(names) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        what = f"it names {len(names)} classes and has {cfg.MODEL.ROI_HEADS.NUM_CLASSES}"
        raise UserError(what, where=str(path), remedy=remedy)
    cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.WEIGHTS = (
        "",
        "random",
    )  # whatever the file says, it is the only one read
    return cfg


def load_network(
    path: Path, inference: Inference, class_names: Sequence[str], device: str
) -> tuple[nn.Module, Any]:
    """detectron2's model of a trained detector in evaluation mode, and its configuration.

    Raises:
        UserError: the file is missing, damaged, or of a model for other classes.
    """
    cfg = _trained_config(path, class_names)
    _merge(cfg, keys_of(inference) | {"MODEL.DEVICE": device})
    model = build_network(cfg)
    load_model(model, path)
    return model.eval(), cfg
