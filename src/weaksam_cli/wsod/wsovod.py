"""WSOVOD (Lin et al., AAAI 2024), closed vocabulary over precomputed proposals: RoIs are compared with texts of the classes.

As its release: one refinement, whose seeds are the best box of each class and weigh what the image scores for it, one
regression of boxes for all classes, proposals' objectness on their features, a vector of the whole image, a proposal network
that learns from the detector's boxes (spec 10c §2). Left out: levels of that network, and boxes that a segmenter tightens in
every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.engine.context import Context
from weaksam_cli.engine.steps import Step
from weaksam_cli.wsod.method import BranchWeights, Evidence, Outputs, Regions, Rois, Seen, Sizes
from weaksam_cli.wsod.oicr import PriorMethod, PriorUse, RefiningRecipe
from weaksam_cli.wsod.settings import HeadSettings
from weaksam_cli.wsod.stage import detector_steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from weaksam_cli.core.boxes import FloatArray
    from weaksam_cli.wsod.detector import RegionDetector, RegionHeads


def _with_place(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError(f"expected one {{}} for the class's name, got {template!r}")
    return template


Count = Annotated[int, Field(ge=1, le=100_000)]
Overlap = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[float, Field(gt=0, le=10_000)]
Ratio = Annotated[float, Field(ge=0.01, le=100)]
Template = Annotated[str, Field(max_length=200), AfterValidator(_with_place)]


class TextSettings(RecipeModel):
    """What a class is to RoIs.

    Attributes:
        weights: file name of CLIP, whose text encoder embeds the names of the classes, or its path; null learns embeddings.
        templates: texts around a name; their embeddings are averaged. Not read where embeddings are learnt.
        size: of an embedding; CLIP's own where it makes them.
        hidden: width of the layer between a RoI's features and their projection.
        temperature: factor on the cosine.
    """

    weights: str | None = "ViT-B-32.pt"
    templates: tuple[Template, ...] = Field(default=("a photo of a {}.",), min_length=1, max_length=200)
    size: int = Field(default=512, ge=1, le=4096)
    hidden: int = Field(default=1024, ge=1, le=8192)
    temperature: float = Field(default=50.0, gt=0, le=1000)


class MiningSettings(PriorUse):
    """Pseudo boxes of each branch.

    Attributes:
        least_area: boxes up to this area, in pixels of the view, are no seeds.
        foreground_iou: proposals from this IoU with a seed on are foreground.
        branch_weights: of the branches' losses; there are as many branches.
    """

    least_area: float = Field(default=20.0, ge=0, le=1e9)
    foreground_iou: float = Field(default=0.5, gt=0, lt=1)
    branch_weights: BranchWeights = (1.0,)


class NetworkSettings(RecipeModel):
    """A proposal network that learns from the last branch's best box of each class.

    Attributes:
        form: `anchors` of many shapes in each cell (`WSOVODRPN_V2` of the release, which its configurations train), or
            `located`, the location-oriented form (`WSOVODRPN`): a cell is an anchor, and learns how well it is centred.
        sizes: of anchors, square roots of their area in pixels of the view.
        ratios: of anchors, height to width.
        positive: IoU with a box of a class from which on an anchor is an object; the best anchor of each always is.
        negative: IoU below which it is none; what is neither is not learnt from.
        anchors: so many are drawn at random, and losses are divided by it.
        positive_share: at most so much of them are objects.
        before_nms: so many boxes of highest objectness are looked at.
        least_side: boxes have longer sides than this, in pixels of the view.
        nms: IoU above which a box gives way to a better one.
        most: boxes that join the proposals.
        quality: IoUs as `positive` and `negative` for what learns how well it is centred.
    """

    form: Literal["anchors", "located"] = "anchors"
    sizes: tuple[Side, ...] = Field(default=(32, 64, 128, 256, 512, 768), min_length=1, max_length=20)
    ratios: tuple[Ratio, ...] = Field(default=(1.0, 2.0, 0.5), min_length=1, max_length=20)
    positive: float = Field(default=0.6, gt=0, le=1)
    negative: float = Field(default=0.2, ge=0, le=1)
    anchors: Count = 512
    positive_share: float = Field(default=0.5, gt=0, le=1)
    before_nms: Count = 2048
    least_side: float = Field(default=40.0, ge=0, le=10_000)
    nms: float = Field(default=0.7, gt=0, le=1)
    most: Count = 1024
    quality: tuple[Overlap, Overlap] = (0.3, 0.1)


class Objectness(Evidence):
    """The segmenter's estimate of a proposal's mask: predicted IoU times stability, at most 1; 0 where either is unknown."""

    at_test: ClassVar[bool] = True

    def width(self, class_count: int) -> int:
        """One column."""
        return 1

    def columns(self, seen: Seen) -> FloatArray:
        """float32 (R, 1)."""
        import numpy as np

        found = seen.proposals.predicted_iou * seen.proposals.stability
        return np.clip(np.nan_to_num(found, nan=0.0), 0, 1).astype(np.float32)[:, None]


class Wsovod(PriorMethod):
    """Two streams, and branches that compare RoIs with texts.

    Attributes:
        objectness: features of a proposal are multiplied by one plus its objectness.
        prototypes: of the vector of the whole image, which is added to the features of its RoIs; null leaves it out.
        proposal_network: gives RoIs beside the proposals; null leaves it out.
    """

    method: Literal["wsovod"] = "wsovod"
    heads: HeadSettings = HeadSettings(initial_deviation=0.001)
    texts: TextSettings = TextSettings()
    mining: MiningSettings = MiningSettings()
    objectness: bool = True
    prototypes: int | None = Field(default=5, ge=1, le=1000)
    proposal_network: NetworkSettings | None = NetworkSettings()

    @property
    def finds_boxes(self) -> bool:
        """With a proposal network."""
        return self.proposal_network is not None

    @property
    def evidence(self) -> Evidence | None:
        """The objectness of proposals."""
        return Objectness() if self.objectness else None

    @property
    def weight_files(self) -> Mapping[str, str]:
        """CLIP, unless embeddings are learnt."""
        return {} if self.texts.weights is None else {"clip": self.texts.weights}

    def modules(self, sizes: Sizes) -> dict[str, nn.Module]:
        """`texts` of the classes, `compare` and `regress` of each branch, `aware` of the image, and `propose`."""
        from torch import nn

        from weaksam_cli.wsod.open_vocabulary import DataAware, OpenVocabulary

        settings, branches = self.texts, range(len(self.mining.branch_weights))
        texts = nn.Embedding(sizes.classes, settings.size)
        texts.requires_grad_(settings.weights is None)
        sides = sizes.features, settings.hidden, settings.size, settings.temperature
        regress = [nn.Linear(sizes.features, 4) for _ in branches]
        for layer in regress:
            nn.init.normal_(layer.weight, std=self.heads.initial_deviation)
            nn.init.zeros_(layer.bias)
        made: dict[str, nn.Module] = {"texts": texts, "regress": nn.ModuleList(regress)}
        made["compare"] = nn.ModuleList(OpenVocabulary(*sides) for _ in branches)
        if self.prototypes is not None:
            made["aware"] = DataAware(sizes.channels, sizes.features, self.prototypes)
        if own := self.proposal_network:
            from weaksam_cli.wsod.proposal_network import ProposalNetwork

            made["propose"] = ProposalNetwork(sizes.channels, own)
        return made

    def complete(self, detector: RegionDetector) -> None:
        """The streams start from Xavier's distribution."""
        from torch import nn

        for layer in (detector.heads.classification, detector.heads.detection):
            nn.init.xavier_uniform_(layer.weight)

    def start(self, detector: RegionDetector, class_names: Sequence[str], files: Mapping[str, Path]) -> None:
        """CLIP's text encoder embeds the names of the classes."""
        import torch

        from weaksam_cli.wsod.open_vocabulary import class_texts

        if "clip" in files:
            found = class_texts(files["clip"], class_names, self.texts.templates, self.texts.size)
            texts: Any = detector.heads.get_submodule("texts")
            with torch.no_grad():
                texts.weight.copy_(found)

    def outputs_of_rois(self, heads: RegionHeads, rois: Rois, neck: Callable[[Tensor], Tensor]) -> Outputs:
        """Of features that objectness scales and the image's vector shifts; boxes of the proposal network come last."""
        import torch

        regions, found = self._joined(heads, rois)
        known = [own.evidence for own in regions if own.evidence is not None]
        pooled = rois.pool(boxes=[own.boxes for own in regions])
        if len(known) == len(regions):
            factors = 1 + torch.cat(known)
            pooled = pooled * factors.view(-1, *[1] * (pooled.dim() - 1)).to(pooled.dtype)
        features = neck(pooled)
        if self.prototypes is not None:
            counts = torch.tensor([len(own.boxes) for own in regions], device=features.device)
            vectors = heads.get_submodule("aware")(rois.maps[-1])
            features = features + vectors.repeat_interleave(counts, dim=0)
        named: Any = heads
        logits = [compare(features, named.texts.weight).float() for compare in named.compare]
        deltas = [regress(features).float() for regress in named.regress]
        return replace(
            heads(features),
            refinement_logits=tuple(logits),
            deltas=tuple(deltas),
            image=found,
            regions=tuple(regions),
        )

    def _joined(self, heads: RegionHeads, rois: Rois) -> tuple[list[Regions], dict[str, Tensor]]:
        """Proposals and boxes of the network, and what the network says of each image.

        In training, the objectness of its boxes grows with the share that is done.
        """
        import torch

        settings = self.proposal_network
        if settings is None:
            return list(rois.regions), {}
        from weaksam_cli.wsod.proposal_network import Anchored, network_boxes

        said: Anchored = heads.get_submodule("propose")(rois.maps[-1])
        joined = []
        for index, (own, size) in enumerate(zip(rois.regions, rois.sizes, strict=True)):
            boxes, objectness = network_boxes(said.of_image(index), size, settings)
            evidence = own.evidence
            if evidence is not None:
                trust = own.progress if heads.training else 1.0
                evidence = torch.cat([evidence, trust * objectness[:, None]])
            joined.append(replace(own, boxes=torch.cat([own.boxes, boxes]), evidence=evidence))
        return joined, said.tensors()

    def batch_losses(self, outputs: Sequence[Outputs], regions: Sequence[Regions]) -> dict[str, Tensor]:
        """`loss_img`, a mean over images and classes; `loss_ref_cls<i>`, `loss_ref_reg<i>` over all proposals together."""
        import torch

        from weaksam_cli.wsod.losses import decode, wsddn_loss_of_classes, wsddn_scores
        from weaksam_cli.wsod.open_vocabulary import (
            batch_box_loss,
            batch_class_loss,
            best_of_image,
            labels_of,
        )

        mining, images = self.mining, list(zip(outputs, regions, strict=True))
        scores = [wsddn_scores(own.class_logits, own.detection_logits) for own in outputs]
        pairs = zip(scores, regions, strict=True)
        losses = {
            "loss_img": torch.stack([wsddn_loss_of_classes(s, own.image_labels) for s, own in pairs]).mean()
        }
        places = [own.boxes for own in regions]
        sources = [self.first_source(item.detach()) for item in scores]
        for index, weight in enumerate(mining.branch_weights):
            mined = [
                labels_of(
                    own,
                    best_of_image(
                        self.with_prior(source, own),
                        place,
                        score.sum(dim=0),
                        own.image_labels,
                        mining.least_area,
                    ),
                    mining.foreground_iou,
                )
                for own, source, place, score in zip(regions, sources, places, scores, strict=True)
            ]
            logits = [own.refinement_logits[index] for own in outputs]
            deltas = [own.deltas[index] for own in outputs]
            losses[f"loss_ref_cls{index}"] = weight * batch_class_loss(logits, mined)
            losses[f"loss_ref_reg{index}"] = weight * batch_box_loss(deltas, regions, mined)
            sources = [item.detach().softmax(dim=1)[:, 1:] for item in logits]
            places = [decode(own.deltas[index].detach(), seen.boxes) for own, seen in images]
        if settings := self.proposal_network:
            from weaksam_cli.wsod.proposal_network import Anchored, network_losses

            found = []
            for (own, seen), source, place, score in zip(images, sources, places, scores, strict=True):
                best = best_of_image(source, place, score.sum(dim=0), seen.image_labels, mining.least_area)
                found.append(network_losses(Anchored(**own.image).of_image(0), best.boxes, settings))
            losses |= {name: torch.stack([item[name] for item in found]).mean() for name in found[0]}
        return losses

    def boxes(self, outputs: Outputs, boxes: Tensor) -> Tensor:
        """The regressed ones, (R, 4)."""
        import torch

        from weaksam_cli.wsod.losses import decode

        return decode(torch.stack(outputs.deltas).mean(dim=0), boxes)


class Recipe(Wsovod, RefiningRecipe):
    """WSOVOD on either network."""

    without_map: ClassVar[Mapping[str, object]] = {"prototypes": None, "proposal_network": None}


def steps(recipe: Recipe, context: Context, split: str) -> Iterator[Step]:
    """The steps of the network's path; the last makes the detections of the split."""
    return detector_steps(recipe, recipe.part(Wsovod), context, split)
