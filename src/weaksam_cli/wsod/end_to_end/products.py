"""What `weaksam wsod` makes with MIST and OICR on VGG16: the model, then detections of the split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from weaksam_cli.artifacts import open_artifact
from weaksam_cli.artifacts.proposals import PROPOSALS
from weaksam_cli.artifacts.shards import Outcome as MergeCount
from weaksam_cli.data.detections import RESULTS_FORMAT, RESULTS_VERSION
from weaksam_cli.data.labels import read_labels
from weaksam_cli.data.source import image_root
from weaksam_cli.engine.detecting import detections_maker
from weaksam_cli.engine.legacy import WEIGHTS_INPUT, Context, Job, Product, what_decides
from weaksam_cli.wsod.end_to_end.recipe import MistRecipe, OicrRecipe
from weaksam_cli.wsod.end_to_end.works import VggDetectWork

MODEL_FORMAT: Final = "weaksam/vgg-detector"
MODEL_VERSION: Final = 1
RANDOM: Final = "random"
"""In place of a weights file: no initial weights."""
_MOST_LOADERS: Final = 8


@dataclass(frozen=True)
class FitVgg:
    """Trains the detector; interrupted, it goes on from its checkpoint.

    Attributes:
        recipe: what to train.
        labels, proposals: artifacts of the training split.
        image_root: folder of the images.
        weights: file of ImageNet weights; None for random ones.
    """

    recipe: MistRecipe | OicrRecipe
    labels: Path
    proposals: Path
    image_root: Path
    weights: Path | None

    def __call__(self, job: Job) -> MergeCount:
        """Train and write."""
        from weaksam_cli.training.run import training_run
        from weaksam_cli.wsod.end_to_end.fit import fit_vgg_detector
        from weaksam_cli.wsod.end_to_end.training_images import TrainingImages

        context = job.context
        if self.weights is None:
            context.console.warn(
                "the training starts from random weights (weights: random), which learns far less"
            )
        labels = read_labels(self.labels, self.image_root)
        if isinstance(self.recipe, OicrRecipe) and len(labels.class_names) == 1:
            context.console.warn(
                "there is one class: OICR's image-level loss is always 0 then, so its seeds are chance; mist-vgg16 has a "
                "background class"
            )
        with open_artifact(self.proposals, PROPOSALS) as proposals:
            all_images = TrainingImages.of(labels, proposals, self.recipe, context.seed)
            left_out = len(labels.file.images) - len(all_images)
            if left_out:
                context.console.info(f"{left_out} images without labels or proposals are not learnt from")
            schedule = self.recipe.schedule.resolved(len(all_images))
            recipe = self.recipe.model_copy(update={"schedule": schedule})
            with training_run(
                job,
                schedule.steps,
                checkpoint_every=schedule.checkpoint_period,
                most_workers=_MOST_LOADERS,
            ) as run:
                data = fit_vgg_detector(
                    recipe,
                    all_images.item,
                    len(all_images),
                    labels.class_names,
                    weights=self.weights,
                    run=run,
                )
        context.ops.write_atomically(job.path, data)
        return MergeCount(len(all_images), ())


@dataclass(frozen=True)
class DetectVgg:
    """Detections of a split.

    Attributes:
        recipe: how images are looked at.
        labels, proposals: artifacts of the split.
        model: of `FitVgg`.
    """

    recipe: MistRecipe | OicrRecipe
    labels: Path
    proposals: Path
    model: Path

    def __call__(self, job: Job) -> MergeCount:
        """Detect in every image that has proposals."""
        context = job.context
        root = image_root(context.run.root, context.source())
        labels = read_labels(self.labels, root)
        with open_artifact(self.proposals, PROPOSALS) as artifact:
            ids = artifact.image_ids
        labels.expect(ids, self.proposals)
        device = context.torch_device()
        work = VggDetectWork(self.recipe, self.labels, self.proposals, root, self.model, device)
        return detections_maker(labels, ids, work, device=device)(job)


def vgg_products(recipe: MistRecipe | OicrRecipe, context: Context, split: str) -> Iterator[Product]:
    """The model, from the training split; then the detections of this split.

    Raises:
        UserError: the initial weights are not found.
    """
    run, train = context.run, context.train_split()
    resolved: dict[str, Any] = recipe.model_dump(mode="json")
    model = run.folder("wsod") / "model.safetensors"
    inputs = {"data": run.input("data", train), "propose": run.input("propose", train)}
    weights = None
    if recipe.weights != RANDOM:
        weights = inputs[WEIGHTS_INPUT] = context.weights.require(recipe.weights)
    root = image_root(run.root, context.source())
    yield Product(
        path=model,
        format_name=MODEL_FORMAT,
        format_version=MODEL_VERSION,
        split=train,
        recipe=what_decides({name: value for name, value in resolved.items() if name != "inference"}),
        inputs=inputs,
        make=FitVgg(recipe, inputs["data"], inputs["propose"], root, weights),
        what="the weakly supervised detector",
    )
    labels, proposals = run.input("data", split), run.input("propose", split)
    yield Product(
        path=run.output("wsod", split),
        format_name=RESULTS_FORMAT,
        format_version=RESULTS_VERSION,
        split=split,
        recipe={name: resolved[name] for name in ("method", "proposals", "pixels", "network", "inference")},
        inputs={"wsod-model": model, "data": labels, "propose": proposals},
        make=DetectVgg(recipe, labels, proposals, model),
        what="detections",
    )
