"""Mutations of bytes of any kind, and of text: lists, tables, TOML, XML."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Callable, Sequence
from random import Random
from xml.etree import ElementTree

from tests.fuzz.judge import ESCAPED
from tests.fuzz.trees import TEXTS, places

Mutator = Callable[[Random, bytes], bytes]

_INTERESTING = (
    b"\x00",
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\xff" * 8,
    b"\n",
    b"\x1b[2J",
    b"\xc3",
    b"\xef\xbb\xbf",
)


def blind(rng: Random, data: bytes) -> bytes:
    """Bits flipped, bytes cut off, moved, doubled or put in: without knowing what they mean."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        size = len(content) or 1
        at = rng.choice((rng.randrange(size), rng.randrange(min(size, 256))))
        length = rng.choice((1, 2, 4, 8, 64, 1000))
        action = rng.randrange(7)
        if action < 2 and content:
            content[at] ^= 1 << rng.randrange(8)
        elif action == 2:
            del content[at:]
        elif action == 3:
            del content[at : at + length]
        elif action == 4:
            content[at:at] = rng.choice((*_INTERESTING, rng.randbytes(length)))
        elif action == 5:
            content[at : at + length] = rng.choice((*_INTERESTING, rng.randbytes(length)))
        else:
            other = rng.randrange(size)
            content[at:at] = content[other : other + length]
    return bytes(content)


def mask_bytes(rng: Random, data: bytes) -> bytes:
    """A JSON file with masks, `rle` as a list of bytes or `mask` in base64: the bytes of one are changed."""
    tree = json.loads(data)
    holder, key = rng.choice([(holder, key) for holder, key in places(tree) if key in ("rle", "mask")])
    if key == "rle":
        holder[key] = list(blind(rng, bytes(holder[key])))
    else:
        holder[key] = base64.b64encode(blind(rng, base64.b64decode(holder[key]))).decode()
    return json.dumps(tree).encode()


def whole(rng: Random, data: bytes) -> bytes:
    """Something else altogether: nothing, one byte, random bytes, another encoding, the same twice."""
    return rng.choice(
        (b"", b"\x00", rng.randbytes(1000), data * 2, b"\xef\xbb\xbf" + data, b"\x00" * 4096, data.hex().encode(),
         _utf16(data), data.replace(b"\n", b"\r\n"), b"null", b"[]", b"{}", b"1", b"\x80\x04N.",
         b"PK\x05\x06" + b"\x00" * 18)
    )  # fmt: skip


def _utf16(data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode("utf-16")


def lines(rng: Random, data: bytes) -> bytes:
    """A text of lines: a line or a field of one is replaced, dropped, doubled or moved."""
    rows = data.decode().split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(rows))
        action = rng.randrange(7)
        if action < 3:
            fields = re.split(r"([ ,;\t=]+)", rows[at])
            fields[rng.randrange(len(fields))] = rng.choice(TEXTS)
            rows[at] = "".join(fields)
        elif action == 3:
            rows[at] = rng.choice((*TEXTS, "#", '"', '"a\nb"', rows[at] + " 1", rows[at] + ",x"))
        elif action == 4 and len(rows) > 1:
            del rows[at]
        elif action == 5:
            rows[at:at] = [rng.choice(rows)] * rng.choice((1, 1, 1000))
        else:
            rows[at] = rows[at].replace(" ", rng.choice((",", "\t", "  ", ";", "\u00a0", "\r")))
    return "\n".join(rows).encode("utf-8", "surrogatepass")


RAW_TOML: Sequence[str] = (
    "1e400", "nan", "inf", "-1", "9223372036854775808", "1" * 5000, '""', '"\\ud800"', "'''a\nb'''", '"\\u0000"',
    '"\\u001b[31m"',
    "true", "[]", "[[]]", "{}", "{a = 1}", "1979-05-27", "1979-05-27T00:32:00Z", "0xffffffffffffffffff", "[" * 5000,
    "", "=", "'/dev/zero'",
    "'../../x'", "'a b'", "'auto'", "'cpu'", "2", "0", f"'{ESCAPED}'",
)  # fmt: skip


def toml(rng: Random, data: bytes) -> bytes:
    """A TOML file of `key = value`: values that TOML has and the program does not want."""
    rows = data.decode().splitlines()
    at = rng.randrange(len(rows))
    key = rows[at].partition(" = ")[0]
    rows[at] = rng.choice(
        (
            f"{key} = {rng.choice(RAW_TOML)}",
            f"[{key}]\na = 1",
            f"{key}.a = 1",
            f"[[{key}]]",
            f"{key}x = 1",
            rows[at] * 2,
        )
    )
    return "\n".join(rows).encode("utf-8", "surrogatepass")


_HEADS: Sequence[bytes] = (
    b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>\n',
    b'<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>\n', b'<?xml version="1.0" encoding="utf-16"?>',
    b"\xff\xfe",
    b'<?xml version="1.0" encoding="x-none"?>', b'<?xml version="1.0" encoding="utf-7"?>', b'<?xml version="9.9"?>',
    b"\xef\xbb\xbf",
    b'<?xml-stylesheet href="x"?>', b"<!-- " + b"x" * 100_000 + b" -->", b"text", b"<a/>", b"\x00",
    b'<?xml version="1.0" encoding="cp037"?>',
)  # fmt: skip
_XML_TEXTS = tuple(text for text in TEXTS if not re.search("[\x00-\x08\x0b-\x1f\ud800]", text))


def xml(rng: Random, data: bytes) -> bytes:
    """An XML file: elements with other text or names, dropped, doubled, moved, nested deep; or another head."""
    root = ElementTree.fromstring(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        parents = [element for element in root.iter() if len(element)]
        parent = rng.choice(parents or [root])
        child = rng.choice([*parent] or [root])
        action = rng.randrange(9)
        if action < 4:
            target = rng.choice([*root.iter()])
            names = [*target.attrib]
            if names and rng.random() < 0.7:
                target.set(rng.choice(names), rng.choice(_XML_TEXTS))
            else:
                target.text = rng.choice(_XML_TEXTS)
        elif action == 4 and child is not root:
            parent.remove(child)
        elif action == 5:
            parent.append(copy.deepcopy(child))
        elif action == 6:
            child.tag = rng.choice(
                (child.tag.upper(), "bndbox", "object", "name", "xmin", "image", "box", "{urn:x}y")
            )
        elif action == 7 and child is not root:
            rng.choice([*root.iter()]).append(copy.deepcopy(child))
        else:
            child.text, child.tail = None, rng.choice(_XML_TEXTS)
    text = ElementTree.tostring(root)
    if rng.random() < 0.15:
        return rng.choice(_HEADS) + text.replace(b"</name>", b"&b;</name>", 1)
    if rng.random() < 0.05:
        deep = rng.choice((1000, 200_000))
        return text.replace(b"</", b"<a>" * deep + b"</a>" * deep + b"</", 1)
    if rng.random() < 0.05:
        return (
            text.decode()
            .replace("1", "\x01", 1)
            .encode(rng.choice(("utf-8", "utf-16", "latin-1")), "replace")
        )
    return text
