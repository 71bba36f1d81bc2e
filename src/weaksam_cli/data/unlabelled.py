"""Images without a dataset: in folders, in text lists of paths, or by themselves. They make a split without labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from weaksam_cli.artifacts import digest
from weaksam_cli.data.archives import refuse_archive
from weaksam_cli.data.dataset import Difficult
from weaksam_cli.data.images import (
    DEFAULT_MAX_PIXELS,
    SUFFIXES,
    as_key,
    find_images,
    image_size,
    looks_like_image,
)
from weaksam_cli.data.labels import Category, LabelledImage, Labels, LabelsFile, LabelsInfo, Split
from weaksam_cli.data.text_lines import text_lines
from weaksam_cli.errors import ImageError, UserError

DATASET, SPLIT = "images", "all"
"""What stands in artifacts in place of a dataset and its split."""
_COMMENT = "#"
_READING_THREADS = 8
"""Files are read at once: more than there are cores, because a disk or a network answers late."""
_CHUNK = 32


@dataclass(frozen=True)
class Listing:
    """The images that were asked for.

    Attributes:
        root: the folder that keys are relative to; `root / key` is the file of every key.
        keys: POSIX path of each image with its suffix; sorted for a folder, in the order of the list for a list.
        duplicates: keys that were named more than once, once for each time that they were dropped.
        name: a word for the whole: the name of the folder, or of the file without its suffix.
    """

    root: Path
    keys: tuple[str, ...]
    duplicates: tuple[str, ...] = ()
    name: str = ""


def list_images(*places: Path) -> Listing:
    """What `weaksam propose IMAGES` is about.

    Args:
        places: folders, walked as `find_images` does; images, told by name or first bytes; any other file is a list, UTF-8,
            one path a line, relative to the folder of the list, blank lines and lines that begin with # passed over. Keys of
            several places are relative to the deepest folder that holds all images.

    Raises:
        UserError: nothing there, an archive, a folder or list without an image, a list that is no UTF-8 text.
    """
    listings = [_listing(place) for place in places]
    if len(listings) == 1:
        return listings[0]
    # Links are kept: keys are paths as the user sees them.
    paths = [os.path.abspath(item.root / key) for item in listings for key in item.keys]  # noqa: PTH100
    root = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))  # noqa: PTH120
    keys, again = _once([as_key(Path(path).relative_to(root)) for path in paths])
    duplicates = (*(key for item in listings for key in item.duplicates), *again)
    return Listing(root, keys, duplicates, root.name or "images")


def _listing(place: Path) -> Listing:
    if os.path.isdir(place):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        keys = tuple(find_images(place))
        if not keys:
            what = "there is no image in this folder or below it (hidden files do not count)"
            remedy = f"Files with these suffixes count: {', '.join(SUFFIXES)}"
            raise UserError(what, where=str(place), remedy=remedy)
        return Listing(place, keys, name=place.resolve().name or "images")
    if not os.path.lexists(place):
        remedy = "Give a folder of images, images, or a text file with a path a line"
        raise UserError("there is no such folder or file", where=str(place), remedy=remedy)
    if looks_like_image(place):
        return Listing(place.parent, (as_key(Path(place.name)),), name=as_key(Path(place.stem)))
    refuse_archive(place)
    return _read_list(place)


def _once(keys: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys without those that stood before, and these."""
    seen: set[str] = set()
    again = tuple(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return tuple(dict.fromkeys(keys)), again


def _read_list(place: Path) -> Listing:
    remedy = f"Save the list as UTF-8, one path a line; images end in {', '.join(SUFFIXES)}"
    lines = text_lines(place, "an image or a list of paths", remedy=remedy)
    written = [line for line in lines if line.strip() and not line.lstrip().startswith(_COMMENT)]
    if not written:
        raise UserError("the list names no image", where=str(place), remedy="Write one path a line")
    return Listing(place.parent, *_once([_key(place.parent, line) for line in written]), place.stem)


def _key(root: Path, line: str) -> str:
    """Blanks around a path belong to it only where such a file exists."""
    name = line if line == line.strip() or os.path.exists(root / line) else line.strip()  # noqa: PTH110
    return PurePosixPath(name).as_posix()


@dataclass(frozen=True)
class UnlabelledSplit(Split):
    """A split that no file holds: predictors carry it whole.

    Attributes:
        file: what a labels artifact would hold. A file that cannot be read has no digest, and one that is no image no size:
            each is a failure of its own image, later.
        sizes: bytes of all files.
        name: of the split.
    """

    file: LabelsFile
    sizes: int = 0
    name: str = SPLIT

    def read(self, difficult: Difficult | None = None) -> Labels:
        """As if it had been read."""
        return Labels(self.labels, self.file, self.image_root).counting(difficult)

    def sha256(self) -> str:
        """Digest over keys and contents, in order; places play no part in it."""
        value = hashlib.sha256()
        for image in self.file.images:
            value.update(image.model_dump_json().encode() + b"\n")
        return value.hexdigest()


def look_at(
    listing: Listing,
    on_files: Callable[[int], None],
    categories: Sequence[Category] = (),
    name: str = SPLIT,
) -> UnlabelledSplit:
    """The split of a listing as its files are now.

    Args:
        listing: the images.
        on_files: called with a number of files that were looked at, now and then.
        categories: the classes that are looked for in the images.
        name: of the split.
    """

    def chunk(start: int) -> list[tuple[LabelledImage, int]]:
        keys = listing.keys[start : start + _CHUNK]
        return [_look_at_file(listing.root, start + index, key) for index, key in enumerate(keys)]

    seen: list[tuple[LabelledImage, int]] = []
    pool = ThreadPoolExecutor(_READING_THREADS)
    try:
        for found in pool.map(chunk, range(0, len(listing.keys), _CHUNK)):
            seen += found
            on_files(len(found))
    finally:
        # Whoever interrupts a million files does not want to wait for the rest of them.
        pool.shutdown(cancel_futures=True)
    info = LabelsInfo(dataset=DATASET, split=SPLIT, role="test", max_pixels=DEFAULT_MAX_PIXELS)
    images = [image for image, _ in seen]
    file = LabelsFile(info=info, categories=list(categories), images=images)
    return UnlabelledSplit(listing.root, listing.root, file, sum(size for _, size in seen), name)


def _look_at_file(root: Path, index: int, key: str) -> tuple[LabelledImage, int]:
    """One image and the bytes of its file; never fails or blocks."""
    path, sha256, size, height, width = root / key, "", 0, 0, 0
    try:
        # A named pipe would block for ever.
        if path.is_file():
            sha256, size = digest.of_file(path), path.stat().st_size
            height, width = image_size(path)
    except (OSError, ImageError):
        pass
    image = LabelledImage(
        id=index + 1, key=key, file_name=key, height=height, width=width, sha256=sha256, labels=None
    )
    return image, size
