"""Where the XML files and images of a VOC-like dataset lie: PASCAL's own folders, and what people make of them.

XML files may lie anywhere below a folder: in `Annotations`, in `annotations/xmls`, beside the images, in a folder of a split
or of a class. Folders named as splits are splits; all that lies below one of them belongs to it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from weaksam_cli.core.names import first_few
from weaksam_cli.data.dataset import likely_folders, role_of, split_name, split_word, subfolders
from weaksam_cli.data.images import as_key, find_images
from weaksam_cli.data.xml_files import root_tag
from weaksam_cli.errors import UserError

_DEPTH: Final = 6
_PROBES: Final = 5
_ANNOTATIONS: Final = re.compile(
    r"(?:.*[^a-z])?(?:annotations?|annots?|annos?|xmls?)(?:[^a-z].*)?|labels?|anns?", re.IGNORECASE
)


@dataclass(frozen=True)
class Part:
    """Annotations that belong together, and where their images may lie.

    Attributes:
        home: the folder of all of it, for messages.
        xml: id -> file; an id is the path below the folder of the split, or the deepest one that holds all, without suffix.
        places: folders of images, the likeliest first.
    """

    home: Path
    xml: Mapping[str, Path]
    places: Sequence[Path]


class _XmlFolder(NamedTuple):
    """A folder with XML files.

    Attributes:
        path: the folder.
        top: the first folder above it that is named as one of annotations, or of a split; else itself.
        root: the dataset that they belong to: the folder above `top`, and above the folder of the split.
        split: the split that a folder above it is named after, or empty.
        is_named: whether `top` is named as one of annotations.
    """

    path: Path
    top: Path
    root: Path
    split: str
    is_named: bool


@dataclass(frozen=True)
class VocFolder:
    """A dataset: its root, and its parts by split; one part "" where no folder is named as a split."""

    root: Path
    parts: Mapping[str, Part]
    warnings: Sequence[str]


def xml_folders(source: Path) -> Iterator[Path]:
    """The folders below `source`, to a depth of six, in which XML files of VOC lie: their root element is <annotation>."""
    seen: set[str] = set()
    for path, folders, files in os.walk(source, followlinks=True):
        real, folder = os.path.realpath(path), Path(path)
        is_deep = len(folder.relative_to(source).parts) >= _DEPTH
        folders[:] = (
            [] if is_deep or real in seen else sorted(name for name in folders if name[0] not in "._$")
        )
        if real in seen:
            continue
        seen.add(real)
        names = sorted(name for name in files if _is_xml(name))
        tags = {root_tag(folder / name).casefold() for name in names[:: 1 + len(names) // _PROBES]}
        if "annotation" in tags or (tags == {""} and _ANNOTATIONS.fullmatch(folder.name)):
            yield folder


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml") and name[0] != "."


def _xml_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_xml(path.name) and not path.is_dir())


def find_voc(source: Path, images: Path | None = None, *, year: str | None = None) -> VocFolder | None:
    """The VOC-like dataset at or below `source`; None where there is none.

    Args:
        source: a folder.
        images: the folder of its images, where that has to be said.
        year: release, where several lie there.

    Raises:
        UserError: there are several datasets, and `year` does not choose one; no such folder of images.
    """
    base = source.parent if _ANNOTATIONS.fullmatch(source.name) else source
    found = [_placed(path, base) for path in xml_folders(source)]
    if not found:
        return None
    roots = list(dict.fromkeys(folder.root for folder in found if folder.is_named))
    root = _release(roots, base, year) if roots else _common(folder.root for folder in found)
    inside = [folder for folder in found if folder.root == root or not roots]
    by_split: dict[str, list[_XmlFolder]] = {}
    for folder in inside:
        by_split.setdefault(folder.split, []).append(folder)
    if len(by_split) > 1:
        by_split.pop("", None)
    chosen = {
        name: _one_tree(by_split[name])
        for name in sorted(by_split, key=lambda name: (role_of(name) == "test", name))
    }
    used = {folder.path for folders in chosen.values() for folder in folders}
    parts = {name: _part(folders, images, name) for name, folders in chosen.items()}
    unused = [folder.path for folder in found if folder.path not in used]
    bare = _without_xml(root, parts) if "" not in parts else []
    return VocFolder(root, parts, (*_unused(unused, base), *bare))


def _unused(folders: Sequence[Path], base: Path) -> Iterator[str]:
    if folders:
        count = sum(len(_xml_files(folder)) for folder in folders)
        names = first_few(folder.relative_to(base).as_posix() for folder in folders)
        yield f"{count} XML files belong to no split and are not read, in {names}"


def _without_xml(root: Path, splits: Collection[str]) -> Iterator[str]:
    """Of folders named as other splits: how many images they hold."""
    known = {"", *map(split_word, splits)}
    for folder in (root, *subfolders(root)):
        for child in subfolders(folder):
            if split_word(child.name) not in known and (found := find_images(child)):
                yield f"{len(found)} images of {child.relative_to(root)} have no XML file and are not read"


def _placed(path: Path, base: Path) -> _XmlFolder:
    parts = path.relative_to(base).parts
    words = [split_name(part) for part in parts]
    split = next((word for word in reversed(words) if word), "")
    named = [index for index, part in enumerate(parts) if _ANNOTATIONS.fullmatch(part)]
    first = next(iter([*named, *(index for index, word in enumerate(words) if word)]), len(parts))
    above = first
    while above and words[above - 1]:
        above -= 1
    return _XmlFolder(
        path, base.joinpath(*parts[: first + 1]), base.joinpath(*parts[:above]), split, bool(named)
    )


def _release(roots: Sequence[Path], source: Path, year: str | None) -> Path:
    wanted = [root for root in roots if year is None or root.name.casefold() in (year, f"voc{year}")]
    # A single folder of any name needs no year; one that names another year is a mistake.
    if len(roots) == 1 and not roots[0].name.casefold().startswith("voc20"):
        return roots[0]
    if not wanted:
        raise UserError(
            f"no VOC dataset with the year {year} here",
            where=str(source),
            remedy=f"Found: {first_few(root.name for root in roots)}",
        )
    if len(wanted) > 1:
        raise UserError(
            f"several VOC datasets here: {first_few(root.relative_to(source).as_posix() for root in wanted)}",
            where=str(source),
            remedy=f"Choose one: {' or '.join(f'weaksam data {shlex.quote(str(root))}' for root in wanted[:3])}",
        )
    return wanted[0]


def _one_tree(folders: Sequence[_XmlFolder]) -> list[_XmlFolder]:
    """Of several folders of annotations (`Annotations` and `Annotations_old`) the official one, or the first."""
    tops = dict.fromkeys(folder.top for folder in folders if folder.is_named)
    top = next((top for top in tops if top.name.casefold() == "annotations"), next(iter(tops), None))
    return [folder for folder in folders if top in (None, folder.top)]


def _part(folders: Sequence[_XmlFolder], images: Path | None, split: str) -> Part:
    base = _common(folder.path if folder.is_named else folder.top for folder in folders)
    xml = {
        as_key(path.with_suffix("").relative_to(base)): path
        for folder in folders
        for path in _xml_files(folder.path)
    }
    near = [] if images is not None or any(folder.is_named for folder in folders) else [base]
    likely = [place for folder in folders for place in likely_folders(folder.top, images, split)]
    return Part(folders[0].root, xml, tuple(dict.fromkeys([*near, *likely])))


def _common(paths: Iterable[Path]) -> Path:
    return Path(os.path.commonpath(list(paths)))
