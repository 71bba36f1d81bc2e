"""Settings and steps of the methods with class tokens: a network trained first, where there are no weights; then maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator, Field

from weaksam_cli.artifacts.schema import ImageRows, Schema
from weaksam_cli.artifacts.shards import Outcome
from weaksam_cli.cam.stage import LabelSettings, known_images, maps_step
from weaksam_cli.core.settings import Epoch, RecipeModel, Side
from weaksam_cli.data.labels import LabelChoice, Split
from weaksam_cli.engine.context import Context, Job
from weaksam_cli.engine.predictors import Overlapped
from weaksam_cli.engine.steps import Step
from weaksam_cli.errors import UserError

if TYPE_CHECKING:
    from weaksam_cli.cam.class_tokens.maps import Views
    from weaksam_cli.models.vit.checkpoint import VitCheckpoint, VitShape
    from weaksam_cli.models.vit.network import ClassTokenVit

MODEL: Final = Schema("weaksam/class-token-transformer", 1, columns=())


def _without_repetition(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(values)) != len(values):
        raise ValueError("expected each value once")
    return values


Scales = Annotated[
    tuple[Annotated[float, Field(gt=0, le=4)], ...],
    Field(min_length=1, max_length=20),
    AfterValidator(_without_repetition),
]
Layer = Annotated[int, Field(ge=0, lt=100)]
Layers = Annotated[tuple[Layer, ...], Field(max_length=100), AfterValidator(_without_repetition)]
AttentionType = Literal["fused", "patchcam", "attention"]
Fraction = Annotated[float, Field(ge=0, le=1)]


class HeadsSettings(LabelChoice):
    """What weights and maps both depend on.

    Attributes:
        heads: attention heads of a block; null for what the checkpoint tells, else heads of 64 channels, as in DeiT.
    """

    heads: int | None = Field(default=None, ge=1, le=64)


class MapSettings(LabelSettings, HeadsSettings):
    """What decides the maps of a network.

    Attributes:
        scales: sizes of the views as factors of the image's, in the order in which they decide on classes.
        flip: show every view mirrored, too.
        max_side: an image whose longer side is larger is shrunk to it first; the published code shows all at full size.
        attention_type: which map becomes the fine one: class attention times patch map, the patch map alone, or the class
            attention alone (anything but the first two in the published code).
        cross_layers: 0-based layers whose attention makes cross maps, one for each head; none for no cross maps.
        logit_threshold: class-token logit above which a class is predicted.
        precision: float32 is exact; auto is float16 autocast on a GPU, as published, and float32 on a CPU.
    """

    scales: Scales
    flip: bool = True
    max_side: Side = 1024
    attention_type: AttentionType = "fused"
    cross_layers: Layers = (8, 9)
    logit_threshold: float = Field(default=-0.5, ge=-1e6, le=1e6)
    precision: Literal["float32", "auto"] = "float32"

    def load_network(self, checkpoint: VitCheckpoint) -> ClassTokenVit:
        """The network of the method with the tensors of a checkpoint, frozen.

        Raises:
            UserError: they do not fit.
        """
        raise NotImplementedError


class NetworkSettings(RecipeModel):
    """Shape of a network that starts from random weights; a file of initial weights tells its own.

    Attributes:
        width: of a token; heads have 64 channels unless the recipe's `heads` says another number of them.
        depth: number of blocks.
        patch: side of a patch in pixels.
        embedding: what makes tokens of patches: `linear` as in DeiT; `lite0`, frozen ImageNet features of 16 x 16 pixels.
    """

    width: int = Field(default=384, ge=8, le=1536)
    depth: int = Field(default=12, ge=1, le=48)
    patch: int = Field(default=16, ge=2, le=64)
    embedding: Literal["linear", "lite0"] = "linear"


class AugmentSettings(RecipeModel):
    """How training images are changed, by timm's `create_transform`.

    Attributes:
        smallest_area: least share of the image that a random crop shows.
        flip: probability of the mirror image.
        colour_jitter: strength; timm leaves it out where RandAugment is on.
        rand_augment: timm's description of RandAugment; null for none.
        erasing: probability that a random rectangle is replaced by noise.
    """

    smallest_area: float = Field(default=0.08, gt=0, le=1)
    flip: Fraction = 0.5
    colour_jitter: float = Field(default=0.4, ge=0, le=1)
    rand_augment: Annotated[str, Field(pattern=r"^rand(-(m|n|w|p|mstd|mmax|inc|t)[0-9.]+)*$")] | None = (
        "rand-m9-mstd0.5-inc1"
    )
    erasing: Fraction = 0.25


class FitSettings(RecipeModel):
    """A training; the defaults are WeakTr's.

    Attributes:
        initial: file name of the weights that the training starts from, or its path; null for random weights.
        network: its shape, where it starts from random weights.
        crop: side of the square that the network is shown, pixels.
        epochs: passes over the training images, warm-up included.
        cooldown_epochs: more passes, at the least learning rate.
        batch_size: images a step; a smaller dataset is one batch.
        images_at_once: of them in memory together; gradients add up over the step. 0 takes them all.
        learning_rate: for a batch of 512, proportional to the batch.
        warmup_epochs: rise linearly from `warmup_rate`; in a short training at most half of it.
        warmup_rate: the first epoch's learning rate, whatever the batch.
        least_rate: where the cosine ends, whatever the batch.
        weight_decay: of AdamW; class tokens, positions, biases and norms do not decay.
        drop_path: probability that the last block's branches are left out, rising linearly from 0.
        criterion_period: epochs between two looks at how well the training images are classified, which decides on the
            network that is kept; the last epoch is always looked at.
        mixed_precision: float16 on a GPU; a CPU always computes float32.
        augment: how training images are changed.
    """

    initial: str | None = "deit_small_patch16_224-cd65a155.pth"
    network: NetworkSettings = NetworkSettings()
    crop: int = Field(default=224, ge=16, le=512)
    epochs: Annotated[Epoch, Field(ge=1)] = 60
    cooldown_epochs: Epoch = 0
    batch_size: int = Field(default=64, ge=1, le=1024)
    images_at_once: int = Field(default=0, ge=0, le=1024)
    learning_rate: float = Field(default=4e-4, gt=0, le=100)
    warmup_epochs: Epoch = 5
    warmup_rate: float = Field(default=1e-6, ge=0, le=100)
    least_rate: float = Field(default=1e-5, ge=0, le=100)
    weight_decay: float = Field(default=0.05, ge=0, le=100)
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    criterion_period: Annotated[Epoch, Field(ge=1)] = 1
    mixed_precision: bool = True
    augment: AugmentSettings = AugmentSettings()

    @property
    def total_epochs(self) -> int:
        """Epochs of the whole training."""
        return self.epochs + self.cooldown_epochs


class TrainingSettings(HeadsSettings):
    """What decides the weights, where they are trained here.

    Attributes:
        fit: the training.
    """

    fit: FitSettings = FitSettings()

    def new_network(self, shape: VitShape) -> ClassTokenVit:
        """The network of the method, with random weights."""
        raise NotImplementedError


def class_token_steps(
    weights: str | None, training: TrainingSettings, maps: MapSettings, context: Context, split: str
) -> Iterator[Step]:
    """The network, where the recipe has no weights; then the maps of the split, from its labels and the weights alone.

    Args:
        weights: file name of a checkpoint, or its path; None trains the network on the training split first.
        training: that training.
        maps: what maps are wanted.
        context: what the command was told.
        split: the images.
    """
    if weights is None:
        model = _training_step(training, context)
        yield model
        source, path = "cam-model", model.path
    else:
        source, path = "weights", context.weights.require(weights)
    yield maps_step(
        context, split, maps, {source: path}, lambda images, device: Predictor(maps, images, path, device)
    )


@dataclass(frozen=True)
class Predictor:
    """Class activation maps of one image."""

    settings: MapSettings
    split: Split
    weights: Path
    device: str

    def open(self) -> Overlapped[Views]:
        """Load the network once a process."""
        from weaksam_cli.cam.class_tokens.maps import class_maps, make_views, open_network

        settings = self.settings
        labels = self.split.read(settings.difficult)
        images = labels.by_key()
        clues = open_network(settings, self.weights, labels.file.categories, self.device)

        def load(image_id: str) -> Views:
            pixels = labels.read_image(images[image_id])
            return make_views(
                pixels, settings.scales, max_side=settings.max_side, patch=clues.network.shape.patch
            )

        def compute(image_id: str, views: Views) -> ImageRows:
            return class_maps(clues, views, settings.given(labels, images[image_id])).to_rows(scaled=True)

        return Overlapped(load, compute)


def _training_step(settings: TrainingSettings, context: Context) -> Step:
    """`cam/model.pth`: made from the labels of the training split and from nothing else of the run.

    Raises:
        UserError: the file of initial weights is not found.
    """
    train = context.train_split()
    inputs = {"data": context.run.input("data", train)}
    initial, name = None, settings.fit.initial
    if name is not None:
        initial = context.weights.find(name)
        if initial is None:
            raise UserError(
                f"the weights that the training starts from, {name!r}, are not found",
                where="fit.initial",
                remedy="`weaksam weights` says where to get them; --set fit.initial=null starts from random weights, "
                "which learns far less",
            )
        inputs["weights"] = initial

    def run(job: Job) -> Outcome:
        from weaksam_cli.cam.class_tokens.training import fit_and_write

        labels = context.split(train).read(settings.difficult)
        return fit_and_write(settings, labels, known_images(labels, context.console), initial, job)

    path = context.run.folder("cam") / "model.pth"
    return Step(path, MODEL, train, settings, inputs, run, "the trained network", joint=True)
