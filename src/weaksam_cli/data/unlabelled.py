"""Images without a dataset: in a folder, in a text list of paths, or one by itself. They make a split without labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from weaksam_cli.artifacts import digest
from weaksam_cli.data.dataset import Difficult
from weaksam_cli.data.images import DEFAULT_MAX_PIXELS, SUFFIXES, find_images, image_size
from weaksam_cli.data.labels import LabelledImage, Labels, LabelsFile, LabelsInfo, Split
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
        duplicates: keys that stood more than once in a list, once for each time that they were dropped.
        name: a word for the whole: the name of the folder, or of the file without its suffix.
    """

    root: Path
    keys: tuple[str, ...]
    duplicates: tuple[str, ...] = ()
    name: str = ""


def list_images(place: Path) -> Listing:
    """What `weaksam propose IMAGES` is about.

    Args:
        place: a folder, walked as `find_images` does; an image, told by its suffix; or any other file: a list, UTF-8, one
            path a line, relative to the folder of the list, blank lines and lines that begin with # passed over.

    Raises:
        UserError: nothing there, a folder or list without an image, a list that is no UTF-8 text, a file name that is not
            valid Unicode.
    """
    if place.is_dir():
        keys = tuple(find_images(place))
        if not keys:
            what = "there is no image in this folder or below it (hidden files do not count)"
            remedy = f"Files with these suffixes count: {', '.join(SUFFIXES)}"
            raise UserError(what, where=str(place), remedy=remedy)
        return Listing(place, keys, name=place.resolve().name or "images")
    if not place.exists():
        remedy = "Give a folder of images, an image, or a text file with a path a line"
        raise UserError("there is no such folder or file", where=str(place), remedy=remedy)
    if place.name.lower().endswith(SUFFIXES):
        return Listing(place.parent, (place.name,), name=place.stem)
    return _read_list(place)


def _read_list(place: Path) -> Listing:
    try:
        text = place.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"is neither an image by its suffix nor a list of paths in UTF-8 (byte {error.start} does not fit)",
            where=str(place),
            remedy=f"Save the list as UTF-8; images end in {', '.join(SUFFIXES)}",
        ) from error
    # `splitlines` would cut at characters that may stand in names.
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    written = [line for line in lines if line.strip() and not line.lstrip().startswith(_COMMENT)]
    keys = [_key(place.parent, line) for line in written]
    if not keys:
        raise UserError("the list names no image", where=str(place), remedy="Write one path a line")
    if impossible := next((key for key in keys if "\0" in key), None):
        raise UserError(f"the path {impossible!r} holds a zero byte", where=str(place))
    seen: set[str] = set()
    duplicates = [key for key in keys if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
    return Listing(place.parent, tuple(dict.fromkeys(keys)), tuple(duplicates), place.stem)


def _key(root: Path, line: str) -> str:
    """Blanks around a path belong to it only where such a file exists."""
    name = line if line == line.strip() or (root / line).exists() else line.strip()
    return PurePosixPath(name).as_posix()


@dataclass(frozen=True)
class UnlabelledSplit(Split):
    """A split that no file holds: predictors carry it whole.

    Attributes:
        file: what a labels artifact would hold. A file that cannot be read has no digest, and one that is no image no size:
            each is a failure of its own image, later.
        sizes: bytes of all files.
    """

    file: LabelsFile
    sizes: int

    def read(self, difficult: Difficult | None = None) -> Labels:
        """As if it had been read."""
        return Labels(self.labels, self.file, self.image_root).counting(difficult)

    def sha256(self) -> str:
        """Digest over keys and contents, in order; places play no part in it."""
        value = hashlib.sha256()
        for image in self.file.images:
            value.update(image.model_dump_json().encode() + b"\n")
        return value.hexdigest()


def look_at(listing: Listing, on_files: Callable[[int], None]) -> UnlabelledSplit:
    """The split of a listing as its files are now; `on_files` is called with a number of files, now and then."""

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
    file = LabelsFile(info=info, categories=[], images=images)
    return UnlabelledSplit(listing.root, listing.root, file, sum(size for _, size in seen))


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
