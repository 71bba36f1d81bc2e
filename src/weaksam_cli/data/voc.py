"""VOC layout: a folder with JPEGImages, Annotations and ImageSets; images and image-level labels.

Objects are given with name and `difficult` flag. Their boxes are looked at in `voc_truth` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeTree

from weaksam_cli.core.names import first_few
from weaksam_cli.data.dataset import (
    DatasetSplit,
    Difficult,
    GroundTruthSplit,
    ImageRecord,
    ReadRecipe,
    Remarks,
    Role,
    check_class,
    choose_splits,
    inside,
    numbered,
    role_of,
    with_labels,
)
from weaksam_cli.data.images import SUFFIXES
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "JPEGImages with Annotations (VOC)"
_CLASSES: Final = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant "
    "sheep sofa train tvmonitor"
)
VOC_CLASSES: Final = tuple(_CLASSES.split())
"""The official order, which the integer ids of published files follow."""

IMAGES: Final = "JPEGImages"
ANNOTATIONS: Final = "Annotations"
MAX_BYTES: Final = 32 * 1024 * 1024
"""An annotation of an image is some kilobytes; a file beyond this is none."""
_FLAGS: Final = frozenset({"-1", "0", "1"})
_DIFFICULT: Final = {"": False, "0": False, "1": True, "false": False, "true": True}


class Recipe(ReadRecipe):
    """How a VOC folder is read.

    Attributes:
        difficult: whether objects marked difficult give their class to the image's labels. "exclude" is what the
            published WSOD trainers do, "include" what the published CAM label files do; a stage can choose otherwise.
        year: release below a VOCdevkit that holds several.
        task: which folder of ImageSets names the splits.
    """

    method: Literal["voc"] = "voc"
    difficult: Difficult = "exclude"
    year: str | None = None
    task: Literal["Main", "Segmentation"] = "Main"


class AnnotationError(ValueError):
    """An annotation file that cannot be used; the message says why."""


@dataclass(frozen=True)
class VocObject:
    """An `object` of the file: its class, VOC's `difficult` flag, and the element for who may look further."""

    name: str
    difficult: bool
    element: Element


@dataclass(frozen=True)
class VocAnnotation:
    """One annotation file.

    Attributes:
        filename: the image it says it belongs to, or None.
        size: (height, width) in pixels as declared, or None without a complete `size`.
        objects: in the order of the file, which `SegmentationObject` masks count by.
    """

    filename: str | None
    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]


@dataclass(frozen=True)
class VocFolder:
    """One VOC release: `root` holds JPEGImages, Annotations and, mostly, ImageSets.

    Attributes:
        root: the folder.
        lists: split name to its list of ids; empty without ImageSets, when all annotated images are one split.
    """

    root: Path
    lists: Mapping[str, Path]

    def annotation(self, image_id: str) -> Path:
        """Path of the XML file of an image, whether or not it exists."""
        return self.root / ANNOTATIONS / f"{image_id}.xml"


FoundImage = tuple[ImageRecord, tuple[VocObject, ...] | None]
"""A readable image, not labelled yet, and its objects (None: there is no annotation file)."""


def likeness(source: Path) -> int:
    """3 where there is a VOC folder: nothing else holds JPEGImages and Annotations."""
    return 3 if source.is_dir() and voc_candidates(source) else 0


def read(source: Path, recipe: Recipe, _images: Path | None = None) -> tuple[DatasetSplit, ...]:
    """Splits of a VOC folder with image-level labels.

    An image without an annotation file is unlabelled (labels None) in a test split, as in the official VOC2012 test
    set, and listed as failed in a train split, where it could teach nothing. An image that cannot be read, or whose
    annotation cannot, is listed as failed. An image whose objects give no label keeps `labels == ()`.

    Classes: the list given; else the official twenty in their order when nothing else occurs in any split; else all
    that occur, sorted.

    Raises:
        UserError: when the folder, a split or all its images are missing, or a class is not in the list given.
    """
    folder = open_voc(source, recipe)
    roles = voc_roles(folder, recipe)
    parsed = {split: read_images(folder, split, role, recipe.max_pixels) for split, role in roles.items()}
    class_names = voc_classes(folder, recipe, [image for images, _ in parsed.values() for image in images])
    splits = []
    for split, (images, remarks) in parsed.items():
        records = []
        for record, objects in images:
            shown = [(item.name, item.difficult) for item in objects or ()]
            labelled = with_labels(record, shown, class_names, recipe.difficult)
            records.append(record if objects is None else labelled)
        ids, told = numbered(class_names), remarks.told(class_names)
        splits.append(DatasetSplit(split, class_names, ids, tuple(records), *told, role=roles[split]))
    return tuple(splits)


def read_ground_truth(
    source: Path, split: str, recipe: Recipe, _images: Path | None = None, *, masks: bool = False
) -> GroundTruthSplit:
    """Annotated objects of one split, for `eval` and `report` alone: see `voc_truth`."""
    from weaksam_cli.data.voc_truth import read_voc_truth

    return read_voc_truth(source, split, recipe, masks=masks)


def voc_candidates(source: Path) -> tuple[Path, ...]:
    """The VOC folders that `source` can mean: itself, or those below it or below a VOCdevkit in it."""
    if _is_voc(source):
        return (source,)
    parents = (source, source / "VOCdevkit")
    return tuple(
        child for parent in parents if parent.is_dir() for child in sorted(parent.iterdir()) if _is_voc(child)
    )


def open_voc(source: Path, recipe: Recipe) -> VocFolder:
    """Find the VOC folder that `source` means and its splits.

    Raises:
        UserError: when there is none, or several and the recipe's `year` does not choose one.
    """
    found, year = voc_candidates(source), recipe.year
    wanted = [folder for folder in found if year is None or folder.name.casefold() in (year, f"voc{year}")]
    # A single folder of any name needs no year; one that names another year is a mistake.
    if found == (source,) and not source.name.casefold().startswith("voc20"):
        wanted = [source]
    if not wanted:
        missing = f"with the year {year} " if year else ""
        raise UserError(
            f"no VOC dataset {missing}here",
            where=str(source),
            remedy=f"Found: {first_few(folder.name for folder in found)}"
            if found
            else f"Give the folder that holds {IMAGES} and {ANNOTATIONS}, or the VOCdevkit above it",
        )
    if len(wanted) > 1:
        raise UserError(
            f"several VOC datasets here: {first_few(folder.name for folder in wanted)}",
            where=str(source),
            remedy="Choose one with --set year=2007 or so, or give its folder",
        )
    return VocFolder(wanted[0], _split_lists(wanted[0] / "ImageSets" / recipe.task))


def voc_roles(folder: VocFolder, recipe: Recipe) -> Mapping[str, Role]:
    """The splits to read: those asked for, else those that do not overlap, the larger official one first.

    trainval with test; else train with val, or with test; else all lists, each with the role that its name suggests. A
    folder without ImageSets is one `trainval`.
    """
    names = list(folder.lists) or ["trainval"]
    pairs = (("trainval", "test"), ("train", "val"), ("train", "test"))
    pair = next((pair for pair in pairs if set(pair) <= set(names)), None)
    default: dict[str, Role] = {name: role_of(name) for name in names}
    if pair is not None:
        default = {pair[0]: "train", pair[1]: "test"}
    elif "trainval" in names:
        default = {"trainval": "train"}
    return choose_splits(recipe.splits, names, default, folder.root / "ImageSets")


def read_ids(folder: VocFolder, split: str) -> list[str]:
    """Image ids of a split in the order of its list; a +1/-1 column behind all ids is dropped.

    Raises:
        UserError: for an unreadable or empty list, or an id that leaves the folder.
    """
    if not folder.lists:
        ids = sorted(path.stem for path in (folder.root / ANNOTATIONS).glob("*.xml"))
        if not ids:
            raise UserError(
                "no annotation here", where=str(folder.root / ANNOTATIONS), remedy="Add the XML files"
            )
        return ids
    path = folder.lists[split]
    rows = _rows(path)
    flagged = _are_flagged(rows)
    ids = [row[0] if flagged else " ".join(row) for row in rows]
    if not ids:
        raise UserError("the list of ids is empty", where=str(path), remedy="List one image id per line")
    for image_id in ids:
        inside(folder.root / IMAGES, image_id, where=str(path))
    return ids


def find_image(folder: VocFolder, image_id: str, declared_name: str | None) -> Path | str:
    """The image of an id, or the reason why there is none.

    When several files have this stem, the annotation's <filename> chooses.
    """
    names = dict.fromkeys(
        f"{image_id}{spelled}" for suffix in SUFFIXES for spelled in (suffix, suffix.upper())
    )
    found = [path for name in names if (path := folder.root / IMAGES / name).is_file()]
    if not found:
        return f"no image {IMAGES}/{image_id}.jpg (nor with another suffix)"
    if len(found) == 1:
        return found[0]
    named = [path for path in found if path.name == declared_name]
    if named:
        return named[0]
    return f"several images have this id ({first_few(path.name for path in found)}) and no <filename> chooses"


def read_images(
    folder: VocFolder, split: str, role: Role, max_pixels: int
) -> tuple[list[FoundImage], Remarks]:
    """All images of a split that can be read, in the order of its list, and what is to be told about the others.

    Raises:
        UserError: when none can be read.
    """
    remarks = Remarks()
    found: list[FoundImage] = []
    seen = set[str]()
    for image_id in read_ids(folder, split):
        if image_id in seen:
            remarks.warn(image_id, "stands more than once in the list; taken once")
            continue
        seen.add(image_id)
        image = _image(folder, image_id, role, max_pixels, remarks)
        if image is not None:
            found.append(image)
    remarks.require(found, split, folder.root)
    return found, remarks


def voc_classes(folder: VocFolder, recipe: Recipe, known: Sequence[FoundImage]) -> tuple[str, ...]:
    """The class table of the whole dataset, the same whichever of its splits are `known`; hence it looks at all of them.

    Raises:
        UserError: naming the file, for a class that is not in the list given.
    """
    if recipe.classes is not None:
        for record, objects in known:
            for item in objects or ():
                check_class(item.name, recipe.classes, where=str(folder.annotation(record.key)))
        return recipe.classes
    names = {item.name for _, objects in known for item in objects or ()}
    names |= _names_elsewhere(folder, {record.key for record, _ in known})
    if names and names <= set(VOC_CLASSES):
        return VOC_CLASSES
    if not names:
        raise UserError(
            "no object in any annotation",
            where=str(folder.root),
            remedy="Weak supervision needs labels: give annotations with <object><name>",
        )
    return tuple(sorted(names))


def read_annotation(path: Path) -> VocAnnotation:
    """Parse one file; entities and document types are refused.

    Raises:
        AnnotationError: in words, for whatever is wrong with the file.
        FileNotFoundError: when there is none.
    """
    if path.stat().st_size > MAX_BYTES:
        raise AnnotationError(f"the file is larger than {MAX_BYTES} bytes")
    try:
        root = SafeTree.parse(path, forbid_dtd=True).getroot()
    except DefusedXmlException as error:
        reason = f"the XML declares entities or a document type, which is refused ({error})"
        raise AnnotationError(reason) from None
    except (ParseError, UnicodeError, LookupError, ValueError) as error:
        raise AnnotationError(f"no valid XML ({error})") from None
    if root is None or root.tag != "annotation":
        got = "missing" if root is None else f"<{root.tag}>"
        raise AnnotationError(f"the root element is {got}, expected <annotation>")
    objects = tuple(
        _object(element, number) for number, element in enumerate(root.findall("object"), start=1)
    )
    return VocAnnotation(text_of(root, "filename") or None, _size(root), objects)


def text_of(element: Element, tag: str) -> str:
    """Stripped text of a child, empty when there is none."""
    return (element.findtext(tag) or "").strip()


def _is_voc(folder: Path) -> bool:
    return (folder / IMAGES).is_dir() and (folder / ANNOTATIONS).is_dir()


def _split_lists(folder: Path) -> dict[str, Path]:
    """Lists of ids by split name, without VOC's lists per class (`cat_trainval.txt`: one flag behind each id)."""
    if not folder.is_dir():
        return {}
    paths = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    return {name: path for name, path in paths.items() if not _is_class_list(name, path, paths)}


def _is_class_list(name: str, path: Path, paths: Mapping[str, Path]) -> bool:
    return (
        "_" in name and name.rpartition("_")[2] in paths and bool(rows := _rows(path)) and _are_flagged(rows)
    )


def _are_flagged(rows: list[list[str]]) -> bool:
    return all(len(row) == 2 and row[1] in _FLAGS for row in rows)


def _rows(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the list of ids cannot be read ({error})", where=str(path), remedy="Save it as UTF-8 text"
        ) from None
    return [line.split() for line in text.splitlines() if line.strip()]


def _names_elsewhere(folder: VocFolder, known: set[str]) -> set[str]:
    names = set[str]()
    for split in folder.lists:
        for image_id in read_ids(folder, split):
            if image_id not in known:
                known.add(image_id)
                try:
                    names |= {item.name for item in read_annotation(folder.annotation(image_id)).objects}
                except (OSError, AnnotationError):
                    continue  # told when its own split is read
    return names


def _image(
    folder: VocFolder, image_id: str, role: Role, max_pixels: int, remarks: Remarks
) -> FoundImage | None:
    annotation: VocAnnotation | None = None
    file = folder.annotation(image_id)
    try:
        annotation = read_annotation(file)
    except FileNotFoundError:
        if role == "train":
            remarks.fail(image_id, f"no annotation {file.name}, so no label to train with")
            return None
    except (OSError, AnnotationError) as error:
        remarks.fail(image_id, f"{file.name}: {error}")
        return None
    path = find_image(folder, image_id, annotation.filename if annotation else None)
    if isinstance(path, str):
        remarks.fail(image_id, path)
        return None
    size = remarks.size_of(image_id, path, max_pixels, annotation.size if annotation else None)
    if size is None:
        return None
    return ImageRecord(image_id, path, *size), annotation.objects if annotation else None


def _object(element: Element, number: int) -> VocObject:
    name = text_of(element, "name")
    if not name:
        raise AnnotationError(f"object {number} has no <name>")
    flag = text_of(element, "difficult").casefold()
    if flag not in _DIFFICULT:
        raise AnnotationError(f"object {number} ({name}): <difficult> is {flag!r}, expected 0 or 1")
    return VocObject(name, _DIFFICULT[flag], element)


def _size(root: Element) -> tuple[int, int] | None:
    try:
        height, width = (int(float(text_of(root, f"size/{tag}"))) for tag in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None
