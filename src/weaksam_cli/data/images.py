"""Reading images: uint8 RGB arrays (height, width, 3), upright, bounded in size.

Whatever an image was stored as, what leaves this module is what a person would see on a white page: EXIF orientation
applied, transparency over white, 16 bits scaled to 8, CMYK and palettes turned to RGB, the first frame of several.
"""

from __future__ import annotations

import io
import mmap
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from weaksam_cli.core.files import beginning
from weaksam_cli.errors import ImageError, UserError

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")
SUFFIXES: Final = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k"),
)
_RAW: Final = "a camera's raw format"
_FOREIGN: Final = {
    "HEIC": (".heic", ".heif", ".hif"),
    _RAW: (
        *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf"),
        *(".pef", ".srw", ".x3f", ".3fr", ".iiq", ".rwl", ".raw"),
    ),
    "JPEG XL": (".jxl",),
    "another image format": (
        ".psd",
        ".tga",
        ".exr",
        ".hdr",
        ".qoi",
        ".svg",
        ".dcm",
        ".jxr",
        ".pcx",
        ".dds",
        ".xcf",
    ),
}
"""What people know as images and this program does not read -> suffixes."""
_BEGINNINGS: Final = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|BM.{4}\0{4}|II\*\0|MM\0\*"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|....ftyp(?:avi[fs]|(?P<heic>hei[cmsx]|hev[cmsx]|mif1|msf1))"
    rb"|(?P<jxl>\0\0\0\x0cJXL )",
    re.DOTALL,
)
_COMPANIONS: Final = (".xml", ".txt", ".json", ".csv", ".npy", ".mat")
"""What often lies beside each image, and is not looked into."""
_MOST_READS: Final = 1_000_000
_MOST_SCANS: Final = 200
"""Of a JPEG; a progressive one has a dozen, and one may hold previews."""
DEFAULT_MAX_PIXELS: Final = 89_478_485
"""256 MiB of RGB: the size above which Pillow, too, suspects a decompression bomb. Labels say their own limit."""
PILLOW_MAX_PIXELS: Final = 2 * DEFAULT_MAX_PIXELS
"""Pillow itself reads nothing larger."""

_ESCAPED: Final = re.compile(r"\\udc[89a-f][0-9a-f]")
"""A byte that is no UTF-8 in a key."""

_STRIP_PIXELS: Final = 1 << 18
"""Pixels are converted in strips of about so many: what a conversion needs of memory is then no matter of the image."""


def read_image(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode one image to RGB.

    Args:
        path: a JPEG, PNG, WebP, BMP, TIFF or GIF file, told by its content and not by its suffix.
        max_pixels: refuse larger images; checked against the header, before anything is decoded.

    Returns:
        A contiguous, writable uint8 array (height, width, 3), RGB, EXIF orientation applied, alpha over white.

    Raises:
        ImageError: for a missing, empty, truncated, foreign or too large file.
    """
    with _opened(path, max_pixels) as image:
        orientation = _orientation(image)
        _check_cost(image, path)
        return _upright(image, orientation, path)


def image_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """An image of Pillow as `read_image` gives it: uint8 RGB (height, width, 3), upright, alpha over white.

    Raises:
        ImageError: grey values of an unknown scale, or pixels that cannot be decoded.
    """
    place = Path(getattr(image, "filename", "") or "image")
    try:
        return _upright(image, _orientation(image), place)
    except OSError as error:
        raise ImageError(f"cannot be decoded ({error})", where=str(place)) from error


def _upright(image: Image.Image, orientation: int, path: Path) -> NDArray[np.uint8]:
    image.load()
    width, height = image.size
    found = np.empty((width, height, 3) if orientation >= 5 else (height, width, 3), np.uint8)
    stored, step = _as_stored(found, orientation), max(1, _STRIP_PIXELS // max(width, 1))
    for top in range(0, height, step):
        bottom = min(top + step, height)
        stored[top:bottom] = _to_rgb(image.crop((0, top, width, bottom)), path)
    return found


def image_size(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """(height, width) in pixels as `read_image` would give them, from the header alone.

    Raises:
        ImageError: as `read_image`, except that damage behind the header is not seen.
    """
    with _opened(path, max_pixels) as image:
        width, height = _stored_size(image)
        turned = _orientation(image, tiff=True) >= 5
        return (width, height) if turned else (height, width)


def find_images(root: Path) -> list[str]:
    """Keys of all images below `root`: POSIX paths relative to it, sorted by code point.

    An image is a file that is called like one, or begins like one under whatever name; also one that cannot be read
    (HEIC, a name that is not UTF-8), and so is a folder that cannot be walked: `read_image` says why, so that nothing is
    passed over unnoticed. Hidden files and folders (leading dot) are. Links to folders are not followed, so that neither a
    loop nor the world outside `root` is walked.

    Raises:
        UserError: if `root` is no folder.
    """
    if not root.is_dir():
        raise UserError("no such folder", where=str(root), remedy="Give the folder that holds the images")
    return sorted(_walk(root))


def as_key(path: Path) -> str:
    """A path as a key, which is Unicode: where the name of a file is not, its escaped form is that of no file."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def looks_like_image(path: Path) -> bool:
    """Whether a file is called like an image, of whatever format, or begins like one."""
    if is_image_name(path.name):
        return True
    return not path.name.lower().endswith(_COMPANIONS) and _BEGINNINGS.match(beginning(path, 16)) is not None


def is_image_name(name: str) -> bool:
    """Whether a name has the suffix of an image, be it of one that is not read."""
    return name.lower().endswith(SUFFIXES) or _foreign_kind(name) is not None


def _walk(root: Path) -> Iterator[str]:
    closed: list[str] = []
    for folder, folders, files in os.walk(root, onerror=lambda error: closed.append(error.filename)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = (path for path in map(Path(folder).joinpath, folders) if path.is_symlink())
        shown = (Path(folder, name) for name in files if not name.startswith("."))
        for path in (*links, *filter(looks_like_image, shown)):
            yield as_key(path.relative_to(root))
    yield from (as_key(Path(path).relative_to(root)) for path in closed)


def _foreign_kind(name: str) -> str | None:
    return next((kind for kind, suffixes in _FOREIGN.items() if name.lower().endswith(suffixes)), None)


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """The image with its header parsed; whatever Pillow raises inside becomes an `ImageError`."""
    _check_file(path)
    try:
        with warnings.catch_warnings():
            # Sizes are checked here, in words, and odd metadata are no concern of the user's.
            warnings.simplefilter("ignore")
            with _Handle(path) as handle, Image.open(handle, formats=FORMATS) as image:
                _check_size(image, path, max_pixels)
                yield image
    except (UserError, MemoryError):
        raise
    except PermissionError:
        raise _refusal(path, "no permission to read it", "Change the file's permissions") from None
    except UnidentifiedImageError:
        remedy = f"Give one of {', '.join(FORMATS)}, or remove the file"
        raise _refusal(path, _unknown_kind(path), remedy) from None
    except Image.DecompressionBombError as error:
        remedy = "Make the image smaller, or remove it if you do not know where it is from"
        raise _refusal(path, str(error), remedy) from None
    except Exception as error:  # the decoders raise errors of any type for damaged bytes
        what = f"cannot be decoded ({type(error).__name__}: {error})"
        remedy = "The file is damaged or cut short: fetch it again, or remove it"
        raise _refusal(path, what, remedy) from error


class _Handle(io.BufferedReader):
    """A file that ends readers who go through millions of parts one by one, as headers made to keep them busy have."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._left = _MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file.

        Raises:
            OSError: it was called too often.
        """
        self._left -= 1
        if self._left < 0:
            raise OSError(f"its header has more than {_MOST_READS} parts")
        return super().read(size)


def _refusal(path: Path, what: str, remedy: str) -> ImageError:
    return ImageError(what, where=str(path), remedy=remedy)


def _unknown_kind(path: Path) -> str:
    begins = _BEGINNINGS.match(beginning(path, 16))
    kind = (
        "HEIC"
        if begins and begins["heic"]
        else "JPEG XL"
        if begins and begins["jxl"]
        else _foreign_kind(path.name)
    )
    return _not_read(kind) if kind else "not an image of a known kind"


def _not_read(kind: str) -> str:
    return f"passed over, because {kind} is not read: save it as JPEG or PNG"


def _check_file(path: Path) -> None:
    try:
        found = path.stat()
    except FileNotFoundError:
        what = "no such file"
        if _ESCAPED.search(str(path)):
            what = "its name is not valid UTF-8, and keys of images are: rename it"
        elif path.is_symlink():
            what = "a link to a file that is not there"
        raise _refusal(path, what, "Check the path, or whether the file was moved") from None
    except (
        OSError,
        ValueError,
    ) as error:  # a link to itself, a name that is too long, no permission, a zero byte
        what = getattr(error, "strerror", None) or str(error)
        raise _refusal(path, f"cannot be opened: {what}", "Give an image file") from None
    if stat.S_ISDIR(found.st_mode) and path.is_symlink():
        raise _refusal(path, "a link to a folder, which is not followed", "Give the folder itself")
    if not stat.S_ISREG(found.st_mode):
        # A named pipe would block for ever, a folder cannot be decoded.
        closed = stat.S_ISDIR(found.st_mode) and not os.access(path, os.R_OK | os.X_OK)
        what = "a folder that you have no permission to read" if closed else "not a regular file"
        raise _refusal(path, what, "Give an image file")
    if found.st_size == 0:
        raise _refusal(path, "the file is empty", "Fetch it again, or remove it")
    if path.name.lower().endswith(_FOREIGN[_RAW]):
        # It is a TIFF of its own kind, of which Pillow would read a thumbnail.
        raise _refusal(path, _not_read(_RAW), "Save it as JPEG or PNG")


def _check_size(image: Image.Image, path: Path, max_pixels: int) -> None:
    width, height = _stored_size(image)
    if width < 1 or height < 1:
        raise _refusal(path, f"the image has no pixels ({width} x {height})", "Remove the file")
    if width * height > max_pixels:
        what = f"{width} x {height} pixels are more than the limit of {max_pixels}"
        raise _refusal(path, what, "Make the image smaller, or remove it")


def _check_cost(image: ImageFile.ImageFile, path: Path) -> None:
    """Refuse what takes minutes to decode: numbers as text, and a JPEG that draws all its pixels again and again."""
    if image.tile and image.tile[0][0] == "ppm_plain":
        raise _refusal(path, "its pixels are written as text", "Save it as PNG")
    if image.format in ("JPEG", "MPO"):
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            scans = sum(1 for _ in islice(re.finditer(rb"\xff\xda", data), _MOST_SCANS + 1))
        if scans > _MOST_SCANS:
            raise _refusal(path, f"it has more than {_MOST_SCANS} scans", "Save it again")


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) before orientation. Pillow's releases disagree whether `size` of a TIFF is upright."""
    tags = getattr(image, "tag_v2", None)
    sides = (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength)
    if tags is not None and all(side in tags for side in sides):
        return int(tags[sides[0]]), int(tags[sides[1]])
    return image.size


def _orientation(image: Image.Image, *, tiff: bool = False) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or the tag is unreadable.

    For a TIFF it is 1 unless `tiff`, because Pillow turns TIFF pixels itself while it loads them.
    """
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        value = tags.get(ExifTags.Base.Orientation, 1) if tiff else 1
    else:
        try:
            # The base class's method: PNG's own would decode the whole image to look for a chunk behind the pixels.
            value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        except Exception:  # damaged metadata do not make an image unreadable
            value = 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _as_stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A view of an upright array (H, W, 3) in the order in which a file of this EXIF orientation stores its pixels."""
    if orientation in (3, 4, 7, 8):
        upright = upright[::-1]
    if orientation in (2, 3, 6, 7):
        upright = upright[:, ::-1]
    return upright.swapaxes(0, 1) if orientation >= 5 else upright


def _to_rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(np.asarray(image), path)[:, :, None]
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        image = page
    return np.asarray(image.convert("RGB"))


def _deep_grey(values: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """Grey of more than 8 bits as uint8: integers range over 16 bits, floats over [0, 1]."""
    top = 1.0 if values.dtype.kind == "f" else 65535.0
    grey = values.astype(np.float64)
    if not (np.isfinite(grey).all() and grey.min() >= 0 and grey.max() <= top):
        what = f"the grey values do not lie in 0 to {top:g}, so their scale is unknown"
        raise _refusal(path, what, "Save the image with 8 or 16 bits per channel")
    return np.rint(grey * (255.0 / top)).astype(np.uint8)


def shrink(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """The image (H, W, 3) with its sides times `factor`, each a pixel at least; as it is for a factor of 1 and more."""
    if factor >= 1:
        return image
    import cv2

    height, width = image.shape[:2]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
