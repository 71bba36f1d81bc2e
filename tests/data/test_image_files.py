"""Names that annotations give to images, and the files that they mean."""

from __future__ import annotations

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
