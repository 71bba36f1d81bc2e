"""`cam/model.pth`: the network that a recipe without weights trains first."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from weaksam_cli.artifacts.shards import Outcome as MergeCount
from weaksam_cli.cam.vit_recipe import VitRecipe
from weaksam_cli.data.labels import Labels, read_labels
from weaksam_cli.data.source import image_root
from weaksam_cli.engine.legacy import WEIGHTS_INPUT, Context, Job, Product
from weaksam_cli.errors import UserError

if TYPE_CHECKING:
    from weaksam_cli.cam.vit_training.fit import Best

MODEL_FORMAT: Final = "weaksam/class-token-transformer"
MODEL_VERSION: Final = 1
_TRAINED_BY: Final = {
    "weaktr": ("method", "fusion", "pool", "attention_type", "heads", "fit"),
    "mctformer": ("method", "version", "heads", "fit"),
}
"""Method -> keys of its recipe that decide the weights; the others are about maps alone."""
_MOST_LOADERS: Final = 16


def model_product(recipe: VitRecipe, context: Context) -> Product:
    """The trained network; it is made from the labels of the training split and from nothing else of the run.

    Raises:
        UserError: the file of initial weights is not found.
    """
    train = context.train_split()
    inputs = {"data": context.run.input("data", train)}
    initial = None
    if recipe.fit.initial is not None:
        initial = inputs[WEIGHTS_INPUT] = _find_initial(recipe.fit.initial, context)
    resolved = recipe.model_dump(mode="json")
    return Product(
        path=context.run.folder("cam") / "model.pth",
        format_name=MODEL_FORMAT,
        format_version=MODEL_VERSION,
        split=train,
        recipe={name: resolved[name] for name in _TRAINED_BY[recipe.method]},
        inputs=inputs,
        make=FitNetwork(recipe, inputs["data"], initial),
        what="the trained network",
    )


def _find_initial(name: str, context: Context) -> Path:
    path = context.weights.find(name)
    if path is None:
        raise UserError(
            f"the weights that the training starts from, {name!r}, are not found",
            where="fit.initial",
            remedy="`weaksam weights` says where to get them; --set fit.initial=null starts from random weights, which "
            "learns far less",
        )
    return path


@dataclass(frozen=True)
class FitNetwork:
    """Trains the network and writes it.

    Attributes:
        recipe: what to train.
        labels: of the training split.
        initial: the file of initial weights; None for random ones.
    """

    recipe: VitRecipe
    labels: Path
    initial: Path | None

    def __call__(self, job: Job) -> MergeCount:
        """Train, going on from the checkpoint of a training that was stopped."""
        from weaksam_cli.cam.vit_training.fit import Course, fit
        from weaksam_cli.cam.vit_training.networks import start_network
        from weaksam_cli.cam.vit_training.training_images import TrainingImages
        from weaksam_cli.engine.execution import limit_threads

        context, settings = job.context, self.recipe.fit
        labels = read_labels(self.labels, image_root(context.run.root, context.source()))
        keys = known_images(labels, context)
        device, key = context.torch_device(), job.identity.key()
        limit_threads()
        network, line = start_network(self.recipe, len(labels.class_names), self.initial, context.seed)
        say = context.console.warn if self.initial is None else context.console.info
        say(line)
        total, done = settings.total_epochs, 0
        with context.console.progress("training", total, "epochs") as progress:

            def on_epoch(epochs: int, note: str) -> None:
                nonlocal done
                progress.advance(epochs - done, note)
                done = epochs

            course = Course(
                device=device,
                seed=context.seed,
                workers=0 if device == "cpu" else min(context.workers, _MOST_LOADERS),
                checkpoint=job.checkpoint,
                fingerprint=key,
                save_bytes=context.ops.write_atomically,
                on_epoch=on_epoch,
            )
            all_images = TrainingImages(labels, keys, settings, context.seed)
            best = fit(network, all_images, settings, course)
        context.console.info(
            f"kept the network of epoch {best.epochs} of {total}: training mAP {best.value:.3f} (image-wise, no boxes)",
            epoch=best.epochs,
            criterion=best.value,
        )
        context.ops.write_atomically(job.path, model_bytes(best, labels.class_names))
        failed = tuple((keys[index], why) for index, why in sorted(best.failed.items()))
        return MergeCount(len(keys) - len(failed), failed)


def known_images(labels: Labels, context: Context) -> list[str]:
    """Images whose labels are known, those without any class among them; tells how many are left out.

    Raises:
        UserError: when there is none, or no image of any class.
    """
    keys = [image.key for image in labels.file.images if image.labels is not None]
    left_out = len(labels.file.images) - len(keys)
    if not any(image.labels for image in labels.file.images):
        raise UserError(
            "no image of the training split has a label, so there is nothing to learn from",
            where=str(labels.path),
            remedy="Give a dataset with image-level labels to `weaksam data`",
        )
    if left_out:
        context.console.warn(
            f"{left_out} of {len(labels.file.images)} training images have no known labels and are left out",
            left_out=left_out,
        )
    return keys


def model_bytes(best: Best, class_names: Sequence[str]) -> bytes:
    """The kept network as `backbones.vit.checkpoint.read_checkpoint` reads it, like the published files."""
    import torch

    buffer = io.BytesIO()
    values = {"model": dict(best.state), "class_names": list(class_names), "epoch": best.epochs}
    torch.save({**values, "training_map": best.value}, buffer)
    return buffer.getvalue()
