from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.exchange.helpers import labels
from weaksam_cli.artifacts.class_maps import KINDS
from weaksam_cli.core.types import Points
from weaksam_cli.errors import UserError
from weaksam_cli.exchange.formats import Source
from weaksam_cli.exchange.points import (
    files,
    format_points,
    parse_points,
    point_file_name,
    read,
    read_point_file,
)

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
    points = read(Source(root, kind="coarse"), split).rows["000005"].columns
    expected = item["result"]
    assert points["xy"].tolist() == (expected["all_points"] or [])
    by_class: dict[str, list[list[int]]] = {}
    for index, xy in zip(points["class_index"].tolist(), points["xy"].tolist(), strict=True):
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
    found = read(Source(root), labels(IMAGES))
    assert list(found.rows) == ["000005", "2008_000021"]
    assert found.remarks.missing == ["000007"]
    assert found.remarks.strangers == ["fine/000099"]
    assert len(files(Source(root))) == 5
    columns = found.rows["000005"].columns
    assert [KINDS[kind] for kind in columns["kind"].tolist()] == ["coarse", "coarse", "cross"]
    assert columns["xy"].tolist() == [[1, 2], [3, 4], [9, 9]]
    assert columns["map_index"].tolist() == [0, 0, 4]
    assert found.rows["2008_000021"].image["image_size"].tolist() == [48, 64]
    assert found.tables["kind_names"] == KINDS


def test_one_kind_in_a_flat_folder(tmp_path: Path) -> None:
    root = folder_of(tmp_path, {"COCO_val2014_000000000042.txt": "1 2 0 1.000\n"})
    found = read(Source(root, kind="fine"), labels({"000000000042.jpg": 42}))
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
        read(Source(folder_of(tmp_path, files), kind=kind), labels(IMAGES))


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a folder of point files"):
        files(Source(tmp_path / "none", kind="fine"))


@pytest.mark.parametrize("name", ["single_map_kind", "multi_map_kind"])
def test_published_files_survive_reading_and_writing(oracle: Any, name: str) -> None:
    case = next(case for case in oracle("peak_file_writer")["cases"] if case["name"] == name)
    text = case["file_text"]
    points = parse_points(text.splitlines(), where=name)
    assert format_points(points, with_map_index=name == "multi_map_kind") == text


def test_names_as_published(oracle: Any) -> None:
    case = next(case for case in oracle("peak_file_writer")["cases"] if case["name"] == "coco_prefix")
    assert [
        point_file_name("000005", "voc07/trainval_id.txt"),
        point_file_name("000000000009", "coco/train2014/train_id.txt"),
    ] == case["files"]
    assert point_file_name("000000000009", "coco/train_id.txt") == "000000000009.txt"
    assert point_file_name("7", "lists/val2014.txt") == "COCO_val2014_7.txt"


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
@pytest.mark.parametrize("with_map_index", [False, True])
def test_a_file_comes_back(tmp_path: Path, n: int, with_map_index: bool) -> None:
    points = Points(
        np.arange(2 * n, dtype=np.int32).reshape(n, 2),
        np.arange(n, dtype=np.int32),
        np.full(n, 0.95, np.float32),
        np.arange(n, dtype=np.int16) if with_map_index else np.zeros(n, np.int16),
    )
    path = tmp_path / "000005.txt"
    path.write_text(format_points(points, with_map_index=with_map_index))
    back = read_point_file(path)
    np.testing.assert_array_equal(back.xy, points.xy)
    np.testing.assert_array_equal(back.class_index, points.class_index)
    np.testing.assert_array_equal(back.value, points.value)
    np.testing.assert_array_equal(back.map_index, points.map_index)


@pytest.mark.parametrize(
    "line",
    [
        "1 2 3",
        "1 2 3 0.9 4 5",
        "a 2 3 0.9",
        "1 2.5 3 0.9",
        "1 2 3 x",
        "1 2 3 nan",
        f"1 {2**31} 3 0.9",
        "1 2 3 0.9 40000",
        f"{10**400} 2 3 0.9",
    ],
)
def test_a_bad_line_is_named(line: str) -> None:
    with pytest.raises(UserError, match=r"^a\.txt: line 2 is not `column row class value`"):
        parse_points(["1 2 3 0.9", line], where="a.txt")


def test_empty_lines_do_not_matter() -> None:
    assert len(parse_points(["", "1 2 3 0.9", ""], where="a.txt")) == 1


def test_a_missing_file_is_the_users_matter(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a file of points, got no such file"):
        read_point_file(tmp_path / "none.txt")
