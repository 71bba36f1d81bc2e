"""Names that annotations give to images, and the files that they mean."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from tests.data.helpers import sample
from weaksam_cli.data.image_files import ImageFiles


@pytest.mark.parametrize(
    ("name", "likely", "is_respelled"),
    [
        ("rat/1.jpg", ["rat/1.jpg"], False),
        ("rat/1", ["rat/1.jpg"], False),
        ("a.v2", ["a.v2.png"], False),
        ("RAT/1.JPG", ["rat/1.jpg"], True),
        ("/other/machine/rat/1.jpg", ["rat/1.jpg"], True),
        (r"C:\data\mouse\1.jpg", ["mouse/1.jpg"], True),
        ("1", ["mouse/1.jpg", "rat/1.jpg"], False),
        ("dog/1.jpg", ["mouse/1.jpg", "rat/1.jpg"], False),
        ("2.jpg", [], False),
        ("../secret.jpg", [], False),
        ("", [], False),
    ],
)
def test_names(tmp_path: Path, name: str, likely: list[str], is_respelled: bool) -> None:
    for path in ("ds/rat/1.jpg", "ds/mouse/1.jpg", "ds/a.v2.png", "secret.jpg"):
        sample(tmp_path / path)
    files = ImageFiles(["rat/1.jpg"], [tmp_path / "ds"], tmp_path / "ds")
    assert files.likely(name) == likely
    assert files.find(name) == (likely[0] if len(likely) == 1 else None)
    assert files.respelled == [name] * is_respelled


ACCENT = "\u00e9.jpg"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (r"images\a b.jpg", "a b.jpg"),
        (r"C:\Users\x\a b.jpg", "a b.jpg"),
        ("images/1/b.jpg", "b.jpg"),
        ("../../b.jpg", "b.jpg"),
        ("/data/local-files/?d=proj/a%20b.jpg", "a b.jpg"),
        ("/data/local-files/?d=images%5Cb.jpg", "b.jpg"),
        ("/data/upload/1/0a1b2c3d-b.jpg", "b.jpg"),
        ("0a1b2c3d-a_b.jpg", "a b.jpg"),
        ("http://host:8080/x/a%20b.jpg", "a b.jpg"),
        ("https://bucket/b.jpg?X-Amz=1&y=2#z", "b.jpg"),
        ("s3://bucket/x/b.jpg", "b.jpg"),
        ("file:///home/x/b.jpg", "b.jpg"),
        ("http://[x/b.jpg", "b.jpg"),
        ("c.jpeg", "C.JPEG"),
        (" b.jpg ", "b.jpg"),
        (ACCENT, unicodedata.normalize("NFD", ACCENT)),
        ("b.png", None),
        ("?", None),
        ("a\0b.jpg", None),
        ("x" * 5000 + ".jpg", None),
    ],
)
def test_names_that_tools_write(tmp_path: Path, name: str, found: str | None) -> None:
    for path in ("a b.jpg", "b.jpg", "C.JPEG", unicodedata.normalize("NFD", ACCENT)):
        sample(tmp_path / path)
    files = ImageFiles(["b.jpg"], [tmp_path], tmp_path / "x.json")
    assert files.find(name) == found
    if found is not None:
        alone = ImageFiles([name], [tmp_path], tmp_path / "x.json")
        assert alone.find(name) == found


@pytest.mark.parametrize(
    ("split", "name", "likely"),
    [
        ("val", "0.jpg", []),
        ("val", "train2017/0.jpg", ["train2017/0.jpg"]),
        ("val", "http://host/train2017/0.jpg", ["train2017/0.jpg"]),
        ("train", "0.jpg", ["train2017/0.jpg"]),
        ("trainval", "0.jpg", ["train2017/0.jpg"]),
        ("other", "0.jpg", ["train2017/0.jpg"]),
        ("val", "1.jpg", ["validation/1.jpg"]),
        ("train", "1.jpg", ["train2017/1.jpg"]),
        ("other", "1.jpg", ["train2017/1.jpg", "validation/1.jpg"]),
    ],
)
def test_equal_names_never_cross_over(tmp_path: Path, split: str, name: str, likely: list[str]) -> None:
    for path in ("train2017/0.jpg", "train2017/1.jpg", "validation/1.jpg", "x.jpg"):
        sample(tmp_path / path)
    assert ImageFiles(["x.jpg"], [tmp_path], tmp_path / "x.json", split).likely(name) == likely
