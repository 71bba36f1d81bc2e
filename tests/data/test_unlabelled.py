"""Which images there are: folders, lists, names of every kind; what is seen of the files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from weaksam_cli.data.unlabelled import Listing, list_images, look_at
from weaksam_cli.errors import ImageError, UserError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def test_a_folder_is_walked_and_keys_keep_their_suffix(tmp_path: Path) -> None:
    names = ["b/c d/ü.JPG", "a.jpg", "a.png", "new\nline.webp", "日本/写真.tif", "b/#1.bmp"]
    touch(tmp_path / "pics", *names, ".hidden.jpg", ".git/a.jpg", "notes.txt", "b/readme.md")
    listing = list_images(tmp_path / "pics")
    assert listing == Listing(tmp_path / "pics", tuple(sorted(names)), (), "pics")
    assert all((listing.root / key).is_file() for key in listing.keys)


@pytest.mark.parametrize("names", [(), ("a.txt",), (".a.jpg",)])
def test_an_empty_folder_says_what_counts(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(UserError, match=r"no image in this folder.*suffixes count: \.jpg, \.jpeg"):
        list_images(tmp_path)


def test_one_image(tmp_path: Path) -> None:
    touch(tmp_path, "a b/Foto.JPEG")
    assert list_images(tmp_path / "a b" / "Foto.JPEG") == Listing(
        tmp_path / "a b", ("Foto.JPEG",), (), "Foto"
    )


def test_several_places_have_keys_below_their_common_folder(tmp_path: Path) -> None:
    touch(tmp_path / "pics", "a.jpg", "dir/b.jpg", "dir/deep/c.jpg", "no suffix")
    Image.new("RGB", (9, 6)).save(tmp_path / "pics" / "no suffix", "PNG")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "l.txt").write_text("../pics/dir/b.jpg\n../pics/a.jpg\n../pics/gone.jpg\n")
    pics = tmp_path / "pics"
    places = (pics / "no suffix", pics / "a.jpg", pics / "a.jpg", pics / "dir", tmp_path / "lists" / "l.txt")
    keys = ("no suffix", "a.jpg", "dir/b.jpg", "dir/deep/c.jpg", "gone.jpg")
    assert list_images(*places) == Listing(pics, keys, ("a.jpg", "dir/b.jpg", "a.jpg"), "pics")
    assert list_images(pics / "dir", pics / "dir" / "deep").keys == ("b.jpg", "deep/c.jpg")
    with pytest.raises(UserError, match="none: there is no such folder or file"):
        list_images(pics, tmp_path / "none")


def test_names_that_cannot_be_opened_are_images_that_fail(tmp_path: Path) -> None:
    """F18: each stopped all of the command."""
    touch(tmp_path, "a.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))
    bad.touch()
    (tmp_path / "l.txt").write_text("n" * 300 + ".jpg\n")
    listing = list_images(tmp_path / "a.jpg", tmp_path / "self.jpg", bad, tmp_path / "l.txt")
    assert listing.keys == ("a.jpg", "self.jpg", "\\udcff.jpg", "n" * 300 + ".jpg")
    images = look_at(listing, lambda count: None).file.images
    assert [bool(image.sha256) for image in images] == [True, False, False, False]
    with pytest.raises(UserError, match="no such folder or file"):
        list_images(tmp_path / ("n" * 300))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder or file"):
        list_images(tmp_path / "none")


LISTS = {
    "plain": (b"a.jpg\nb/c.png\n", ["a.jpg", "b/c.png"]),
    "no last line end": (b"a.jpg\nb.jpg", ["a.jpg", "b.jpg"]),
    "byte order mark and CRLF": (b"\xef\xbb\xbfa.jpg\r\nb.jpg\r\n", ["a.jpg", "b.jpg"]),
    "comments and blank lines": (b"# all\n\n  \n  # more\na.jpg\n\t\n./#1.jpg\n", ["a.jpg", "#1.jpg"]),
    "normalised": (b"./a.jpg\nb//c.jpg\nb/./d.jpg\n../e.jpg\n", ["a.jpg", "b/c.jpg", "b/d.jpg", "../e.jpg"]),
    "order is kept": (b"z.jpg\na.jpg\nm.jpg\n", ["z.jpg", "a.jpg", "m.jpg"]),
    "spaces and unicode": (
        "my cat.jpg\nschöne Grüße/写真.png\n".encode(),
        ["my cat.jpg", "schöne Grüße/写真.png"],
    ),
    "blanks around a path": (b"  a.jpg \nb.jpg\t\n", ["a.jpg", "b.jpg"]),
    "line separators inside names": ("a\u2028b.jpg\nc\x0cd.jpg\n".encode(), ["a\u2028b.jpg", "c\x0cd.jpg"]),
    "absolute": (b"/data/a.jpg\n", ["/data/a.jpg"]),
    "any suffix": (b"a.heic\nb\n", ["a.heic", "b"]),
}


@pytest.mark.parametrize("name", list(LISTS))
def test_lists(tmp_path: Path, name: str) -> None:
    data, keys = LISTS[name]
    (tmp_path / "my list.txt").write_bytes(data)
    assert list_images(tmp_path / "my list.txt") == Listing(tmp_path, tuple(keys), (), "my list")


def test_paths_of_a_list_are_relative_to_it_and_duplicates_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "lists/ spaced.jpg", "lists/a.jpg")
    (tmp_path / "lists" / "l.txt").write_text("a.jpg\n./a.jpg\n spaced.jpg\nb.jpg\na.jpg\n")
    listing = list_images(tmp_path / "lists" / "l.txt")
    assert listing.keys == ("a.jpg", " spaced.jpg", "b.jpg")
    assert listing.duplicates == ("a.jpg", "a.jpg")
    assert (listing.root / " spaced.jpg").is_file()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the list names no image"),
        (b"# nothing\n", "the list names no image"),
        (
            b"\xff\xfeno JPEG",
            r"expected an image or a list of paths, got a file of 9 bytes whose line 1 is no UTF-8.*byte 0",
        ),
        ("ü.jpg\n".encode("latin-1"), "Save the list as UTF-8"),
        (b"a.jpg\0\n", "zero byte"),
    ],
)
def test_files_that_are_no_lists(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "list").write_bytes(data)
    with pytest.raises(UserError, match=message):
        list_images(tmp_path / "list")


NAMES = st.text(
    st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]), min_size=1, max_size=12
)


@given(st.lists(NAMES, min_size=1, max_size=7))
def test_what_a_list_names_comes_back_once(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    keys = [f"x/{name.replace('/', '')}.jpg" for name in names]
    place = tmp_path_factory.mktemp("list") / "l.txt"
    place.write_bytes("".join(f"{key}\n" for key in keys).encode())
    listing = list_images(place)
    assert listing.keys == tuple(dict.fromkeys(keys))
    assert len(listing.keys) + len(listing.duplicates) == len(keys)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "pipe.jpg"
    os.mkfifo(path)
    yield path
    path.unlink()


def split_of(root: Path, *keys: str) -> Any:
    return look_at(Listing(root, keys), lambda count: None)


def save(path: Path, number: int, width: int = 9) -> None:
    Image.new("RGB", (width, 6), (number, 2, 3)).save(path)


def test_looking_at_files_never_fails_or_blocks(tmp_path: Path, pipe: Path) -> None:
    touch(tmp_path, "text.jpg")
    (tmp_path / "folder.jpg").mkdir()
    save(tmp_path / "a.png", 1)
    split = split_of(tmp_path, "text.jpg", pipe.name, "folder.jpg", "none.jpg", "a.png")
    images = split.file.images
    assert [bool(image.sha256) for image in images] == [True, False, False, False, True]
    assert [(image.height, image.width) for image in images] == [(0, 0)] * 4 + [(6, 9)]
    assert split.sizes == len("text.jpg") + (tmp_path / "a.png").stat().st_size
    labels = split.read()
    assert labels.keys == ("text.jpg", "pipe.jpg", "folder.jpg", "none.jpg", "a.png")
    assert labels.read_image(images[4]).shape == (6, 9, 3)
    reasons = ("not an image of a known kind", "not a regular file", "not a regular file", "no such file")
    for image, reason in zip(images, reasons, strict=False):
        with pytest.raises(ImageError, match=reason):
            labels.read_image(image)
    save(tmp_path / "a.png", 2)
    with pytest.raises(ImageError, match=r"changed after this command began.*Run the same command again"):
        labels.read_image(images[4])


def test_many_files_are_seen_in_order(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(70)]
    touch(tmp_path, *names)
    counted: list[int] = []
    images = look_at(Listing(tmp_path, tuple(names)), counted.append).file.images
    assert [(image.id, image.key, image.labels) for image in images] == [
        (number + 1, name, None) for number, name in enumerate(names)
    ]
    assert sum(counted) == 70
    assert len({image.sha256 for image in images}) == 70


def test_the_digest_is_of_keys_contents_and_order_and_not_of_the_place(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(("a.png", "b.png", "same as a.png")):
            save(tmp_path / folder / name, number % 2)
    here, there = tmp_path / "here", tmp_path / "there"
    lists = [
        ("a.png", "b.png"),
        ("b.png", "a.png"),
        ("a.png",),
        ("same as a.png", "b.png"),
        ("a.png", "none.png"),
    ]
    digests = [split_of(here, *keys).sha256() for keys in lists]
    assert digests == [split_of(there, *keys).sha256() for keys in lists]
    save(here / "a.png", 7)
    assert len({*digests, split_of(here, "a.png", "b.png").sha256()}) == 6
