"""What a method of weakly supervised detection adds to the parts that all share, and the settings that all recipes have.

A method module derives its settings from `Method`, overrides what is its own, and hands itself to `stage.detector_steps`.
The feature paths do the rest: `lite0`, whose RoI features are computed once, and `vgg16`, which is trained through.
Recipes are read without torch, so it is imported inside of functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol

from pydantic import Field

from weaksam_cli.core.settings import RecipeModel, Weight
from weaksam_cli.wsod.settings import HeadSettings

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from weaksam_cli.artifacts.class_maps import ClassMaps
    from weaksam_cli.artifacts.proposals import Proposals
    from weaksam_cli.core.boxes import FloatArray
    from weaksam_cli.training.loop import Stateful, Step
    from weaksam_cli.wsod.detector import RegionDetector, RegionHeads

BranchWeights = Annotated[tuple[Weight, ...], Field(min_length=1, max_length=8)]
RingScale = Annotated[float, Field(gt=1, le=10)]


@dataclass(frozen=True)
class Seen:
    """One image as `Evidence` sees it, before any network of WSOD.

    Attributes:
        image: uint8 RGB (H, W, 3).
        proposals: the R that are used, xyxy pixel edges of the image.
        classes: indexes of the image's labels; none at test.
        class_count: C.
        class_maps: of the image, where `Evidence.needs_maps`.
    """

    image: NDArray[np.uint8]
    proposals: Proposals
    classes: list[int]
    class_count: int
    class_maps: ClassMaps | None = None


class Evidence(RecipeModel):
    """Settings of what a method knows of each proposal beside its features.

    It is computed once an image, at the image's own size, by a step that both networks have (`evidence.py`), and reaches
    the losses as `Regions.evidence`; views of the image change nothing of it.
    """

    needs_maps: ClassVar[bool] = False
    """The images' class maps are an input."""
    at_test: ClassVar[bool] = False
    """Known at test, too, and not in training alone."""

    def width(self, class_count: int) -> int:
        """Columns, at least 1."""
        raise NotImplementedError

    def columns(self, seen: Seen) -> FloatArray:
        """float32 (R, width)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Regions:
    """The R proposals of one image as a method sees them.

    Attributes:
        boxes: float32 (R, 4), xyxy pixel edges in the view.
        image_labels: (C,), 1 for the classes of the image; known in training.
        prior: float32 (R, C), above 0: how well each proposal fits the box of a class's map, in [0, 1], plus a floor. None
            where the feature path knows no class maps.
        progress: share of the training's iterations that are done, in [0, 1).
        evidence: float32 (R, k), the columns of `Method.evidence`; None where it has none, or none at test.
        mirrored: of each view of the image, for methods that learn from several: whether left and right are swapped.
    """

    boxes: Tensor
    image_labels: Tensor
    prior: Tensor | None = None
    progress: float = 0.0
    evidence: Tensor | None = None
    mirrored: tuple[bool, ...] = (False,)


class Pool(Protocol):
    """Features of RoIs."""

    def __call__(
        self, features: Tensor | None = None, stride: int = 8, boxes: Sequence[Tensor] | None = None
    ) -> Tensor:
        """What lies before the neck: (all R, channels, 7, 7) of vgg16, or (R, D) of lite0.

        Args:
            features: a map (B, channels, h, w) to take in place of the last.
            stride: of that map.
            boxes: (R, 4) of each image, to take in place of its own; not known to lite0.
        """
        ...


@dataclass(frozen=True)
class Rois:
    """The RoIs of all images that are in memory together, one image after the other; each view of an image counts as one.

    Attributes:
        regions: of each image.
        pool: gives their features.
        maps: of vgg16, the outputs (B, channels, h, w) of the last three blocks, with strides of 4, 8 and 8; RoIs are pooled
            from the last. Zeros fill up images that are smaller than the largest. None with lite0.
        images: (B, 3, H, W), that the maps are of. None with lite0.
        sizes: height and width of each image, without what fills it up.
    """

    regions: Sequence[Regions]
    pool: Pool
    maps: Sequence[Tensor] = ()
    images: Tensor | None = None
    sizes: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True)
class Outputs:
    """Raw outputs of the heads for the R proposals of one image, or of several, one after the other.

    Of an image that is seen in several views, those of the first view's R proposals come first, then the second's.

    Attributes:
        class_logits, detection_logits: (R, `Method.stream_columns`).
        refinement_logits: one (R, C + 1) for each branch, background first.
        deltas: one (R, `Method.delta_columns`) for each of the last `Method.regressed` branches, or none.
        extra: what a method's own networks gave, a row a proposal.
        image: likewise, a row an image; of an image in several views, a row a view.
        regions: what the rows are of, for each image, where the method has added to its proposals.
    """

    class_logits: Tensor
    detection_logits: Tensor
    refinement_logits: tuple[Tensor, ...] = ()
    deltas: tuple[Tensor, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    image: Mapping[str, Tensor] = field(default_factory=dict)
    regions: tuple[Regions, ...] = ()

    def rows(self, start: int, stop: int, first: int = 0, last: int = 1) -> Outputs:
        """Those of the proposals from `start` to before `stop`, which are of the images from `first` to before `last`."""
        rows, images = slice(start, stop), slice(first, last)
        return Outputs(
            self.class_logits[rows],
            self.detection_logits[rows],
            tuple(item[rows] for item in self.refinement_logits),
            tuple(item[rows] for item in self.deltas),
            {name: item[rows] for name, item in self.extra.items()},
            {name: item[images] for name, item in self.image.items()},
            self.regions[images],
        )


@dataclass(frozen=True)
class Sizes:
    """What networks of a method's own have to fit.

    Attributes:
        channels: of pooled RoIs, before the neck.
        features: D, of what the neck gives.
        classes: C.
    """

    channels: int
    features: int
    classes: int


class Method(RecipeModel):
    """Settings of a method, and what it does with the heads; here, two streams without any branch.

    All functions are about one image with R proposals and C classes, and answer every R including 0.

    Attributes:
        method: its module's name.
        heads: see `HeadSettings`.
    """

    method: str
    heads: HeadSettings = HeadSettings()

    @property
    def branches(self) -> int:
        """Refinement branches."""
        return 0

    @property
    def evidence(self) -> Evidence | None:
        """What is computed of every proposal once an image; None for nothing."""
        return None

    @property
    def finds_boxes(self) -> bool:
        """Adds RoIs to the proposals of every view, so that detections of views are joined and not averaged."""
        return False

    @property
    def views(self) -> int:
        """Views of an image that a training step sees on vgg16: 1; or 4, of two sizes, each plain and mirrored."""
        return 1

    def stream_columns(self, class_count: int) -> int:
        """Outputs of each of the two streams: C, or C + 1 with background first."""
        return class_count

    def delta_columns(self, class_count: int) -> int:
        """Outputs of each box regression; 0 for none."""
        return 0

    @property
    def regressed(self) -> int:
        """How many branches, the last ones, regress boxes where there is a regression at all."""
        return self.branches

    @property
    def delta_deviation(self) -> float:
        """Of the box regressions' initial weights."""
        return self.heads.initial_deviation

    def modules(self, sizes: Sizes) -> dict[str, nn.Module]:
        """Networks of the method's own, by name."""
        return {}

    def complete(self, detector: RegionDetector) -> None:
        """Add to a fresh detector what is made of the rest of it."""

    @property
    def weight_files(self) -> Mapping[str, str]:
        """Published files that the training starts from besides the network's own: name of an input -> name or path."""
        return {}

    def start(self, detector: RegionDetector, class_names: Sequence[str], files: Mapping[str, Path]) -> None:
        """Fill a fresh detector from the `weight_files`, just before its training."""

    def outputs_of_rois(self, heads: RegionHeads, rois: Rois, neck: Callable[[Tensor], Tensor]) -> Outputs:
        """From the RoIs of several images to outputs, for methods that need more than pooled features; see `outputs`."""
        return self.outputs(heads, rois.pool(), neck)

    def outputs(self, heads: RegionHeads, pooled: Tensor, neck: Callable[[Tensor], Tensor]) -> Outputs:
        """From pooled RoIs to outputs.

        Args:
            heads: `heads(features)` gives outputs; the method's own modules are its attributes.
            pooled: (R, channels, 7, 7) of vgg16, or the features (R, D) of lite0.
            neck: from `pooled` to the features (R, D) of the heads.
        """
        return heads(neck(pooled))

    def losses(self, outputs: Outputs, regions: Regions) -> dict[str, Tensor]:
        """Scalar losses by name, trained by their sum."""
        raise NotImplementedError

    def batch_losses(self, outputs: Sequence[Outputs], regions: Sequence[Regions]) -> dict[str, Tensor]:
        """Losses of the images that are in memory together; the means of their own, unless images learn from each other."""
        import torch

        images = [self.losses(*image) for image in zip(outputs, regions, strict=True)]
        return {name: torch.stack([losses[name] for losses in images]).mean() for name in images[0]}

    def scores(self, outputs: Outputs) -> Tensor:
        """Scores (R, C) at test: the mean of the branches' probabilities, or without branches those of the two streams."""
        import torch

        from weaksam_cli.wsod.losses import wsddn_scores

        if outputs.refinement_logits:
            return torch.stack([item.softmax(dim=1)[:, 1:] for item in outputs.refinement_logits]).mean(dim=0)
        return wsddn_scores(outputs.class_logits, outputs.detection_logits)

    def boxes(self, outputs: Outputs, boxes: Tensor) -> Tensor:
        """Boxes at test, xyxy pixel edges of the view: (R, 4), or (R, C, 4) with one for each class."""
        return boxes

    def training_step(self, detector: RegionDetector, iterations: int) -> tuple[Step, dict[str, Stateful]]:
        """What an iteration of so many does, and what a checkpoint keeps for it beside model and optimiser."""
        from weaksam_cli.training.loop import optimizer_step

        return optimizer_step, {}


class ClassBoxes(Method):
    """A method whose branches regress a box for each class, background first; at test they are averaged."""

    def delta_columns(self, class_count: int) -> int:
        """Four for each class."""
        return 4 * (class_count + 1)

    def boxes(self, outputs: Outputs, boxes: Tensor) -> Tensor:
        """The branches' deltas are averaged, then decoded: (R, C, 4)."""
        import torch

        from weaksam_cli.wsod.losses import decode

        decoded = decode(torch.stack(outputs.deltas).mean(dim=0), boxes)
        return decoded.unflatten(1, (decoded.shape[1] // 4, 4))[:, 1:]
