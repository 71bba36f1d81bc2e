"""VOC's annotation files. Objects are given with name and flag; their boxes are left to the ground-truth reader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeTree

MAX_BYTES: Final = 32 * 1024 * 1024
"""An annotation of an image is some kilobytes; a file beyond this is none."""

_FLAG_VALUES: Final = {"": False, "0": False, "1": True, "false": False, "true": True}


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


def read_annotation(path: Path) -> VocAnnotation:
    """Parse one file; entities and document types are refused.

    Raises:
        AnnotationError: in words, for whatever is wrong with the file.
        FileNotFoundError: when there is none.
    """
    root = _parse(path)
    if root.tag != "annotation":
        raise AnnotationError(f"the root element is <{root.tag}>, expected <annotation>")
    objects = tuple(
        _object(element, number) for number, element in enumerate(root.findall("object"), start=1)
    )
    return VocAnnotation(text_of(root, "filename") or None, _size(root), objects)


def text_of(element: Element, tag: str) -> str:
    """Stripped text of a child, empty when there is none."""
    return (element.findtext(tag) or "").strip()


def _parse(path: Path) -> Element:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise AnnotationError(f"the file is larger than {MAX_BYTES} bytes")
        root = SafeTree.parse(path, forbid_dtd=True).getroot()
    except DefusedXmlException as error:
        raise AnnotationError(
            f"the XML declares entities or a document type, which is refused ({error})"
        ) from None
    except (ParseError, UnicodeError, LookupError, ValueError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"no valid XML ({error})") from None
    if root is None:
        raise AnnotationError("the XML is empty")
    return root


def _object(element: Element, number: int) -> VocObject:
    name = text_of(element, "name")
    if not name:
        raise AnnotationError(f"object {number} has no <name>")
    flag = text_of(element, "difficult").casefold()
    if flag not in _FLAG_VALUES:
        raise AnnotationError(f"object {number} ({name}): <difficult> is {flag!r}, expected 0 or 1")
    return VocObject(name, _FLAG_VALUES[flag], element)


def _size(root: Element) -> tuple[int, int] | None:
    try:
        height, width = (int(float(text_of(root, f"size/{tag}"))) for tag in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None
