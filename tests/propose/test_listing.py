"""Which images there are: folders, lists, names of every kind; what is seen of the files; whose points are whose."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_cli.errors import UserError
from weaksam_cli.propose.clues import match_clues, match_keys, stem
from weaksam_cli.propose.folder import SeenFile, digest_of_all, look_at, look_at_all, place_of
from weaksam_cli.propose.listing import Listing, list_images


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
    assert all(listing.path(key).is_file() for key in listing.keys)


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


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder or file"):
        list_images(tmp_path / "none")


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_a_name_that_is_not_unicode_is_an_error(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).touch()
    except OSError:
        pytest.skip("this file system refuses such names")
    with pytest.raises(UserError, match=r"not valid UTF-8.*Rename"):
        list_images(tmp_path)


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
    assert listing.path(" spaced.jpg").is_file()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the list names no image"),
        (b"# nothing\n", "the list names no image"),
        (b"\xff\xd8\xff\xe0 JFIF", r"neither an image by its suffix nor a list.*byte 0"),
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


def test_looking_at_files_never_fails_or_blocks(tmp_path: Path, pipe: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "folder.jpg").mkdir()
    assert look_at(tmp_path / "a.jpg").size == 5
    for path in (pipe, tmp_path / "folder.jpg", tmp_path / "none.jpg"):
        assert look_at(path) == SeenFile(None, 0)


def test_many_files_are_seen_in_order(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(70)]
    touch(tmp_path, *names)
    counted: list[int] = []
    seen = look_at_all(Listing(tmp_path, tuple(names)), 3, counted.append)
    assert list(seen) == names
    assert sum(counted) == 70
    assert len({file.sha256 for file in seen.values()}) == 70


def test_the_digest_is_of_keys_contents_and_order() -> None:
    one, two = SeenFile("aa", 1), SeenFile("bb", 1)
    same = {"a": one, "b": two}
    others = [
        {"b": two, "a": one},
        {"a": two, "b": one},
        {"a": one},
        {"a": one, "c": two},
        {"a": SeenFile(None, 1), "b": two},
    ]
    assert digest_of_all(same) == digest_of_all({"a": SeenFile("aa", 9), "b": two})
    assert len({digest_of_all(item) for item in (same, *others)}) == 6


@pytest.mark.parametrize(
    ("path", "folder", "place"),
    [
        ("/a/b", "/a", "b"),
        ("/a/b/../c", "/a", "c"),
        ("/x/y", "/a", "/x/y"),
        ("/a", "/a", "."),
        ("/ab", "/a", "/ab"),
    ],
)
def test_places_are_relative_where_they_can_be(path: str, folder: str, place: str) -> None:
    assert place_of(Path(path), Path(folder)) == place


@pytest.mark.parametrize(
    ("key", "name"),
    [("a.jpg", "a"), ("x/a.b.PNG", "a.b"), ("000001", "000001"), ("v1.2", "v1.2"), ("x/.jpg", ".jpg")],
)
def test_stem(key: str, name: str) -> None:
    assert stem(key) == name


@pytest.mark.parametrize(
    ("keys", "ids", "matched"),
    [
        (["a.jpg", "b.jpg"], ["a.jpg", "b"], {"a.jpg": "a.jpg", "b.jpg": "b"}),
        (["x/a.jpg"], ["y/a.png"], {"x/a.jpg": "y/a.png"}),
        (["x/a.jpg", "y/a.jpg"], ["a"], {}),
        (["a.jpg"], ["x/a.jpg", "y/a.jpg"], {}),
        (["a.jpg", "a.png"], ["a"], {}),
        (["a.jpg", "x/a.jpg"], ["a.jpg"], {"a.jpg": "a.jpg"}),
        (["a.jpg"], [], {}),
    ],
)
def test_only_a_key_or_a_name_that_nobody_else_has_makes_a_match(
    keys: list[str], ids: list[str], matched: dict[str, str]
) -> None:
    assert match_keys(keys, ids) == matched


def test_no_match_names_both_sides() -> None:
    with pytest.raises(
        UserError, match=r"p\.h5: holds points of none.*called like '000001', the images like 'a\.jpg'"
    ):
        match_clues(Path("p.h5"), "", ["a.jpg"], ["000001"])
    clues = match_clues(Path("p.h5"), "", ["a.jpg", "b.jpg"], ["a", "b.jpg"])
    assert (clues.ids, clues.by_key) == ({"a.jpg": "a", "b.jpg": "b.jpg"}, 1)
