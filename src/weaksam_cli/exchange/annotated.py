"""Images with labelled boxes and masks: what the formats of annotation tools and detectors are written from.

Made of detections, pseudo ground truth or proposals; it holds no file open and knows no format.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.artifacts.reader import Artifact
from weaksam_cli.core.boxes import FloatArray, as_boxes, clip
from weaksam_cli.core.masks import areas
from weaksam_cli.core.names import first_twice, is_text, leaves_folder
from weaksam_cli.core.polygons import outline
from weaksam_cli.core.types import Detections, taken
from weaksam_cli.data.coco.shapes import segmentation_mask
from weaksam_cli.data.detections import read_detections
from weaksam_cli.data.image_names import first_names, without_suffix
from weaksam_cli.data.labels import Labels
from weaksam_cli.errors import UserError
from weaksam_cli.exchange.formats import Remarks

OBJECT: Final = "object"
"""The class of proposals, which have none."""
_ROUNDING: Final = 0.01
"""Pixels that a box may stand out of its image without a word."""

ImagesWish = Literal["none", "copy", "link"]


@dataclass(frozen=True)
class Options:
    """What a format can be asked for.

    Attributes:
        scores: write scores where the format has them on request alone.
        images: put the images beside the labels, as copies or symbolic links.
    """

    scores: bool = False
    images: ImagesWish = "none"


class Row(NamedTuple):
    """A box: the index of its class, xyxy pixel edges, its score and its mask where it has them.

    The mask is compressed RLE (COCO's `counts`) of the image's size; None, too, for one without a pixel.
    """

    class_index: int
    box: tuple[float, float, float, float]
    score: float | None
    mask: bytes | None = None

    def fractions(self, image: AnnotatedImage) -> tuple[float, float, float, float]:
        """Left, top, width and height of the box as shares of the image's sides."""
        left, top, right, bottom = self.box
        width, height = right - left, bottom - top
        return left / image.width, top / image.height, width / image.width, height / image.height

    def polygon(self, image: AnnotatedImage) -> list[tuple[int, int]] | None:
        """The mask's outline as x, y pixel edges, see `polygons.outline`; None without a mask."""
        ring = None if self.mask is None else outline(self.mask, image.height, image.width)
        return None if ring is None else [(x, y) for x, y in ring.tolist()]


@dataclass(frozen=True)
class AnnotatedImage:
    """One image with its boxes, and masks.

    Attributes:
        key: the image's identity: its path under the image root, or its VOC id.
        path: its file on this machine; None where nobody knows.
        width, height: pixels, after EXIF orientation.
        boxes: float32 (n, 4), xyxy pixel edges.
        classes: int32 (n,), index into `Annotated.classes`.
        scores: float32 (n,), finite; None where there are none.
        id: the integer id that COCO files of its dataset give it; None where it has none.
        masks: n compressed RLE strings of the image's size; None for boxes alone.

    Raises:
        ValueError: arrays of other shapes, boxes that end before they begin, values that are not finite, an empty image.
    """

    key: str
    path: Path | None
    width: int
    height: int
    boxes: FloatArray
    classes: NDArray[np.int32]
    scores: NDArray[np.float32] | None = None
    id: int | None = None
    masks: tuple[bytes, ...] | None = None

    def __post_init__(self) -> None:
        as_boxes(self.boxes, name=f"boxes of {self.key!r}", ordered=True)
        if self.masks is not None and len(self.masks) != len(self.boxes):
            raise ValueError(f"masks of {self.key!r}: expected {len(self.boxes)}, got {len(self.masks)}")
        if min(self.width, self.height) < 1:
            raise ValueError(f"{self.key!r}: expected an image of pixels, got {self.width} x {self.height}")
        for name, values in (("classes", self.classes), ("scores", self.scores)):
            if values is not None and values.shape != (len(self.boxes),):
                raise ValueError(f"{name} of {self.key!r}: expected {len(self.boxes)}, got {values.shape}")
        if self.scores is not None and not np.isfinite(self.scores).all():
            raise ValueError(f"scores of {self.key!r}: expected finite values, got NaN or infinity")

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def suffix(self) -> str:
        """Of its `file_name`."""
        return PurePosixPath(self.file_name).suffix

    @property
    def file_name(self) -> str:
        """Its POSIX path below the folder of images: the key, with the suffix of the file where the key has none (VOC)."""
        suffix = self.path.suffix if self.path else ""
        return self.key if self.key.endswith(suffix) else self.key + suffix

    def detections(self) -> Detections:
        """The boxes with their classes, masks and scores; 1 where there are none."""
        scores = np.ones(len(self), np.float32) if self.scores is None else self.scores
        return Detections(self.boxes, self.classes, scores, self.masks)

    def rows(self) -> list[Row]:
        """The boxes with their classes, scores and masks; numbers are the shortest decimals that are the same float32."""
        boxes = [(left, top, right, bottom) for left, top, right, bottom in _decimals(self.boxes)]
        scores = [None] * len(self) if self.scores is None else _decimals(self.scores)
        masks: Sequence[bytes | None] = [None] * len(self)
        if self.masks is not None:
            pixels = areas(self.masks, self.height, self.width).tolist()
            masks = [mask if count else None for mask, count in zip(self.masks, pixels, strict=True)]
        return list(map(Row, self.classes.tolist(), boxes, scores, masks))

    def take(self, index: NDArray[np.generic]) -> AnnotatedImage:
        """The same with the boxes at `index` (integers or a mask)."""
        scores = None if self.scores is None else self.scores[index]
        masks = taken(self.masks, index)
        return replace(self, boxes=self.boxes[index], classes=self.classes[index], scores=scores, masks=masks)


@dataclass(frozen=True)
class Annotated:
    """Images with boxes of named classes, and masks.

    Attributes:
        classes: their names, distinct.
        images: in order; keys are distinct.
        class_ids: the ids that COCO files of the dataset give the classes; None: 1 to n.
        split: what the images are called together.

    Raises:
        ValueError: a name, key or id that stands twice, an index without a class, scores of some images alone.
    """

    classes: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    class_ids: tuple[int, ...] | None = None
    split: str = "default"

    def __post_init__(self) -> None:
        ids = [image.id for image in self.images if image.id is not None]
        for name, values in (
            ("classes", self.classes),
            ("class_ids", self.class_ids or ()),
            ("keys", [image.key for image in self.images]),
            ("ids", ids),
        ):
            if (twice := first_twice(values)) is not None:
                raise ValueError(f"{name}: {twice!r} stands twice")
        if self.class_ids is not None and len(self.class_ids) != len(self.classes):
            raise ValueError(f"class_ids: expected {len(self.classes)}, got {len(self.class_ids)}")
        for image in self.images:
            if ((image.classes < 0) | (image.classes >= len(self.classes))).any():
                raise ValueError(f"classes of {image.key!r}: expected indexes below {len(self.classes)}")
        if len({image.scores is None for image in self.images if len(image)}) > 1:
            raise ValueError("scores: some images have them and others do not")

    @property
    def boxes(self) -> int:
        """How many boxes there are."""
        return sum(map(len, self.images))

    @property
    def has_scores(self) -> bool:
        """Have the boxes scores?"""
        return all(image.scores is not None for image in self.images if len(image))

    @property
    def masks(self) -> int:
        """How many of the boxes have a mask."""
        return sum(len(image) for image in self.images if image.masks is not None)


def annotated_detections(path: Path, labels: Labels) -> Annotated:
    """Detections or pseudo ground truth (COCO results, or a COCO-JSON document) of the images of `labels`.

    Raises:
        UserError: see `read_detections`; images whose size nobody knows.
    """
    found = read_detections(path, labels, masks=True)
    images = []
    for image in labels.file.images:
        if not image.height or not image.width:
            remedy = "Give the labels of the images with --labels"
            raise UserError(f"the size of image {image.key!r} is not known", where=str(path), remedy=remedy)
        file = _file_of(image.file_name, labels)
        item = found[image.key]
        images.append(
            AnnotatedImage(
                image.key,
                file,
                image.width,
                image.height,
                item.boxes,
                item.class_index,
                item.scores,
                image.id,
                item.masks,
            )
        )
    ids = tuple(category.id for category in labels.file.categories)
    return Annotated(tuple(labels.class_names), tuple(images), ids, labels.file.info.split)


def annotated_proposals(artifact: Artifact, labels: Labels | None, folder: Path | None) -> Annotated:
    """The proposals of an artifact, of the one class `OBJECT`; images that failed are left out.

    Args:
        artifact: open; under the keys of `labels` where they are given.
        labels: name the files of the images.
        folder: of the images, where there are no labels; the keys are paths below it.
    """
    boxes, estimates = artifact.column("boxes"), artifact.column("predicted_iou").astype(np.float32)
    are_known, entries = bool(np.isfinite(estimates).all()), labels.by_key() if labels else {}
    images = []
    for key in artifact.image_ids:
        span, (height, width) = artifact.span(key), artifact.image_value(key, "image_size").tolist()
        file = _file_of(entries[key].file_name, labels) if labels else folder / key if folder else None
        scores = estimates[span] if are_known else None
        classes = np.zeros(span.stop - span.start, np.int32)
        identifier = entries[key].id if labels else None
        images.append(
            AnnotatedImage(
                key, file, width, height, as_boxes(boxes[span]), classes, scores, identifier,
                _proposal_masks(artifact, key, height, width),
            )
        )  # fmt: skip
    split = labels.file.info.split if labels else artifact.path.stem
    return Annotated((OBJECT,), tuple(images), None, split)


def _proposal_masks(artifact: Artifact, key: str, height: int, width: int) -> tuple[bytes, ...] | None:
    """The masks of the proposals of an image, where all have one.

    Raises:
        UserError: one that is not of the image's size.
    """
    found = [item.tobytes() for item in artifact.blobs(key, "masks")]
    if not all(found):
        return None
    with artifact.refusing(key):
        return tuple(
            segmentation_mask({"size": [height, width], "counts": item.decode()}, height, width)
            for item in found
        )


def _file_of(name: str, labels: Labels | None) -> Path | None:
    return labels.image_root / name if labels and labels.image_root != Path() else None


def within(annotated: Annotated, min_score: float | None = None) -> tuple[Annotated, list[str]]:
    """The boxes of at least a score, cut to their images, without those that have no area; and what is to be told.

    Raises:
        UserError: a least score for boxes without scores.
    """
    if min_score is not None and not annotated.has_scores:
        raise UserError("these boxes have no scores", where="--min-score", remedy="Leave it away")
    if min_score is not None and not 0 <= min_score < np.inf:
        raise UserError(f"expected a number of 0 or more, got {min_score}", where="--min-score")
    remarks, images, without = Remarks(), [], 0
    for whole in annotated.images:
        sure = None if min_score is None or whole.scores is None else whole.scores >= np.float32(min_score)
        image = whole if sure is None else whole.take(np.asarray(sure))
        boxes = clip(image.boxes, image.height, image.width)
        filled = np.asarray((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        if count := int((np.abs(boxes - image.boxes) > _ROUNDING)[filled].any(axis=1).sum()):
            remarks.cut[image.key] = count
        if not filled.all():
            remarks.empty[image.key] = int((~filled).sum())
        images.append(replace(image, boxes=boxes).take(filled))
        pixels = areas(images[-1].masks or (), image.height, image.width)
        without += int((pixels == 0).sum())
    told = [f"{without} masks have no pixel: their boxes stand alone"] if without else []
    return replace(annotated, images=tuple(images)), [*remarks.lines(""), *told]


def stems(images: Sequence[AnnotatedImage]) -> tuple[list[str], list[str]]:
    """A path without suffix for each image, distinct, below a folder: for formats that name files after images.

    Of images that differ in their suffix alone, the later ones have it as a part of their name: `a_png`.

    Returns:
        The paths, and what is to be told.
    """
    found: dict[str, str] = {}
    renamed = []
    for image in images:
        name = PurePosixPath(image.file_name).as_posix()
        stem = without_suffix(name)
        if stem in found:
            renamed.append(image.key)
            stem = "_".join(name.rsplit(".", 1))
            while stem in found:
                stem += "_"
        found[stem] = image.key
    what = (
        f"{len(renamed)} images differ from others in their suffix alone, which became a part of their names"
    )
    return list(found), [f"{what}: {first_names(renamed)}"] if renamed else []


def check_names(annotated: Annotated) -> None:
    """Refuse images that are not named by a path below a folder, and classes whose names are no text.

    Raises:
        UserError: there is one.
    """
    for image in annotated.images:
        if not is_text(image.key) or leaves_folder(image.key) or not PurePosixPath(image.key).name:
            raise UserError(f"the image {image.key[:200]!r} is not named by a path below a folder")
    for name in annotated.classes:
        if not is_text(name):
            raise UserError(f"the class name {name[:200]!r} is no text")


def require_scores(annotated: Annotated) -> None:
    """Refuse boxes without scores, for formats of results, which are ranked by them.

    Raises:
        UserError: there are some.
    """
    if annotated.boxes and not annotated.has_scores:
        raise UserError("these boxes have no scores, and results have one each", remedy="Export to coco")


def not_held(annotated: Annotated, why: str) -> list[str]:
    """What is to be told of scores that a format has no place for."""
    return [f"scores are left out: {why}"] if annotated.boxes and annotated.has_scores else []


def masks_not_held(annotated: Annotated, why: str) -> list[str]:
    """What is to be told of masks that a format has no place for."""
    return [f"{annotated.masks} masks are left out: {why}"] if annotated.masks else []


def json_bytes(content: Any, indent: int | None = None) -> bytes:
    """A JSON document; a file's name may hold bytes that are no text, which are written as escapes."""
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _decimals(values: NDArray[np.float32]) -> list[Any]:
    return values.astype(str).astype(np.float64).tolist()
