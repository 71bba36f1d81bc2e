"""VOC layout: an XML file an image. Boxes are looked at where ground truth asks for them alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Final, Literal, NamedTuple
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from weaksam_cli.core import masks as mask_codec
from weaksam_cli.core.boxes import as_boxes, voc_to_edges
from weaksam_cli.core.names import first_few
from weaksam_cli.data.annotations import RawBox, RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.dataset import ReadRecipe, Remarks, Role, given_folder, role_of
from weaksam_cli.data.images import SUFFIXES
from weaksam_cli.data.outlines import numbers
from weaksam_cli.data.voc_folders import WHOLE, Part, candidates, find_voc, part_of
from weaksam_cli.data.xml_files import XmlError, parse_xml
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "JPEGImages with Annotations, or images with XML files (VOC)"
_CLASSES: Final = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant "
    "sheep sofa train tvmonitor"
)
VOC_CLASSES: Final = tuple(_CLASSES.split())
"""The official order, which the integer ids of published files follow."""

MASKS: Final = "SegmentationObject"
MAX_BYTES: Final = 32 * 1024 * 1024
"""An annotation of an image is some kilobytes; a file beyond this is none."""
_DIFFICULT: Final = {"1": True, "true": True, "yes": True, "1.0": True}
_PLAIN: Final = frozenset({"", "0", "false", "no", "0.0", "none", "unspecified"})


class Recipe(ReadRecipe):
    """How a VOC folder is read.

    Attributes:
        year: release below a VOCdevkit that holds several.
        task: which folder of ImageSets names the splits.
    """

    method: Literal["voc"] = "voc"
    year: str | None = None
    task: Literal["Main", "Segmentation"] = "Main"


class VocAnnotation(NamedTuple):
    """One annotation file.

    Attributes:
        filename: the image it says it belongs to, or "".
        size: (height, width) in pixels as declared, or None without a complete `size`.
        objects: elements in the order of the file, which `SegmentationObject` masks count by.
    """

    filename: str
    size: tuple[int, int] | None
    objects: tuple[Element, ...]


def likeness(source: Path) -> int:
    """3 where there are XML files of VOC with images: nothing else has those."""
    if not source.is_dir():
        return 0
    return (
        3 if candidates(source) or any(part_of(child) for child in source.iterdir() if child.is_dir()) else 0
    )


def read(source: Path, recipe: Recipe, images: Path | None = None, *, boxes: bool) -> RawDataset:
    """What a VOC folder says.

    The splits that are read: trainval with test; else train with val, or with test; else all lists, each with the role
    that its name suggests. A folder without lists is one `trainval`.

    Raises:
        UserError: there is no such folder, or several and the recipe's `year` does not choose one.
    """
    folder = find_voc(source, year=recipe.year, task=recipe.task)
    if folder is None:
        raise UserError(
            "no VOC dataset here",
            where=str(source),
            remedy="Give the folder that holds JPEGImages and Annotations, or the VOCdevkit above it",
        )
    masks = folder.root / MASKS

    def split(name: str) -> RawSplit:
        part = folder.parts[name]
        if images is not None:
            part = part._replace(images=given_folder(images))
        reader = _Reader(part, masks if boxes and masks.is_dir() else None, boxes, Remarks())
        found = [reader.image(image_id) for image_id in _ids(folder.ids[name], part)]
        known = tuple(image for image in found if image is not None)
        reader.tell_names()
        return RawSplit(name, part.annotations, known, remarks=reader.remarks)

    return RawDataset(
        folder.root, tuple(folder.parts), default_roles(folder.parts), split,
        usual_order=VOC_CLASSES, warnings=folder.warnings,
    )  # fmt: skip


def default_roles(splits: Mapping[str, object]) -> dict[str, Role]:
    """The splits that do not overlap, the larger official one first, with the roles that their names suggest."""
    for pair in (("trainval", "test"), ("train", "val"), ("train", "test")):
        if set(pair) <= set(splits):
            return {pair[0]: "train", pair[1]: "test"}
    if WHOLE in splits:
        return {WHOLE: "train"}
    return {name: role_of(name) for name in splits}


def _ids(listed: Sequence[str] | None, part: Part) -> Sequence[str]:
    ids = listed if listed is not None else sorted(path.stem for path in part.annotations.glob("*.xml"))
    if not ids:
        raise UserError("no annotation here", where=str(part.annotations), remedy="Add the XML files")
    return ids


class _Reader:
    """Reads the images of a split.

    Args:
        part: where they lie.
        masks: the folder of instance masks, where they are wanted.
        boxes: whether boxes are.
        remarks: what is noticed.
    """

    def __init__(self, part: Part, masks: Path | None, boxes: bool, remarks: Remarks) -> None:
        self.part, self.masks, self.boxes, self.remarks = part, masks, boxes, remarks
        self._misnamed: list[str] = []
        self._renamed: list[str] = []

    def image(self, image_id: str) -> RawImage | None:
        """One image; None after noting why it cannot be used."""
        if ".." in PurePosixPath(image_id).parts or PurePosixPath(image_id).is_absolute() or "\0" in image_id:
            self.remarks.fail(image_id, "its id leaves the folder of the images")
            return None
        file, annotation, objects = self.part.annotations / f"{image_id}.xml", None, None
        try:
            annotation = read_annotation(file)
            objects = self._objects(image_id, annotation)
        except FileNotFoundError:
            pass
        except (OSError, XmlError) as error:
            self.remarks.fail(image_id, f"{file.name}: {error}")
            return None
        path = self._file(image_id, annotation.filename if annotation else "")
        if isinstance(path, str):
            self.remarks.fail(image_id, path)
            return None
        declared = annotation.size if annotation else None
        return RawImage(path.name, objects, key=image_id, path=path, declared=declared)

    def _objects(self, image_id: str, annotation: VocAnnotation) -> tuple[RawObject, ...]:
        found = []
        for number, element in enumerate(annotation.objects, start=1):
            name, title = text_of(element, "name"), f"object {number}"
            if not name:
                raise XmlError(f"{title} has no <name>")
            flag = text_of(element, "difficult").casefold()
            if flag not in _DIFFICULT and flag not in _PLAIN:
                raise XmlError(f"{title} ({name}): <difficult> is {flag!r}, expected 0 or 1")
            box = read_box(element) if self.boxes else None
            mask = None
            if self.masks is not None:
                mask = partial(read_mask, self.masks / f"{image_id}.png", number)
            found.append(RawObject(name, _DIFFICULT.get(flag, False), title, box, mask=mask))
        return tuple(found)

    def _file(self, image_id: str, filename: str) -> Path | str:
        """The image of an id, or the reason why there is none.

        The id is the stem of the file. When several files have it, <filename> chooses; when none has, <filename> is taken.
        """
        named = PurePosixPath(filename.replace("\\", "/")).name
        found = [path for name in _spellings(image_id) if (path := self.part.images / name).is_file()]
        other = self.part.images / named if named else None
        is_there = other is not None and named not in (".", "..") and "\0" not in named and other.is_file()
        if not found and is_there and other is not None:
            self._renamed.append(image_id)
            return other
        if not found:
            return f"no image {self.part.images.name}/{image_id}.jpg (nor with another suffix)"
        if is_there and PurePosixPath(named).stem != PurePosixPath(image_id).name:
            self._misnamed.append(image_id)
        chosen = [path for path in found if path.name == named]
        if len(found) > 1 and not chosen:
            names = first_few(path.name for path in found)
            return f"several images have this id ({names}) and no <filename> chooses"
        return (chosen or found)[0]

    def tell_names(self) -> None:
        """Say where names of files and <filename> disagree."""
        if self._misnamed:
            self.remarks.warn(
                "",
                f"{len(self._misnamed)} annotations name another image in <filename>, which is there, too; the image of the "
                f"annotation's own name is taken: {first_few(self._misnamed, 3)}",
            )
        if self._renamed:
            self.remarks.warn(
                "",
                f"{len(self._renamed)} annotations have no image of their own name; that of <filename> is taken: "
                f"{first_few(self._renamed, 3)}",
            )


def _spellings(image_id: str) -> list[str]:
    names = [f"{image_id}{spelled}" for suffix in SUFFIXES for spelled in (suffix, suffix.upper())]
    return list(dict.fromkeys(names))


def read_annotation(path: Path) -> VocAnnotation:
    """Parse one file; entities and document types are refused.

    Raises:
        XmlError: in words, for whatever is wrong with the file.
        FileNotFoundError: when there is none.
    """
    root = parse_xml(path, max_bytes=MAX_BYTES)
    if root.tag != "annotation":
        raise XmlError(f"the root element is <{root.tag}>, expected <annotation>")
    sides = numbers([text_of(root, f"size/{tag}") for tag in ("height", "width")])
    fits = sides is not None and all(1 <= side < 1e9 for side in sides)
    size = (int(sides[0]), int(sides[1])) if sides is not None and fits else None
    return VocAnnotation(text_of(root, "filename"), size, tuple(root.findall("object")))


def read_box(element: Element) -> RawBox | str:
    """The box of an object: 1-based pixels with both ends inside, which may be fractions, as pixel edges."""
    box = element.find("bndbox")
    if box is None:
        return "has no <bndbox>"
    texts = [text_of(box, tag) for tag in ("xmin", "ymin", "xmax", "ymax")]
    corners = numbers(texts)
    if corners is None:
        return f"a coordinate is no number in {texts}"
    if not all(abs(value) < 1e9 for value in corners):
        return f"a coordinate is not finite in {texts}"
    left, top, right, bottom = voc_to_edges(as_boxes([corners]))[0].tolist()
    return left, top, right, bottom


def text_of(element: Element, tag: str) -> str:
    """Stripped text of a child, empty when there is none."""
    return (element.findtext(tag) or "").strip()


def read_mask(path: Path, number: int, height: int, width: int) -> bytes:
    """The mask of an object as compressed RLE: value k of the PNG is the k-th object of the XML, 255 is border.

    Raises:
        ValueError: there is no such mask, or the PNG is none of masks.
    """
    values = _mask_values(path)
    if values.shape != (height, width):
        raise ValueError(
            f"{MASKS}/{path.name}: expected {width} x {height} pixels, got {values.shape[1]} x {values.shape[0]}"
        )
    mask = values == number
    if not mask.any():
        raise ValueError(f"{MASKS}/{path.name} has no pixel of it")
    return mask_codec.encode(mask[None])[0]


@lru_cache(maxsize=2)
def _mask_values(path: Path) -> NDArray[np.uint8]:
    """The PNG of an image, which is asked for once for each of its objects."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as file:
            if file.mode not in ("P", "L"):
                raise ValueError(f"{MASKS}/{path.name}: expected a palette or grey PNG, got {file.mode}")
            return np.asarray(file, dtype=np.uint8)
    except FileNotFoundError:
        raise ValueError(f"no mask file {MASKS}/{path.name}") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{MASKS}/{path.name} cannot be read ({error})") from None
