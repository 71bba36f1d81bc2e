from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.exchange.helpers import labels
from weaksam_cli.artifacts.class_maps import KINDS
from weaksam_cli.errors import UserError
from weaksam_cli.exchange.fitting import Remarks
from weaksam_cli.exchange.importing import read_points
from weaksam_cli.exchange.point_files import point_folders, read_point_folder

IMAGES = {"000005": 5, "000007": 7, "2008_000021": 2008000021}


def folder_of(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize("case", range(4))
def test_the_published_reader(oracle: Any, tmp_path: Path, case: int) -> None:
    """Four and five columns; all points in order, and the points of each class."""
    item = oracle("proposals")["point_file_reader"]["cases"][case]
    root = folder_of(tmp_path, {"000005.txt": item["text"]})
    split = labels({"000005": 5})
    split.file.images[0] = split.file.images[0].model_copy(update={"height": 100, "width": 100})
    (place,) = point_folders(root, "coarse")
    points = read_point_folder(place, split, Remarks())["000005"]
    expected = item["result"]
    assert points.xy.tolist() == (expected["all_points"] or [])
    by_class: dict[str, list[list[int]]] = {}
    for index, xy in zip(points.class_index.tolist(), points.xy.tolist(), strict=True):
        by_class.setdefault(str(index), []).append(xy)
    assert by_class == (expected["by_class"] or {})
    assert list(by_class) == list(expected["by_class"] or {})


def test_three_kinds_become_the_rows_of_one_artifact(tmp_path: Path) -> None:
    root = folder_of(
        tmp_path,
        {
            "cross/000005.txt": "9 9 1 0.9 4\n",
            "coarse/000005.txt": "1 2 0 1.000\n3 4 5 0.950\n",
            "fine/000005.txt": "",
            "fine/2008_000021.txt": "0 0 2 1.000\n",
            "fine/000099.txt": "1 1 0 1.0\n",
        },
    )
    found = read_points(root, None, labels(IMAGES))
    assert list(found.rows) == ["000005", "2008_000021"]
    assert found.remarks.missing == ["000007"]
    assert found.remarks.strangers == ["fine/000099"]
    assert found.count == 4
    columns = found.rows["000005"].columns
    assert [KINDS[kind] for kind in columns["kind"].tolist()] == ["coarse", "coarse", "cross"]
    assert columns["xy"].tolist() == [[1, 2], [3, 4], [9, 9]]
    assert columns["map_index"].tolist() == [0, 0, 4]
    assert found.rows["2008_000021"].image["image_size"].tolist() == [48, 64]
    assert found.tables["kind_names"] == KINDS


def test_one_kind_in_a_flat_folder(tmp_path: Path) -> None:
    root = folder_of(tmp_path, {"COCO_val2014_000000000042.txt": "1 2 0 1.000\n"})
    found = read_points(root, "fine", labels({"000000000042.jpg": 42}))
    assert found.rows["000000000042.jpg"].columns["kind"].tolist() == [KINDS.index("fine")]


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        ({"000005.txt": "1 1 0 1.0"}, None, "points of which kind"),
        ({"000005.txt": "1 1 0 1.0"}, "deep", "there is no kind 'deep'"),
        ({"fine/000005.txt": "1 1 0 1.0"}, "fine", "holds folders for fine"),
        ({"fine/readme.md": "x"}, None, "holds no .txt file"),
        ({"000005.txt": "64 1 0 1.0"}, "fine", "'000005' is 64 x 48 pixels, and a point lies at 64 1"),
        ({"000005.txt": "1 -1 0 1.0"}, "fine", "a point lies at 1 -1"),
        ({"000005.txt": "1 1 6 1.0"}, "fine", "class 6 does not exist: the labels have 6"),
        ({"000005.txt": "1 1"}, "fine", "line 1 is not"),
        ({"000009.txt": "1 1 0 1.0"}, "fine", "no image of the file"),
        ({"000005.txt": "", "5.txt": ""}, "fine", "are both image '000005'"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, files: dict[str, str], kind: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_points(folder_of(tmp_path, files), kind, labels(IMAGES))


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a folder of point files"):
        point_folders(tmp_path / "none", "fine")
