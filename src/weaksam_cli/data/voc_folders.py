"""Where the images, annotations and lists of a VOC-like dataset lie: PASCAL's own folders, and what people make of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from weaksam_cli.core.names import first_few
from weaksam_cli.data.dataset import SPLIT_NAMES
from weaksam_cli.data.images import SUFFIXES
from weaksam_cli.data.xml_files import beginning
from weaksam_cli.errors import UserError

IMAGES: Final = ("jpegimages", "images", "image", "imgs", "img", "pictures", "photos", "data")
ANNOTATIONS: Final = ("annotations", "annotation", "xmls", "xml", "labels", "annots")
LISTS: Final = "ImageSets"
WHOLE: Final = "trainval"
_PROBES: Final = 5
_LIST_BYTES: Final = 64 * 1000**2
_FLAGS: Final = frozenset({"-1", "0", "1"})


class Part(NamedTuple):
    """Images and annotations that lie together.

    Attributes:
        images: the folder of the images.
        annotations: the folder of the XML files; it may be the same.
    """

    images: Path
    annotations: Path


@dataclass(frozen=True)
class VocFolder:
    """A dataset, and what of it belongs to which split.

    Attributes:
        root: the folder.
        parts: split -> where it lies.
        ids: split -> ids of its images in order; None for all that are annotated there.
        warnings: what is to be told.
    """

    root: Path
    parts: Mapping[str, Part]
    ids: Mapping[str, tuple[str, ...] | None]
    warnings: tuple[str, ...] = ()


def find_voc(source: Path, *, year: str | None = None, task: str = "Main") -> VocFolder | None:
    """The VOC-like dataset that `source` means: itself, or one below it or below a VOCdevkit in it; None for none.

    Args:
        source: a folder.
        year: release, where several lie there.
        task: which folder of ImageSets names the splits; where it has none, another is taken, with a warning.

    Raises:
        UserError: there are several, and `year` does not choose one; a list cannot be read.
    """
    if not source.is_dir():
        return None
    found = candidates(source)
    wanted = [folder for folder in found if year is None or folder.name.casefold() in (year, f"voc{year}")]
    # A single folder of any name needs no year; one that names another year is a mistake.
    if list(found) == [source] and not source.name.casefold().startswith("voc20"):
        wanted = [source]
    if found and not wanted:
        raise UserError(
            f"no VOC dataset with the year {year} here",
            where=str(source),
            remedy=f"Found: {first_few(folder.name for folder in found)}",
        )
    if len(wanted) > 1:
        raise UserError(
            f"several VOC datasets here: {first_few(folder.name for folder in wanted)}",
            where=str(source),
            remedy="Choose one with --set year=2007 or so, or give its folder",
        )
    if wanted:
        part = part_of(wanted[0])
        return None if part is None else _with_lists(wanted[0], part, task)
    return _split_folders(source)


def candidates(source: Path) -> tuple[Path, ...]:
    """The folders that `source` can mean: itself, or those a level below it or below a VOCdevkit in it."""
    if part_of(source) is not None:
        return (source,)
    below = [child for parent in (source, source / "VOCdevkit") for child in _folders(parent)]
    return tuple(
        child for child in below if child.name.casefold() not in SPLIT_NAMES and part_of(child) is not None
    )


def part_of(folder: Path) -> Part | None:
    """The images and VOC annotations right in a folder; None where there are none."""
    children = {child.name.casefold(): child for child in _folders(folder)}
    named = [children[name] for name in ANNOTATIONS if name in children]
    places = [folder, *(place for child in named for place in (child, *_folders(child)))]
    official = children.get("annotations") if "jpegimages" in children else None
    annotations = official or next((place for place in places if has_xml(place)), None)
    if annotations is None:
        return None
    images = next((children[name] for name in IMAGES if name in children), None)
    return Part(images or (annotations if _has_image(annotations) else folder), annotations)


def has_xml(folder: Path) -> bool:
    """Whether the first XML files in a folder are VOC's, which have the root <annotation>."""
    some = sorted(folder.glob("*.xml"))[:_PROBES] if folder.is_dir() else []
    return any(b"<annotation" in start and b"<annotations" not in start for start in map(beginning, some))


def _has_image(folder: Path) -> bool:
    return any(path.suffix.casefold() in SUFFIXES for path in folder.iterdir())


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [child for child in folder.iterdir() if child.is_dir() and not child.name.startswith((".", "__"))]
    return sorted(found)


def _split_folders(source: Path) -> VocFolder | None:
    """Folders named as splits, each with images and annotations of its own."""
    below = {child.name: child for child in _folders(source) if child.name.casefold() in SPLIT_NAMES}
    parts = {name: part for name, child in below.items() if (part := part_of(child)) is not None}
    if not parts:
        return None
    return VocFolder(source, parts, dict.fromkeys(parts), ())


# ---------------------------------------------------------------- lists
@dataclass
class _Lists:
    """The lists of a folder.

    Attributes:
        ids: split -> its ids.
        odd: files that are no lists of ids.
    """

    ids: dict[str, tuple[str, ...]] = field(default_factory=dict)
    odd: list[Path] = field(default_factory=list)


def _with_lists(root: Path, part: Part, task: str) -> VocFolder:
    known = {path.stem for path in part.annotations.glob("*.xml")}
    sets = next((child for child in _folders(root) if child.name.casefold() == LISTS.casefold()), None)
    tasks = [sets / task, sets, *_folders(sets)] if sets is not None else []
    odd: list[Path] = []
    for place in dict.fromkeys([*tasks, root, part.images, part.annotations]):
        found = _read_lists(place, known, only_named=sets is None or place not in tasks)
        odd += found.odd
        if found.ids:
            warnings = [*_unread(odd), *_unlisted(found.ids.values(), known)]
            if tasks and place != tasks[0]:
                warnings.insert(
                    0, f"there is no list in {LISTS}/{task}; those of {place.relative_to(root)} are used"
                )
            return VocFolder(root, dict.fromkeys(found.ids, part), found.ids, tuple(warnings))
    return VocFolder(root, {WHOLE: part}, {WHOLE: None}, tuple(_unread(odd)))


def _unread(paths: Sequence[Path]) -> Iterable[str]:
    if paths:
        names = first_few(path.name for path in paths)
        yield f"{len(paths)} text files are no lists of ids of this dataset and are not used: {names}"


def _unlisted(lists: Iterable[Collection[str]], known: set[str]) -> Iterable[str]:
    left = known.difference(*lists)
    if left:
        yield f"{len(left)} annotated images stand in no list and are in no split: {first_few(sorted(left), 3)}"


def _read_lists(folder: Path, known: set[str], *, only_named: bool) -> _Lists:
    """Lists by split; VOC's lists per class (`cat_trainval.txt`: a flag behind each id) only where there is nothing else."""
    lists, of_classes = _Lists(), dict[str, dict[str, None]]()
    paths = {path.stem: path for path in sorted(folder.glob("*.txt"))} if folder.is_dir() else {}
    for name, path in paths.items():
        if only_named and name.casefold() not in SPLIT_NAMES:
            continue
        rows = _rows(path)
        if not rows and name.casefold() in SPLIT_NAMES:
            raise UserError("the list of ids is empty", where=str(path), remedy="List one image id per line")
        split = name.rpartition("_")[2]
        flagged = bool(rows) and all(len(row) == 2 and row[1] in _FLAGS for row in rows)
        ids = tuple(_identifier(row[0] if flagged else " ".join(row), known) for row in rows)
        if "_" in name and flagged and split.casefold() in SPLIT_NAMES:
            of_classes.setdefault(split, {}).update(dict.fromkeys(ids))
        elif ids and (name.casefold() in SPLIT_NAMES or any(item in known for item in ids)):
            lists.ids[name] = ids
        else:
            lists.odd.append(path)
    if not lists.ids:
        lists.ids = {name: tuple(ids) for name, ids in of_classes.items()}
    return lists


def _identifier(entry: str, known: set[str]) -> str:
    """The id that an entry means: `000012`, `000012.jpg`, `JPEGImages/000012.jpg`, or an id with further columns."""
    if entry in known:
        return entry
    last = PurePosixPath(entry.replace("\\", "/").split(",")[0].strip())
    for name in (last.name, last.stem, last.name.split(" ")[0], PurePosixPath(last.name.split(" ")[0]).stem):
        if name in known:
            return name
    is_file = last.suffix.casefold() in (*SUFFIXES, ".xml")
    return last.stem if is_file else entry


def _rows(path: Path) -> list[list[str]]:
    try:
        if path.stat().st_size > _LIST_BYTES:
            raise UserError(f"a list of {path.stat().st_size:,} bytes is none of ids", where=str(path))
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the list of ids cannot be read ({error})", where=str(path), remedy="Save it as UTF-8 text"
        ) from None
    return [line.split() for line in text.splitlines() if line.strip()]
