"""Which image of a split does a name mean, in a foreign file or in an artifact of images without a dataset?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from weaksam_cli.artifacts.computed import Rows
from weaksam_cli.artifacts.reader import Artifact, open_artifact
from weaksam_cli.artifacts.schema import Schema
from weaksam_cli.core.names import first_few
from weaksam_cli.data.images import SUFFIXES
from weaksam_cli.data.labels import Labels, digits_id
from weaksam_cli.data.pickled_values import shown
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
        by_stem: stem -> keys and file names of the images that have it, without the suffix of an image.
        by_digits: id -> key, where the digits of the file name are the id.
    """

    source: str
    keys: tuple[str, ...]
    ids: dict[str, int]
    by_text: dict[str, str]
    by_stem: dict[str, list[tuple[str, str]]]
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
        stems = {key: stem(name) for key, name in files.items()}
        by_stem: dict[str, list[tuple[str, str]]] = {}
        for key, name in files.items():
            by_stem.setdefault(stems[key], []).append((key, without_suffix(name)))
        # Images without ids are given the numbers 1 to n, which no text means.
        are_running = list(ids.values()) == list(range(1, len(ids) + 1))
        by_text = {} if are_running else {str(identifier): key for key, identifier in ids.items()}
        by_text |= {text: found[0][0] for text, found in by_stem.items() if len(found) == 1}
        by_text |= {name: key for key, name in files.items()}
        by_text |= {key: key for key in files}
        digits = {key: digits_id(_COCO_PREFIX.sub("", text)) for key, text in stems.items()}
        by_digits = {identifier: key for key, identifier in ids.items() if digits[key] == identifier}
        return cls(source.name, tuple(files), ids, by_text, by_stem, by_digits)

    def resolve(self, names: Iterable[object], *, where: str) -> list[str | None]:
        """The key that each name means, or None for an image of another split.

        A text is a key, a file name, its stem with or without COCO's prefix, or an id in digits; an integer is an id.
        A running number that `weaksam data` gave an image is never meant by a text: 000012 is no twelfth image. Of a path,
        the folders are looked at only where several images have its stem.

        Raises:
            UserError: a name that is neither text nor integer, or may mean several images; two names for one image.
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
            identifier = digits_id(_COCO_PREFIX.sub("", stem(name)))
            exact = self.by_text.get(name) or self._by_path(name, where)
            return exact or (None if identifier is None else self.by_digits.get(identifier))
        if isinstance(name, (int, np.integer)) and not isinstance(name, bool):
            return by_id.get(int(name))
        raise UserError(f"expected image ids as text or integers, got {shown(name)}", where=where)

    def _by_path(self, name: str, where: str) -> str | None:
        found = self.by_stem.get(stem(name), [])
        if len(found) > 1:
            path = without_suffix(name)
            found = [(key, own) for key, own in found if _is_end(path, own) or _is_end(own, path)]
            if len(found) != 1:
                which = first_names(key for key, _ in self.by_stem[stem(name)])
                raise UserError(
                    f"{name!r} may be any of the images {which} of {self.source}",
                    where=where,
                    remedy="Name images by paths that tell them apart",
                )
        return found[0][0] if found else None

    def first(self) -> str:
        """The first images with their ids, for messages: `'a.jpg' (id 1), 'b.jpg' (id 2) and 5 more`."""
        ids = self.ids
        return first_few(
            (f"{key!r} (id {ids[key]})" if key in ids else repr(key) for key in self.keys), _SHOWN
        )


def open_artifact_of(labels: Labels, path: Rows, schema: Schema, *, verify: bool = True) -> Artifact:
    """Open an artifact of the images of `labels`, under whose keys its images are then known.

    One of another dataset, or of images without one, calls them otherwise: they are matched as `resolve` does, and those
    that the labels have not are left out.

    Raises:
        UserError: see `open_artifact`; it is of other images: of none of these, or not of these alone though of this
            dataset, or of other sizes; or names that may mean several.
    """
    artifact, where = open_artifact(path, schema, verify=verify), str(path)
    if not isinstance(path, Path):
        return artifact
    own, known = [*artifact.image_ids, *artifact.failed], set(labels.keys)
    strangers = [key for key in own if key not in known]
    sizes = dict(zip(artifact.image_ids, artifact.column("image_size").tolist(), strict=True))
    remedy, names = "Give files of the same split (--split, --input)", {key: key for key in own}
    if strangers:
        names = {}
        if artifact.attributes.get("dataset") != labels.file.info.dataset:
            keys = ImageNames.of_labels(labels).resolve(own, where=where)
            names = {name: key for name, key in zip(own, keys, strict=True) if key is not None}
        if not names:
            what = f"{len(strangers)} of its images are not in {labels.path}, the first is {strangers[0]!r}"
            raise UserError(what, where=where, remedy=remedy)
        artifact.rename(names)
    images = labels.by_key()
    for name, (height, width) in sizes.items():
        image = images[names[name]] if name in names else None
        if image is not None and (height, width) != (image.height, image.width):
            size = f"{image.width} x {image.height}"
            what = (
                f"its image for {image.key!r} has {width} x {height} pixels, that of {labels.path} has {size}"
            )
            raise UserError(what, where=where, remedy=remedy)
    return artifact


def without_suffix(path: str) -> str:
    """A path without the suffix of an image: `a/b.x.jpg` gives `a/b.x`."""
    suffix = PurePosixPath(path).suffix
    return path[: -len(suffix)] if suffix.lower() in SUFFIXES else path


def stem(path: str) -> str:
    """The name of a file without folders and without the suffix of an image: `a/b.x.jpg` gives `b.x`."""
    return PurePosixPath(without_suffix(path)).name


def _is_end(path: str, of: str) -> bool:
    return f"/{of}".endswith(f"/{path}")


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
