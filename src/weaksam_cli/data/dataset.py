"""What the readers of all layouts share: the value types of a dataset, what a recipe says, and how splits are chosen.

A layout is a module of this package with

* `Recipe`, what can be said about reading it, a `ReadRecipe`;
* `read(source, recipe, images, boxes=)`, what the annotations say as a `RawDataset` (see `annotations`), with boxes and
  masks where ground truth asks for them and without otherwise;
* `LOOKS_LIKE`, what lies in such a dataset, in words, and `likeness(source)`, how surely `source` is one;
* `make(recipe, context)`, where the program makes the dataset itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import Field, field_validator

from weaksam_cli.core.names import first_few, plain_word
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.data.images import PILLOW_MAX_PIXELS, image_size
from weaksam_cli.errors import ImageError, UserError, suggestion

Role = Literal["train", "test"]
Difficult = Literal["exclude", "include"]
_IMAGE_FOLDER: Final = re.compile(r"image|img|pic|photo|frame|^data$", re.IGNORECASE)
_USUAL_FOLDER: Final = re.compile(r"^((jpe?g|png)?images?|data)$", re.IGNORECASE)
"""What may belong to a dataset although it lies outside of its folder."""
SPLIT_NAMES: Final = (
    *("trainval", "train", "training"),
    *("val", "valid", "validation", "dev", "test", "testing"),
)
ANNOTATION_FOLDERS: Final = ("annotations", "annotation", "labels", "json", "xml", "xmls")
_SHORT: Final = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


class ReadRecipe(RecipeModel):
    """What all layouts share.

    Attributes:
        splits: split -> role; null reads what the dataset offers.
        classes: the allowed classes in their order; null takes them from the dataset.
        difficult: whether objects marked difficult (COCO: crowds) give their class to the image's labels. "exclude" is what
            the published WSOD trainers do, "include" what the published CAM label files do; a stage can choose otherwise.
        split_off: name and share of a test split that is divided off the only training split, such as `{test: 0.2}`.
        max_pixels: larger images are listed as failed; the limit travels with the labels to all later stages.
    """

    splits: dict[str, Role] | None = Field(None, max_length=1_000)
    classes: tuple[str, ...] | None = Field(None, max_length=100_000)
    difficult: Difficult = "exclude"
    split_off: dict[str, Annotated[float, Field(gt=0, lt=1)]] | None = Field(None, min_length=1, max_length=1)
    max_pixels: int = Field(default=100_000_000, gt=0, le=PILLOW_MAX_PIXELS)

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and (len(set(names)) < len(names) or not all(names)):
            raise ValueError("class names must be distinct and not empty")
        return names


class Remark(NamedTuple):
    """Something to tell about one image; `key` is empty when it is about the whole dataset."""

    key: str
    reason: str


@dataclass(frozen=True)
class ImageRecord:
    """One image and what is known about it as a whole.

    Attributes:
        key: identity: VOC's id, otherwise the POSIX path relative to the image root, suffix included.
        path: the file.
        height: pixels, upright (EXIF applied), read from the file and not from the annotation.
        width: pixels.
        labels: classes present, in the order of the class names; () when there is none, None when nobody said.
        difficult: classes that difficult objects (COCO: crowds) alone show, whether or not they are in `labels`.
        image_id: the dataset's own integer id (COCO), or None.
    """

    key: str
    path: Path
    height: int
    width: int
    labels: tuple[str, ...] | None = None
    difficult: tuple[str, ...] = ()
    image_id: int | None = None


@dataclass(frozen=True)
class DatasetSplit:
    """The images of one split with image-level labels, and no box.

    Attributes:
        name: such as "trainval".
        role: "train" where the labels supervise, "test" where they are only evaluated.
        class_names: all classes of the dataset, distinct, in order; the same for each of its splits.
        category_ids: the dataset's integer of each class (COCO's own ids, gaps kept; otherwise 1 to n).
        images: every readable image in the order of the dataset, keys unique.
        failed: images left out, with the reason.
        warnings: things that look wrong but were taken.
        origin: the split of the dataset that they are a part of, where it was divided here; else its own name.
    """

    name: str
    role: Role
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[ImageRecord, ...]
    failed: tuple[Remark, ...]
    warnings: tuple[Remark, ...]
    origin: str


@dataclass
class Remarks:
    """Collects what is to be told while a split is read."""

    failed: list[Remark] = field(default_factory=list)
    warnings: list[Remark] = field(default_factory=list)

    def fail(self, key: str, reason: str) -> None:
        """Note that the image or object is left out."""
        self.failed.append(Remark(key, reason))

    def warn(self, key: str, reason: str) -> None:
        """Note something odd that is taken as it is."""
        self.warnings.append(Remark(key, reason))

    def size_of(
        self, key: str, path: Path, max_pixels: int, declared: tuple[int, int] | None = None
    ) -> tuple[int, int] | None:
        """(height, width) of an image; None after noting why it cannot be read. Warns when it is not as declared."""
        try:
            found = image_size(path, max_pixels=max_pixels)
        except ImageError as error:
            self.fail(key, error.one_line())
            return None
        if declared not in (None, found):
            reason = f"the annotation says {_by(declared)} pixels, the file has {_by(found)}"
            if declared == found[::-1]:
                reason += "; if EXIF turned the image, its boxes were drawn on the unturned one"
            self.warn(key, reason)
        return found

    def told(self, class_names: Sequence[str]) -> tuple[tuple[Remark, ...], tuple[Remark, ...]]:
        """`failed` and `warnings` of a split, with the remarks about its class names first."""
        return tuple(self.failed), (*similar_spellings(class_names), *self.warnings)

    def require(self, images: Sequence[object], split: str, where: Path) -> None:
        """Refuse a split without a readable image.

        Raises:
            UserError: with the first reason.
        """
        if not images:
            keys = {remark.key for remark in self.failed}
            first = f"{self.failed[0].key}: {self.failed[0].reason}" if self.failed else "it lists none"
            raise UserError(
                f"none of the {len(keys)} images of {split} can be read; {first}",
                where=str(where),
                remedy="Complete the dataset, or choose another split",
            )

    def box_is_inside(self, key: str, name: str, box: Sequence[float], size: tuple[int, int]) -> bool:
        """Whether an object's box (xyxy pixel edges) lies in an image of (height, width); notes where it does not.

        A box that stands out by more than a pixel is taken as it is, with a warning.
        """
        left, top, right, bottom = box
        height, width = size
        if right <= left or bottom <= top:
            self.fail(key, f"{name} has no extent")
        elif right <= 0 or bottom <= 0 or left >= width or top >= height:
            self.fail(key, f"{name} lies outside the image")
        else:
            if min(left, top) < -1 or right > width + 1 or bottom > height + 1:
                self.warn(key, f"{name} stands out of the image")
            return True
        return False


def choose_splits(
    wanted: Mapping[str, Role] | None, available: Collection[str], default: Mapping[str, Role], source: Path
) -> Mapping[str, Role]:
    """The splits to read with their roles: those asked for, else the default ones.

    Raises:
        UserError: a split that the dataset does not have, or whose name cannot name a file.
    """
    chosen = default if wanted is None else wanted
    for name in chosen:
        plain_word(name, "split", where=f"{source}, splits")
        if name not in available:
            raise UserError(
                f"there is no split {name!r}",
                where=str(source),
                remedy=f"Available: {first_few(available, 20)}",
            )
    return chosen


def role_of(split: str) -> Role:
    """The role that a split's name suggests: val, valid, minival, dev, test... are for testing, all others for training."""
    name = split.casefold()
    if name.startswith("train"):
        return "train"
    return "test" if "val" in name or "test" in name or split_word(name) == "dev" else "train"


def split_word(name: str) -> str:
    """The one usual name of a split in the name of a folder or list: train for `train_images`; empty for none or two."""
    words = [word for word in re.split(r"[^a-z]+", name.casefold()) if word in SPLIT_NAMES]
    if words == ["train", "val"]:
        return "trainval"
    return _SHORT.get(words[0], words[0]) if len(words) == 1 else ""


def split_name(name: str) -> str:
    """What the split of a folder or list is called: the whole name where it is a usual one, else the one in it; or empty."""
    return name.casefold() if name.casefold() in SPLIT_NAMES else split_word(name)


def given_folder(images: Path) -> Path:
    """The folder of images that the user named.

    Raises:
        UserError: when there is none.
    """
    if not images.is_dir():
        raise UserError("no such folder of images", where=str(images), remedy="Check --images")
    return images


def likely_folders(
    annotations: Path, images: Path | None, split: str = "", above: Path | None = None
) -> tuple[Path, ...]:
    """Where the images of annotations in a folder may lie, the likeliest first: the folder that the user named, else around.

    A folder named by the user for one split, as `train_images`, is not that of another with a folder of its own beside it.

    Args:
        annotations: the folder of the annotations.
        images: what the user named.
        split: whose images are meant; folders that are named by it come first.
        above: another folder to look into, of the whole dataset.

    Raises:
        UserError: the user named a folder that is not there.
    """
    if images is not None:
        given = given_folder(images)
        is_of_another = split_word(given.name) not in ("", split_word(split))
        beside = _of_split(given.parent, split) if is_of_another else []
        return *beside, *_of_split(given, split), given
    places, whole = list[Path](), above or dataset_folder(annotations)
    for base in dict.fromkeys((annotations, annotations.parent, whole)):
        is_image_folder = _IMAGE_FOLDER if base.is_relative_to(whole) else _USUAL_FOLDER
        tops = [child for child in subfolders(base) if is_image_folder.search(child.name)]
        of_split = [child for top in (*tops, base) for child in _of_split(top, split)]
        inner = [child for top in of_split for child in subfolders(top) if _IMAGE_FOLDER.search(child.name)]
        mixed = [top for top in tops if not split_word(top.name) or not split_word(split)]
        places += [*inner, *of_split, *mixed, base]
    # What is called like an image in a folder of annotations is rather its mask.
    return tuple(sorted(dict.fromkeys(places), key=lambda place: place.name.casefold() in ANNOTATION_FOLDERS))


def dataset_folder(annotations: Path) -> Path:
    """The folder of a dataset: that of its annotations, or the one above where its name says that it holds nothing else."""
    return annotations.parent if annotations.name.casefold() in ANNOTATION_FOLDERS else annotations


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones and what macOS and Windows leave."""
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if child.name[:1] not in "._$" and child.is_dir())


def _of_split(folder: Path, split: str) -> list[Path]:
    """The folders in a folder that are named as a split: first by its full name, then by the usual one in it."""
    word = split_word(split)
    found = [child for child in subfolders(folder) if word and split_word(child.name) == word]
    same = [child for child in subfolders(folder) if child.name.casefold() == split.casefold()]
    return list(dict.fromkeys((*same, *found)))


def check_class(name: str, class_names: Sequence[str], *, where: str) -> None:
    """Refuse a class that is not in the list the user gave.

    Raises:
        UserError: naming the place, the class and the allowed ones.
    """
    if name not in class_names:
        raise UserError(
            f"the class {name!r} is not in the class list{suggestion(name, class_names)}",
            where=where,
            remedy=f"Allowed: {first_few(class_names, 20)}",
        )


def in_class_order(found: Iterable[str], class_names: Sequence[str]) -> tuple[str, ...]:
    """The distinct classes of `found`, in the order of `class_names`."""
    present = set(found)
    return tuple(name for name in class_names if name in present)


def with_labels(
    image: ImageRecord,
    objects: Sequence[tuple[str, bool]],
    class_names: Sequence[str],
    difficult: Difficult,
) -> ImageRecord:
    """The image with the labels that its objects (class, whether it is difficult) give it."""
    every, plain = {name for name, _ in objects}, {name for name, hard in objects if not hard}
    return replace(
        image,
        labels=in_class_order(every if difficult == "include" else plain, class_names),
        difficult=in_class_order(every - plain, class_names),
    )


def numbered(class_names: Sequence[str]) -> tuple[int, ...]:
    """Category ids 1 to n, where the dataset has none of its own."""
    return tuple(range(1, len(class_names) + 1))


def similar_spellings(class_names: Sequence[str]) -> tuple[Remark, ...]:
    """One remark per group of class names that differ only in case, spaces, punctuation or the composition of accents."""
    groups: dict[str, list[str]] = {}
    for name in class_names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        groups.setdefault(re.sub(r"[\W_]+", "", plain) or name, []).append(name)
    return tuple(
        Remark("", f"the classes {' and '.join(map(repr, names))} may be two spellings of one")
        for names in groups.values()
        if len(names) > 1
    )


def _by(size: tuple[int, int] | None) -> str:
    return f"{size[1]} x {size[0]}" if size else "no"
