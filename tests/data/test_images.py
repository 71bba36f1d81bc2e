"""Images of every kind and in every state of damage."""

from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from weaksam_cli.data import images as images_module
from weaksam_cli.data.images import find_images, image_size, read_image, shrink
from weaksam_cli.errors import ImageError, UserError

RED = (255, 0, 0)


def _two_by_one() -> Image.Image:
    """Left pixel black, right pixel white, one row."""
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (255, 255, 255))
    return image


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_every_format_gives_rgb(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (7, 5), RED).save(path)
    pixels = read_image(path)
    assert pixels.shape == (5, 7, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert np.abs(pixels.astype(int) - RED).max() <= 3
    assert image_size(path) == (5, 7)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("P", 0, (10, 20, 30)),
        ("LA", (77, 255), (77, 77, 77)),
        ("LA", (77, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("I;16", 0, (0, 0, 0)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 100, (100, 100, 100)),
    ],
)
def test_modes_in_png(tmp_path: Path, mode: str, colour: int, expected: tuple[int, int, int]) -> None:
    image = Image.new(mode, (3, 2), colour)
    if mode == "P":
        image.putpalette([10, 20, 30])
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[list(expected)] * 3] * 2


def test_palette_with_transparent_entry_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (1, 1), 0)
    image.putpalette([10, 20, 30])
    image.save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png").tolist() == [[[255, 255, 255]]]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - RED).max() <= 6


@pytest.mark.parametrize(("value", "ok"), [(0.5, True), (1.0, True), (200.0, False), (float("nan"), False)])
def test_float_tiff_ranges_over_one(tmp_path: Path, value: float, ok: bool) -> None:
    Image.fromarray(np.full((2, 2), value, dtype=np.float32)).save(tmp_path / "a.tif")
    if ok:
        assert read_image(tmp_path / "a.tif")[0, 0, 0] == round(255 * value)
    else:
        with pytest.raises(ImageError, match="scale is unknown"):
            read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    stored = np.zeros((32, 64, 3), dtype=np.uint8)
    stored[:16, :32] = 255  # upper left corner bright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(stored).save(path, exif=exif, **options)
    upright = read_image(path)
    assert image_size(path) == upright.shape[:2] == ((64, 32) if orientation >= 5 else (32, 64))
    rows, columns = np.nonzero(upright[..., 0] > 128)
    corner = ("top" if rows.mean() < upright.shape[0] / 2 else "bottom") + (
        " left" if columns.mean() < upright.shape[1] / 2 else " right"
    )
    corners = ["top left", "top right", "bottom right", "bottom left"] * 2
    # Orientations 5 to 8 name the row and column of the stored origin the other way round.
    expected = corners[orientation - 1] if orientation < 5 else corners[orientation - 5]
    assert corner == expected


@pytest.mark.filterwarnings("error")
def test_damaged_exif_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (4, 3), RED).save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert read_image(path).shape == (3, 4, 3)
    assert image_size(path) == (3, 4)


@pytest.mark.parametrize("size", [(1, 1), (10000, 3), (3, 10000)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (size[1], size[0], 3)


def test_wrong_suffix_is_read_by_content(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), RED).save(tmp_path / "a.jpg", format="PNG")
    assert read_image(tmp_path / "a.jpg").tolist() == [[list(RED)] * 2] * 2


def test_first_frame_of_several(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, (0, 255, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif")[0, 0].tolist() == list(RED)


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"not an image at all", "not an image of a known kind"),
        (b"%PDF-1.7", "not an image of a known kind"),
        (_jpeg()[: len(_jpeg()) // 2], "cannot be decoded"),
        (png_header(30000, 30000), "more than the limit|limit of"),
        (png_header(10000, 10000), "more than the limit"),
        (png_header(100, 100), "cannot be decoded"),
    ],
)
def test_damage_is_told_in_words(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path)
    assert Path(caught.value.where or "") == path
    assert caught.value.remedy
    assert "\n" not in caught.value.one_line()


def test_headers_and_scans_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F13 for images: 50 MB of fill bytes took a minute; 1 MB of scans of a large progressive JPEG ten."""
    monkeypatch.setattr(images_module, "_MOST_READS", 10_000)
    jpeg, png, buffer = _jpeg(), saved("RGB", "PNG"), io.BytesIO()
    Image.new("L", (64, 64)).save(buffer, "JPEG", progressive=True)
    scans = buffer.getvalue()
    last = scans[scans.rindex(b"\xff\xda") : -2]
    text = struct.pack(">I", 3) + b"tEXta\0b" + struct.pack(">I", zlib.crc32(b"tEXta\0b"))
    cases = {
        "fill.jpg": (jpeg[:2] + b"\xff" * 20_000 + jpeg[2:], "its header has more than 10000 parts"),
        "chunks.png": (png[:33] + text * 10_000 + png[33:], "its header has more than 10000 parts"),
        "comment.ppm": (b"P6\n#" + b"a" * 20_000 + b"\n1 1 255\nabc", "its header has more than 10000 parts"),
        "scans.jpg": (scans[:-2] + last * 300 + scans[-2:], "it has more than 200 scans"),
        "plain.ppm": (b"P3\n1 1 255\n1 2 3\n", "its pixels are written as text"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=message):
            read_image(tmp_path / name)


LARGE = {
    "grey16.png": lambda size: Image.fromarray(np.full(size, 300, np.uint16)),
    "float.tif": lambda size: Image.fromarray(np.full(size, 0.5, np.float32)),
    "alpha.png": lambda size: Image.new("RGBA", size[::-1], (1, 2, 3, 4)),
    "cmyk.tif": lambda size: Image.new("CMYK", size[::-1], (1, 2, 3, 4)),
    "turned.tif": lambda size: Image.new("RGB", size[::-1], (1, 2, 3)),
}
PEAK = """
import re, sys
from pathlib import Path
from weaksam_cli.data.images import image_size, read_image
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
for path in map(Path, sys.argv[1:]):
    height, width = image_size(path)
    before = peak()
    read_image(path)
    print((peak() - before) * 1024 / height / width)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak stands in /proc")
@pytest.mark.parametrize("name", LARGE)
def test_decoding_takes_the_image_and_the_result(tmp_path: Path, name: str) -> None:
    """F10: it took 28 bytes a pixel; 4 are what Pillow keeps of a pixel, and 3 are the result."""
    exif = Image.Exif()
    exif[0x0112] = 6 if name.startswith("turned") else 1
    LARGE[name]((3000, 4000)).save(tmp_path / name, exif=exif)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / name], capture_output=True, text=True, check=True
    )
    assert 3 <= float(done.stdout) < 9.5


@pytest.mark.filterwarnings("error")
def test_limit_is_checked_before_decoding_and_without_warning(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(10000, 9500))
    for function in (read_image, image_size):
        with pytest.raises(ImageError, match=r"10000 x 9500 pixels are more than the limit"):
            function(tmp_path / "bomb.png")
    _two_by_one().save(tmp_path / "small.png")
    with pytest.raises(ImageError, match="limit of 1"):
        read_image(tmp_path / "small.png", max_pixels=1)
    assert read_image(tmp_path / "small.png", max_pixels=2).shape == (1, 2, 3)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        image_size(tmp_path / "pipe.png")


def test_find_images(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    names = [
        "b.jpg",
        "a.png",
        "a.jpg",
        "sub/ü b.JPEG",
        "sub/new\nline.webp",
        "sub/deep/x.tif",
        "A.png",
        "a.b/c.bmp",
    ]
    for name in [*names, "notes.txt", ".hidden.jpg", ".cache/y.jpg", "sub/._x.jpg"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    outside.mkdir()
    (outside / "z.jpg").touch()
    (root / "loop").symlink_to(root)
    (root / "away").symlink_to(outside)
    (root / "one.jpg").symlink_to(outside / "z.jpg")
    assert find_images(root) == sorted([*names, "one.jpg", "loop", "away"])
    with pytest.raises(UserError, match="no such folder"):
        find_images(root / "absent")


def saved(mode: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 6), 0).save(buffer, kind)
    return buffer.getvalue()


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
JXL = b"\0\0\0\x0cJXL \r\n\x87\n"
LOOKS_LIKE_AN_IMAGE = {
    **{f"called.{kind}": (saved("RGB", kind), None) for kind in ("ppm", "avif")},
    "called.jp2": (saved("RGB", "JPEG2000"), None),
    "called.PGM": (saved("L", "PPM"), None),
    **{
        f"no suffix {kind}": (saved("RGB", kind), None)
        for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
    },
    **{f"no suffix {kind}": (saved("RGB", kind), None) for kind in ("AVIF", "JPEG2000")},
    "photo.jpg?width=200": (saved("RGB", "JPEG"), None),
    "jpeg.heic": (saved("RGB", "JPEG"), None),
    "a.heic": (HEIC, "because HEIC is not read: save it as JPEG"),
    "heic.jpg": (HEIC, "because HEIC is not read"),
    "no suffix HEIC": (HEIC, "because HEIC is not read"),
    "no suffix JXL": (JXL, "because JPEG XL is not read"),
    "a.HIF": (b"x", "because HEIC is not read"),
    "a.jxl": (b"x", "because JPEG XL is not read"),
    "a.psd": (b"8BPS", "because another image format is not read"),
    "tiff.nef": (saved("RGB", "TIFF"), "because a camera's raw format is not read"),
    "a.CR2": (b"x", "because a camera's raw format is not read"),
}
LOOKS_LIKE_NONE = {
    "notes": b"P6 is a format",
    "boxes.txt": saved("RGB", "PNG"),
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "film.mp4": b"\0\0\0\x18ftypmp42",
    "empty": b"",
}


@pytest.mark.parametrize("name", [*LOOKS_LIKE_AN_IMAGE, *LOOKS_LIKE_NONE])
def test_what_looks_like_an_image_is_one_that_is_read_or_says_why_not(tmp_path: Path, name: str) -> None:
    """Kind Q: an image with another suffix, or without one, was passed over without a word."""
    data, reason = LOOKS_LIKE_AN_IMAGE.get(name, (LOOKS_LIKE_NONE.get(name, b""), None))
    (tmp_path / name).write_bytes(data)
    assert find_images(tmp_path) == [name] * (name in LOOKS_LIKE_AN_IMAGE)
    if reason:
        with pytest.raises(ImageError, match=reason):
            image_size(tmp_path / name)
    elif name in LOOKS_LIKE_AN_IMAGE:
        assert read_image(tmp_path / name).shape == (6, 8, 3)
        assert image_size(tmp_path / name) == (6, 8)


def test_what_cannot_be_walked_or_opened_is_an_image_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F18: a link to itself or a name that is no Unicode stopped all of it; folders were left out without a word."""
    for folder in ("real", "closed"):
        (tmp_path / folder).mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    (tmp_path / os.fsdecode(b"\xff.jpg")).touch()
    (tmp_path / ("n" * 251 + ".jpg")).touch()
    scandir, access = os.scandir, os.access

    def refusing(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    monkeypatch.setattr(
        os, "access", lambda path, mode: not str(path).endswith("closed") and access(path, mode)
    )
    reasons = {
        "\\udcff.jpg": "its name is not valid UTF-8",
        "closed": "a folder that you have no permission to read",
        "link": "a link to a folder, which is not followed",
        "lost.jpg": "a link to a file that is not there",
        "n" * 251 + ".jpg": "the file is empty",
        "self.jpg": "cannot be opened: Too many levels of symbolic links",
    }
    assert find_images(tmp_path) == sorted(reasons)
    for name, reason in {**reasons, "n" * 300: "cannot be opened: File name too long"}.items():
        with pytest.raises(ImageError, match=reason):
            read_image(tmp_path / name)


def test_shrinking_keeps_a_pixel_and_leaves_small_images_as_they_are() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    assert shrink(image, 0.5).shape == (150, 200, 3)
    assert shrink(image, 1.0) is image
    assert shrink(np.zeros((1, 9000, 3), np.uint8), 0.1).shape == (1, 900, 3)
