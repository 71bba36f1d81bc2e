"""XML files from anywhere: of bounded size, without entities and document types."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeTree

MAX_BYTES: Final = 96 * 1024 * 1024
"""A tree of elements takes up to twenty times the size of its file."""
_BEGINNING: Final = 4096


class XmlError(ValueError):
    """A file that cannot be used; the message says why."""


def beginning(path: Path) -> bytes:
    """The first bytes of a file, which tell what it is; none of a file that cannot be read."""
    try:
        with path.open("rb") as handle:
            return handle.read(_BEGINNING)
    except OSError:
        return b""


def parse_xml(path: Path, *, max_bytes: int = MAX_BYTES) -> Element:
    """The root element of a file; entities and document types are refused.

    Raises:
        XmlError: in words, for whatever is wrong with the file.
        FileNotFoundError: when there is none.
    """
    size = path.stat().st_size
    if size > max_bytes:
        raise XmlError(f"the file has {size} bytes, {max_bytes} at most are read")
    try:
        root = SafeTree.parse(path, forbid_dtd=True).getroot()
    except DefusedXmlException as error:
        reason = f"the XML declares entities or a document type, which is refused ({error})"
        raise XmlError(reason) from None
    except (ParseError, UnicodeError, LookupError, ValueError) as error:
        raise XmlError(f"no valid XML ({error})") from None
    if root is None:
        raise XmlError("the root element is missing")
    return root
