"""What can be said about the training of a class-token transformer; the defaults are WeakTr's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from weaksam_cli.engine.recipes import RecipeModel

Share = Annotated[float, Field(ge=0, le=1)]


class NetworkSettings(RecipeModel):
    """Shape of a network that starts from random weights; a file of initial weights tells its own.

    Attributes:
        width: of a token; heads have 64 channels unless the recipe's `heads` says another number of them.
        depth: number of blocks.
        patch: side of a patch in pixels.
        embedding: what makes tokens of patches: `linear` as in DeiT; `lite0`, frozen ImageNet features of 16 x 16 pixels.
    """

    width: int = Field(default=384, ge=8)
    depth: int = Field(default=12, ge=1)
    patch: int = Field(default=16, ge=2)
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
    flip: Share = 0.5
    colour_jitter: float = Field(default=0.4, ge=0)
    rand_augment: Annotated[str, Field(pattern=r"^rand(-(m|n|w|p|mstd|mmax|inc|t)[0-9.]+)*$")] | None = (
        "rand-m9-mstd0.5-inc1"
    )
    erasing: Share = 0.25


class FitSettings(RecipeModel):
    """The training, with all that decides its result besides images, labels and `--seed`.

    Attributes:
        initial: file name of the weights that the training starts from, or its path; null for random weights.
        network: its shape, where it starts from random weights.
        crop: side of the square that the network is shown, pixels.
        epochs: passes over the training images, warm-up included.
        cooldown_epochs: more passes, at the least learning rate.
        batch_size: images a step; a smaller dataset is one batch.
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
    crop: int = Field(default=224, ge=16)
    epochs: int = Field(default=60, ge=1)
    cooldown_epochs: int = Field(default=0, ge=0)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=4e-4, gt=0)
    warmup_epochs: int = Field(default=5, ge=0)
    warmup_rate: float = Field(default=1e-6, ge=0)
    least_rate: float = Field(default=1e-5, ge=0)
    weight_decay: float = Field(default=0.05, ge=0)
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    criterion_period: int = Field(default=1, ge=1)
    mixed_precision: bool = True
    augment: AugmentSettings = AugmentSettings()

    @property
    def total_epochs(self) -> int:
        """Epochs of the whole training."""
        return self.epochs + self.cooldown_epochs

    def is_examined(self, epoch: int) -> bool:
        """Whether the network is looked at after a 0-based epoch."""
        return (epoch + 1) % self.criterion_period == 0 or epoch + 1 == self.total_epochs


class WeakTrFitSettings(FitSettings):
    """WeakTr's training; its recipe's `fusion: none` trains without the adaptive attention fusion.

    Attributes:
        fusion_variant: v1 is WeakSAM's copy, v3 WeakTr's repository.
        reduction: the fusion's layer between is so many times narrower than the number of its gates.
    """

    fusion_variant: Literal["v1", "v3"] = "v3"
    reduction: int = Field(default=8, ge=1)
