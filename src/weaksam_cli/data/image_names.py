"""Which image of a split does a name in a foreign file mean?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from weaksam_cli.core.names import first_few
from weaksam_cli.data.labels import Labels, digits_id
from weaksam_cli.data.pickles import shown
from weaksam_cli.data.text_lines import text_lines
from weaksam_cli.errors import UserError

_SHOWN: Final = 3
_COCO_PREFIX: Final = re.compile(r"COCO_\w+_(?=\d+$)", re.ASCII)


@dataclass(frozen=True)
class ImageNames:
    """The images of a split by all the names that files of other programs use for them.

    Attributes:
        source: the file that they are known from, for messages.
        keys: keys of the images, in order.
        ids: key -> integer id, where it has one.
        by_text: key, file name, stem (where it is unique) or id in digits -> key.
        by_digits: id -> key, where the digits of the file name are the id.
    """

    source: str
    keys: tuple[str, ...]
    ids: dict[str, int]
    by_text: dict[str, str]
    by_digits: dict[int, str]

    @classmethod
    def of_labels(cls, labels: Labels) -> ImageNames:
        """From a labels artifact, which gives each image its integer id."""
        images = labels.file.images
        files = {image.key: image.file_name for image in images}
        return cls._build(labels.path, files, {image.key: image.id for image in images})

    @classmethod
    def of_keys(cls, source: Path, keys: Sequence[str]) -> ImageNames:
        """From keys alone: only VOC's have an id, their digits."""
        ids = {key: item for key in keys if (item := digits_id(key)) is not None}
        return cls._build(source, {key: key for key in keys}, ids)

    @classmethod
    def _build(cls, source: Path, files: dict[str, str], ids: dict[str, int]) -> ImageNames:
        stems = {key: PurePosixPath(name).stem for key, name in files.items()}
        count = Counter(stems.values())
        # Images without ids are given the numbers 1 to n, which no text means.
        are_running = list(ids.values()) == list(range(1, len(ids) + 1))
        by_text = {} if are_running else {str(identifier): key for key, identifier in ids.items()}
        by_text |= {stem: key for key, stem in stems.items() if count[stem] == 1}
        by_text |= {name: key for key, name in files.items()}
        by_text |= {key: key for key in files}
        digits = {key: digits_id(_COCO_PREFIX.sub("", stem)) for key, stem in stems.items()}
        by_digits = {identifier: key for key, identifier in ids.items() if digits[key] == identifier}
        return cls(source.name, tuple(files), ids, by_text, by_digits)

    def resolve(self, names: Iterable[object], *, where: str) -> list[str | None]:
        """The key that each name means, or None for an image of another split.

        A text is a key, a file name, its stem with or without COCO's prefix, or an id in digits; an integer is an id.
        A running number that `weaksam data` gave an image is never meant by a text: 000012 is no twelfth image.

        Raises:
            UserError: a name that is neither text nor integer; two names for one image.
        """
        by_id = {identifier: key for key, identifier in self.ids.items()}
        found: list[str | None] = []
        seen: dict[str, object] = {}
        for name in names:
            key = self._find(name, by_id, where)
            if key is not None and key in seen:
                raise UserError(
                    f"{shown(seen[key])} and {shown(name)} are both image {key!r} of {self.source}",
                    where=where,
                    remedy="Every image stands once in a file",
                )
            found.append(key)
            if key is not None:
                seen[key] = name
        return found

    def _find(self, name: object, by_id: dict[int, str], where: str) -> str | None:
        if isinstance(name, str):
            identifier = digits_id(_COCO_PREFIX.sub("", name))
            return self.by_text.get(name) or (None if identifier is None else self.by_digits.get(identifier))
        if isinstance(name, (int, np.integer)) and not isinstance(name, bool):
            return by_id.get(int(name))
        raise UserError(f"expected image ids as text or integers, got {shown(name)}", where=where)

    def first(self) -> str:
        """The first images with their ids, for messages: `'a.jpg' (id 1), 'b.jpg' (id 2) and 5 more`."""
        ids = self.ids
        return first_few(
            (f"{key!r} (id {ids[key]})" if key in ids else repr(key) for key in self.keys), _SHOWN
        )


def first_names(names: Iterable[object]) -> str:
    """The first few names, for messages."""
    return first_few(map(shown, names), _SHOWN)


def read_order(path: Path) -> list[str]:
    """The names in a list of images, one a line; blank lines are passed over.

    Raises:
        UserError: a missing, unreadable or empty list.
    """
    names = [line.strip() for line in text_lines(path, "a list of images", remedy="Check --order")]
    names = [name for name in names if name]
    if not names:
        raise UserError("the list names no image", where=str(path))
    return names
