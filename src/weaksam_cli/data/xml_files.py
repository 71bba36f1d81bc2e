"""XML files from anywhere: of bounded size, without entities and document types."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeTree

from weaksam_cli.core.files import beginning

MAX_BYTES: Final = 96 * 1024 * 1024
"""A tree of elements takes up to twenty times the size of its file."""
_ENCODING: Final = re.compile(rb"<\?xml[^>]*encoding=[\"']([\w.-]+)")
_EAST_ASIAN: Final = frozenset(
    {"gb2312", "gbk", "gb18030", "big5", "shift_jis", "cp932", "euc_jp", "euc_kr", "cp949"}
)
"""What Python can decode and expat cannot."""
_ROOT: Final = re.compile(r"<([\w:.-]+)")
_NO_ELEMENT: Final = re.compile(r"<\?.*?\?>|<!--.*?-->|<![^>]*>", re.DOTALL)


class XmlError(ValueError):
    """A file that cannot be used; the message says why."""


def root_tag(path: Path) -> str:
    """The name of the root element without its namespace, from the first bytes; empty where there is none."""
    start = beginning(path)
    text = start.decode(
        "utf-16" if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8", "ignore"
    )
    found = _ROOT.search(_NO_ELEMENT.sub("", text))
    return found[1].rpartition(":")[2] if found else ""


def parse_xml(path: Path, *, max_bytes: int = MAX_BYTES) -> Element:
    """The root element of a file, its names without namespaces; entities and document types are refused.

    Raises:
        XmlError: in words, for whatever is wrong with the file.
        FileNotFoundError: when there is none.
    """
    if path.exists() and not path.is_file():
        raise XmlError("it is no regular file")
    size = path.stat().st_size
    if size > max_bytes:
        raise XmlError(f"the file has {size} bytes, {max_bytes} at most are read")
    try:
        root = _parsed(path.read_bytes().lstrip())
    except DefusedXmlException as error:
        reason = f"the XML declares entities or a document type, which is refused ({error})"
        raise XmlError(reason) from None
    except (ParseError, UnicodeError, LookupError, ValueError) as error:
        raise XmlError(f"no valid XML ({error})") from None
    return root


def _parsed(data: bytes) -> Element:
    try:
        root = SafeTree.fromstring(data, forbid_dtd=True)
    except ValueError:
        declared = _ENCODING.match(data)
        if declared is None or codecs.lookup(declared[1].decode()).name not in _EAST_ASIAN:
            raise
        root = SafeTree.fromstring(data.decode(declared[1].decode()), forbid_dtd=True)
    for element in root.iter() if root.tag.startswith("{") else ():
        element.tag = element.tag.rpartition("}")[2]
    return root
