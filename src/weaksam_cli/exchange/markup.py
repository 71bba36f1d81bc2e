"""XML documents as bytes, for the formats that are XML."""

from __future__ import annotations

import re
from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from weaksam_cli.errors import UserError

_NO_XML: Final = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, and a carriage return, which readers change."""


def add(parent: Element, tag: str, content: object = None, **attributes: object) -> Element:
    """A new element, with text in it where `content` is given."""
    element = SubElement(parent, tag, {name: str(value) for name, value in attributes.items()})
    element.text = None if content is None else str(content)
    return element


def xml_bytes(root: Element) -> bytes:
    """The document, indented.

    Raises:
        UserError: a text that XML cannot hold.
    """
    for element in root.iter():
        for text in (element.text or "", *element.attrib.values()):
            if _NO_XML.search(text):
                what = f"XML cannot hold the control characters in {text[:200]!r}"
                raise UserError(what, where="--format", remedy="Export to coco, or rename it")
    indent(root)
    return tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"
