"""VOC layout: an XML file an image. Boxes are looked at where ground truth asks for them alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final, Literal, NamedTuple
from xml.etree.ElementTree import Element

from weaksam_cli.core.boxes import as_boxes, voc_to_edges
from weaksam_cli.core.names import first_few
from weaksam_cli.data.annotations import RawBox, RawDataset, RawImage, RawObject, RawSplit
from weaksam_cli.data.dataset import SPLIT_NAMES, ReadRecipe, Remarks, Role, role_of, split_name
from weaksam_cli.data.image_files import ImageFiles, without_suffix
from weaksam_cli.data.outlines import box_of_points, numbers
from weaksam_cli.data.voc import sbd
from weaksam_cli.data.voc.folders import Part, VocFolder, find_voc, xml_folders
from weaksam_cli.data.voc.lists import read_lists, sets_folder, unlisted
from weaksam_cli.data.voc.masks import MaskFolders
from weaksam_cli.data.xml_files import XmlError, parse_xml
from weaksam_cli.errors import UserError

LOOKS_LIKE: Final = "JPEGImages with Annotations, or images with XML files (VOC)"
_CLASSES: Final = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant "
    "sheep sofa train tvmonitor"
)
VOC_CLASSES: Final = tuple(_CLASSES.split())
"""The official order, which the integer ids of published files follow."""

WHOLE: Final = "trainval"
MAX_BYTES: Final = 16 * 1024 * 1024
"""An annotation of an image is some kilobytes; a file beyond this is none."""
_DIFFICULT: Final = frozenset({"1", "true", "yes", "1.0"})
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
        filename: the last name of the image it says it belongs to, or "".
        size: (height, width) in pixels as declared; None without a complete `size`, or with one of zero.
        objects: in the order of the file, which `SegmentationObject` masks count by.
        oddities: what it says that is none of VOC's values, in words.
    """

    filename: str
    size: tuple[int, int] | None
    objects: tuple[RawObject, ...]
    oddities: tuple[str, ...]


def likeness(source: Path) -> int:
    """3 where there are XML files of VOC: nothing else has those."""
    return 3 if source.is_dir() and next(xml_folders(source), None) is not None else 0


def read(source: Path, recipe: Recipe, images: Path | None = None, *, boxes: bool) -> RawDataset:
    """What a VOC-like dataset says.

    Its splits are those of its lists, else its folders that are named as splits, else all is one `trainval`. Read are
    trainval and test; else train, val and test, as far as they are there; else all, with the roles that their names suggest.

    The image of an XML file is the one of the same stem, as in VOC, whatever its <filename> says; where there is none, the
    one that <filename> names, unless that has an XML file of its own.

    Raises:
        UserError: there is no such dataset, or several and the recipe's `year` does not choose one; no image is found.
    """
    folder = find_voc(source, images, year=recipe.year) if source.is_dir() else None
    if folder is None:
        raise UserError(
            "no VOC dataset here",
            where=str(source),
            remedy="Give the folder that holds JPEGImages and Annotations, or the VOCdevkit above it",
        )
    masks = MaskFolders.of(folder.root, VOC_CLASSES) if boxes else None
    readers: dict[str, _Reader] = {}
    for name, part in folder.parts.items():
        readers[name] = _Reader(part, masks, readers)
    splits, warnings = _splits(folder, readers, source, recipe)

    def split(name: str) -> RawSplit:
        return splits[name].reader.split(name, splits[name].ids)

    return RawDataset(
        folder.root, tuple(splits), default_roles(splits), split,
        usual_order=VOC_CLASSES, warnings=(*folder.warnings, *warnings),
    )  # fmt: skip


class _Split(NamedTuple):
    reader: _Reader
    ids: Sequence[str]


def _splits(
    folder: VocFolder, readers: Mapping[str, _Reader], source: Path, recipe: Recipe
) -> tuple[dict[str, _Split], Sequence[str]]:
    """The splits by lists or by folders, and what is to be told of them."""
    if len(readers) > 1:
        told = f"the folders {first_few(readers)} are the splits; the lists in ImageSets are not used"
        has_lists = sets_folder(folder.root) is not None
        return {name: _Split(reader, reader.ids) for name, reader in readers.items()}, [told] * has_lists
    ((name, reader),) = readers.items()
    home = reader.part.home
    parents = {parent: None for path in reader.part.xml.values() for parent in path.parents}
    inside = [parent for parent in parents if parent.is_relative_to(home)]
    lists = read_lists(
        folder.root, [*inside, source, reader.files.root], recipe.task, reader.ids, reader.classes
    )
    added = [split for split in recipe.splits or () if split in sbd.NAMES and split not in lists.ids]
    lists.ids |= {split: sbd.train_aug(folder.root, reader.ids) for split in added}
    if lists.ids:
        warnings = [*lists.warnings, *unlisted(lists.ids, reader.ids)]
        return {split: _Split(reader, ids) for split, ids in lists.ids.items()}, warnings
    by_folder = {} if name else reader.by_folder()
    rest = by_folder.pop("", [])
    if by_folder:
        left = f"{len(rest)} images lie in no folder of a split and are in none: {first_few(rest, 3)}"
        splits = {split: _Split(reader, ids) for split, ids in by_folder.items()}
        return splits, [*lists.warnings, *([left] if rest else [])]
    own = folder.root.name.casefold()
    name = name or (own if own in SPLIT_NAMES else WHOLE)
    return {name: _Split(reader, reader.ids)}, lists.warnings


def default_roles(splits: Iterable[str]) -> dict[str, Role]:
    """The splits that do not overlap, the larger official one first, with the roles that their names suggest."""
    names = {name: role_of(name) for name in splits}
    if {WHOLE, "test"} <= names.keys():
        return {WHOLE: "train", "test": "test"}
    usual = {name: role for name, role in names.items() if name in SPLIT_NAMES and name != WHOLE}
    if set(usual.values()) == {"train", "test"}:
        return usual
    return {WHOLE: "train"} if WHOLE in names else names


class _Reader:
    """Reads annotations that lie together, with their images; each XML file once.

    Args:
        part: where they lie.
        masks: where instance masks lie; None where neither boxes nor masks are wanted.
        readers: those of all parts of the dataset, which may have their images in one folder.
    """

    def __init__(self, part: Part, masks: MaskFolders | None, readers: Mapping[str, _Reader]) -> None:
        self.part, self._masks, self._all = part, masks, readers
        self._read: dict[str, VocAnnotation | str] = {}

    def annotation(self, image_id: str) -> VocAnnotation | str | None:
        """What the XML file of an image says, or why it cannot be used; None where there is none."""
        path = self.part.xml.get(image_id)
        if path is not None and image_id not in self._read:
            try:
                self._read[image_id] = read_annotation(path, image_id, self._masks)
            except XmlError as error:
                self._read[image_id] = f"{path.name}: {error}"
            except OSError as error:
                self._read[image_id] = f"{path.name} cannot be read ({error.strerror})"
        return self._read.get(image_id)

    def classes(self) -> set[str]:
        """All classes, in lower case."""
        known = [self.annotation(image_id) for image_id in self.part.xml]
        return {
            item.name.casefold()
            for found in known
            if isinstance(found, VocAnnotation)
            for item in found.objects
        }

    @cached_property
    def files(self) -> ImageFiles:
        """Where the images lie: by the names of the XML files, else by what these say."""
        part = self.part
        try:
            return ImageFiles(list(part.xml), part.places, part.home)
        except UserError:
            named = [name for image_id in part.xml if (name := self._filename(image_id))]
            if not named:
                raise
            return ImageFiles(named, part.places, part.home)

    def _filename(self, image_id: str) -> str:
        found = self.annotation(image_id)
        return found.filename if isinstance(found, VocAnnotation) else ""

    @cached_property
    def own(self) -> dict[str, list[str]]:
        """XML files -> the images of their name: none, one, or several of other suffixes."""
        return {image_id: self.files.likely(image_id) for image_id in self.part.xml}

    @cached_property
    def renamed(self) -> dict[str, str]:
        """XML files without an image of their name -> the image that <filename> names, which no other one has."""
        taken = {path for paths in self.own.values() for path in paths}
        found: dict[str, str] = {}
        for image_id in (image_id for image_id, paths in self.own.items() if not paths):
            near = self.files.likely(self._filename(image_id))
            if len(near) == 1 and near[0] not in taken:
                found[image_id] = near[0]
                taken.add(near[0])
        return found

    @cached_property
    def taken(self) -> set[Path]:
        """The images that have an XML file."""
        own = (path for paths in self.own.values() for path in paths)
        return {self.files.root / path for path in (*own, *self.renamed.values())}

    @cached_property
    def bare(self) -> dict[str, str]:
        """Images without annotation that lie where others have one, by their ids."""
        taken = {path for reader in self._all.values() for path in reader.taken}
        folders, root = {path.parent for path in self.taken}, self.files.root
        found = {without_suffix(path): path for path in self.files.paths if root / path not in taken}
        return {image_id: path for image_id, path in found.items() if (root / path).parent in folders}

    @property
    def ids(self) -> list[str]:
        """All images, those without annotation last."""
        return [*self.part.xml, *(image_id for image_id in self.bare if image_id not in self.part.xml)]

    def by_folder(self) -> dict[str, list[str]]:
        """Split -> images that lie in a folder named as it; those that do not are under ""."""
        found: dict[str, list[str]] = {}
        for image_id in self.ids:
            folders = reversed(PurePosixPath(self._path(image_id)[0] or "").parts[:-1])
            split = next(filter(None, map(split_name, folders)), "")
            found.setdefault(split, []).append(image_id)
        return found

    def split(self, name: str, ids: Sequence[str]) -> RawSplit:
        """The images of these ids, and what is to be told of them."""
        remarks = Remarks()
        images = [image for image_id in ids if (image := self._image(image_id, remarks)) is not None]
        for line in self._told(ids):
            remarks.warn("", line)
        return RawSplit(name, self.part.home, images, remarks=remarks)

    def _image(self, image_id: str, remarks: Remarks) -> RawImage | None:
        found, path = self.annotation(image_id), self._path(image_id)
        reason = found if isinstance(found, str) else path[1]
        if isinstance(found, str) or path[0] is None:
            remarks.fail(image_id, reason)
            return None
        file = self.files.root / path[0]
        if found is None:
            return RawImage(file.name, None, image_id, file)
        return RawImage(file.name, found.objects, image_id, file, found.size)

    def _path(self, image_id: str) -> tuple[str | None, str]:
        """The image of an id below the folder of images; or None and why there is none."""
        if image_id not in self.part.xml:
            return self.bare.get(image_id), "there is neither an image nor an XML file of this name"
        if image_id in self.renamed:
            return self.renamed[image_id], ""
        found = self.own[image_id]
        chosen = [path for path in found if PurePosixPath(path).name == self._filename(image_id)] or found
        if len(chosen) == 1:
            return chosen[0], ""
        if not found:
            return None, f"there is no image of this name in {self.files.root.name}"
        return None, f"several images have this id ({first_few(found)}) and no <filename> chooses"

    def _told(self, ids: Iterable[str]) -> Iterator[str]:
        """Where names of files and <filename> disagree, and what is no value of VOC's: a line a kind."""
        kinds: dict[str, list[str]] = {}
        for image_id in ids:
            found = self.annotation(image_id)
            if not isinstance(found, VocAnnotation):
                continue
            for oddity in found.oddities:
                kinds.setdefault(oddity, []).append(image_id)
            named = without_suffix(found.filename).casefold()
            if image_id in self.renamed:
                kind = "have no image of their own name; the one that <filename> names is taken"
                kinds.setdefault(kind, []).append(f"{image_id} ({found.filename[:100]})")
            elif named and named != PurePosixPath(image_id).name.casefold():
                kind = "name another image in <filename>; the image of the XML file's own name is taken"
                kinds.setdefault(kind, []).append(f"{image_id} ({found.filename[:100]})")
        for kind, which in kinds.items():
            yield f"{len(which)} XML files {kind}: {first_few(which, 3)}"


def read_annotation(path: Path, image_id: str, masks: MaskFolders | None) -> VocAnnotation:
    """Parse one file; entities and document types are refused.

    Args:
        path: the file.
        image_id: of its image.
        masks: where instance masks lie; None where no boxes are wanted, either: they are not looked at then.

    Raises:
        XmlError: in words, for whatever is wrong with the file.
    """
    root = parse_xml(path, max_bytes=MAX_BYTES)
    if root.tag.casefold() != "annotation":
        raise XmlError(f"the root element is <{root.tag}>, expected <annotation>")
    oddities: dict[str, None] = {}
    objects: dict[int, RawObject] = {}
    for number, element in enumerate(root.findall("object"), start=1):
        if text_of(element, "deleted") == "1":  # LabelMe 3 keeps what was deleted
            continue
        name, flag = text_of(element, "name"), text_of(element, "difficult").casefold()
        if not name:
            raise XmlError(f"object {number} has no <name>")
        if flag not in _DIFFICULT and flag not in _PLAIN:
            oddities[f"say <difficult>{flag[:20]}</difficult>, which is taken as not difficult"] = None
        box = None if masks is None else read_box(element)
        objects[number] = RawObject(name, flag in _DIFFICULT, f"object {number}", box)
    sides = numbers([text_of(root, f"size/{tag}") for tag in ("height", "width")])
    size = (int(sides[0]), int(sides[1])) if sides and all(1 <= side < 1e9 for side in sides) else None
    if sides and size is None:
        oddities["give a <size> without pixels; the size of the image is taken"] = None
    filename = PurePosixPath(text_of(root, "filename").replace("\\", "/")).name
    every = tuple(objects.values()) if masks is None else masks.attach(image_id, objects)
    return VocAnnotation(filename, size, every, tuple(oddities))


def read_box(element: Element) -> RawBox | str:
    """The box of an object: 1-based pixels with both ends inside, which may be fractions, as pixel edges.

    Where nothing is above 1 and something below it, these are no such pixels: fractions of the sides, as `box_form` finds.
    """
    box = element.find("bndbox")
    if box is None:
        return _labelme_box(element)
    texts = [text_of(box, tag) for tag in ("xmin", "ymin", "xmax", "ymax")]
    corners = numbers(texts)
    if corners is None:
        return f"a coordinate is no number in {texts}"
    if not all(abs(value) < 1e9 for value in corners):
        return f"a coordinate is not finite in {texts}"
    if min(corners) < 1 >= max(corners):
        return corners[0], corners[1], corners[2], corners[3]
    left, top, right, bottom = voc_to_edges(as_boxes([corners]))[0].tolist()
    return left, top, right, bottom


def _labelme_box(element: Element) -> RawBox | str:
    """The box of an object of LabelMe 3, which writes polygons, and masks with their boxes: pixels from 0."""
    points = [text_of(point, axis) for point in element.iterfind("polygon/pt") for axis in ("x", "y")]
    points = points or [text_of(element, f"segm/box/{tag}") for tag in ("xmin", "ymin", "xmax", "ymax")]
    values = numbers(points)
    return "has no <bndbox>" if values is None or len(values) < 4 else box_of_points(values)


def text_of(element: Element, tag: str) -> str:
    """The words of a child, with single spaces; empty when there is none."""
    return " ".join((element.findtext(tag) or "").split())
