"""OD-WSCL: MIST's branches learn from objects that a contrastive embedding finds in all images together (spec 10b §B)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.method import BranchWeights, ClassBoxes, Outputs, Regions, Rois, Sizes
from weaksam_cli.wsod.mist import odd
from weaksam_cli.wsod.oicr import PriorMethod, PriorUse, RefiningRecipe
from weaksam_cli.wsod.settings import HeadSettings
from weaksam_cli.wsod.stage import detector_steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from weaksam_cli.wsod.detector import RegionHeads
    from weaksam_cli.wsod.mining import Assignment
    from weaksam_cli.wsod.object_discovery import Embedded


class MiningSettings(PriorUse):
    """Pseudo boxes of each branch.

    Attributes:
        near_iou: proposals from this IoU with a branch's best of a class on are samples of the class.
        overlap: found proposals whose IoU with a better one is above it give way.
        cross_class: in images of several classes, `and` asks a found proposal to be at least as similar to the best of its
            own class as to that of every other; `release` is the published code's, whose comparison rejects nothing.
        foreground_iou: proposals above this IoU with a pseudo box are foreground.
        branch_weights: of the branches' losses; there are as many branches.
    """

    near_iou: float = Field(default=0.5, gt=0, le=1)
    overlap: float = Field(default=0.1, gt=0, le=1)
    cross_class: Literal["and", "release"] = "and"
    foreground_iou: float = Field(default=0.5, gt=0, lt=1)
    branch_weights: BranchWeights = (3.0, 1.0, 1.0)


class ContrastSettings(RecipeModel):
    """The contrastive loss over embeddings of RoIs, and of a copy with cells hidden and one with noise.

    Attributes:
        size: of an embedding.
        weight: of the loss.
        temperature: of the similarities.
        difficulty: `aligned` weighs a sample by its own share of the class's score; `release` is the published code's, which
            gives most samples the weight of another.
        hidden: share of the cells that a copy loses; 0 leaves this copy out.
        noise: deviation of the factor around 1 on each of the other copy's features; 0 leaves this copy out.
    """

    size: int = Field(default=128, ge=1, le=4096)
    weight: float = Field(default=0.03, ge=0, le=100)
    temperature: float = Field(default=0.2, gt=0, le=100)
    difficulty: Literal["aligned", "release"] = "aligned"
    hidden: float = Field(default=0.3, ge=0, lt=1)
    noise: float = Field(default=1.0, ge=0, le=100)


class DropBlockSettings(RecipeModel):
    """Blocks of cells are hidden at random on the way to the heads.

    Attributes:
        probability: share of the cells that are hidden, roughly.
        block: cells a side of a hidden block; odd.
    """

    probability: float = Field(default=0.3, gt=0, lt=1)
    block: Annotated[int, Field(ge=1, le=7), AfterValidator(odd)] = 3


class OdWscl(PriorMethod, ClassBoxes):
    """MIST's heads, and an embedding of RoIs.

    Attributes:
        drop_block: null leaves it out.
    """

    method: Literal["od_wscl"] = "od_wscl"
    heads: HeadSettings = HeadSettings(initial_deviation=0.001)
    mining: MiningSettings = MiningSettings()
    contrast: ContrastSettings = ContrastSettings()
    drop_block: DropBlockSettings | None = DropBlockSettings()

    @property
    def branches(self) -> int:
        """One for each weight."""
        return len(self.mining.branch_weights)

    def stream_columns(self, class_count: int) -> int:
        """Background first."""
        return class_count + 1

    def modules(self, sizes: Sizes) -> dict[str, nn.Module]:
        """The embedding's two layers, after the neck."""
        from torch import nn

        layers = nn.Linear(sizes.features, sizes.features), nn.Linear(sizes.features, self.contrast.size)
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        return {"embedding": nn.Sequential(layers[0], nn.ReLU(), layers[1])}

    def outputs_of_rois(self, heads: RegionHeads, rois: Rois, neck: Callable[[Tensor], Tensor]) -> Outputs:
        """At test the heads alone; in training the heads of RoIs with hidden cells, and embeddings.

        They are `clean`, and those of each copy, whose rows are 0 where no class has its best.
        """
        from weaksam_cli.wsod.object_discovery import hide_blocks, unit_vectors

        pooled, settings = rois.pool(), self.contrast
        if not heads.training:
            return heads(neck(pooled))
        embed = heads.get_submodule("embedding")
        extra = {"clean": unit_vectors(embed(neck(pooled)))}
        seen = pooled
        if self.drop_block is not None:
            seen = hide_blocks(pooled, self.drop_block.probability, self.drop_block.block)
        found = heads(neck(seen))
        rows = self._near(found, rois.regions)
        copies = {}
        if settings.hidden:
            copies["hidden"] = hide_blocks(pooled[rows], settings.hidden, 1)
        if settings.noise:
            copies["noisy"] = pooled[rows] * _factors(pooled[rows], settings.noise)
        for name, copy in copies.items():
            extra[name] = extra["clean"].new_zeros(extra["clean"].shape)
            extra[name] = extra[name].index_put((rows,), unit_vectors(embed(neck(copy))))
        return Outputs(
            found.class_logits, found.detection_logits, found.refinement_logits, found.deltas, extra
        )

    def _near(self, outputs: Outputs, regions: Sequence[Regions]) -> Tensor:
        """Indexes of the RoIs of all images that are samples of some class."""
        import torch

        start, masks = 0, []
        for own in regions:
            image = self._embedded(outputs.rows(start, start + len(own.boxes)), own)
            mask = torch.zeros(len(own.boxes), dtype=torch.bool, device=own.boxes.device)
            for index in image.classes if len(mask) else ():
                mask |= image.near(index, self.mining.near_iou)
            masks.append(mask)
            start += len(mask)
        return torch.cat(masks).nonzero().flatten()

    def _embedded(self, outputs: Outputs, regions: Regions) -> Embedded:
        from weaksam_cli.wsod.losses import wsddn_scores
        from weaksam_cli.wsod.object_discovery import Embedded

        streams = wsddn_scores(outputs.class_logits.float(), outputs.detection_logits.float())
        sources = [streams, *(item.softmax(dim=1) for item in outputs.refinement_logits[:-1])]
        extra = dict(outputs.extra)
        clean = extra.pop("clean", streams)
        classes = regions.image_labels.nonzero().flatten().tolist()
        scores = [item[:, 1:].detach() for item in sources]
        scores = [self.with_prior(item, regions) for item in (self.first_source(scores[0]), *scores[1:])]
        return Embedded(regions.boxes, classes, scores, clean, list(extra.values()))

    def batch_losses(self, outputs: Sequence[Outputs], regions: Sequence[Regions]) -> dict[str, Tensor]:
        """`loss_img`, `loss_ref_cls<i>` and `loss_ref_reg<i>`, means over the images, and `loss_sim` of all together."""
        import torch

        from weaksam_cli.wsod.object_discovery import discover

        mining, contrast = self.mining, self.contrast
        images = [self._embedded(*item) for item in zip(outputs, regions, strict=True)]
        found = discover(
            images,
            near_iou=mining.near_iou,
            nms_iou=mining.overlap,
            cross_class=mining.cross_class,
            difficulty=contrast.difficulty,
            temperature=contrast.temperature,
        )
        parts = [
            self._image_losses(own, seen.image_labels, image, objects)
            for own, seen, image, objects in zip(outputs, regions, images, found.found, strict=True)
        ]
        means = {name: torch.stack([item[name] for item in parts]).mean() for name in parts[0]}
        return means | {"loss_sim": contrast.weight * found.loss}

    def _image_losses(
        self, outputs: Outputs, image_labels: Tensor, image: Embedded, objects: Sequence[dict[int, Tensor]]
    ) -> dict[str, Tensor]:
        """MIST's, of an image in which each branch has its objects."""
        from weaksam_cli.wsod.losses import refinement_losses, wsddn_loss_mean, wsddn_scores
        from weaksam_cli.wsod.mining import assign
        from weaksam_cli.wsod.object_discovery import discovered_pseudo_boxes

        branch = iter(objects)

        def mine(source: Tensor) -> Assignment:
            pseudo = discovered_pseudo_boxes(next(branch), source, image.boxes)
            return assign(image.boxes, pseudo, foreground_iou=self.mining.foreground_iou, above=True)

        scores = wsddn_scores(outputs.class_logits, outputs.detection_logits)
        return {"loss_img": wsddn_loss_mean(scores, image_labels)} | refinement_losses(
            outputs, image.sources[0], image.boxes, mine, self.mining.branch_weights
        )


def _factors(features: Tensor, deviation: float) -> Tensor:
    import torch

    return 1 + deviation * torch.randn_like(features)


class Recipe(OdWscl, RefiningRecipe):
    """OD-WSCL on either network."""

    without_map: ClassVar[Mapping[str, object]] = {"drop_block": None, "contrast.hidden": 0}


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The steps of the network's path; the last makes the detections of the split."""
    return detector_steps(recipe, recipe.part(OdWscl), context, split)
