from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weaksam_cli.core.types import Points
from weaksam_cli.errors import UserError
from weaksam_cli.prompt.point_file import (
    format_points,
    parse_points,
    point_file_name,
    read_point_file,
    write_point_file,
)


@pytest.mark.parametrize("name", ["single_map_kind", "multi_map_kind"])
def test_published_files_survive_reading_and_writing(oracle: Any, name: str) -> None:
    case = next(case for case in oracle("peak_file_writer")["cases"] if case["name"] == name)
    text = case["file_text"]
    points = parse_points(text, where=name)
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
    write_point_file(path, points, with_map_index=with_map_index)
    back = read_point_file(path)
    np.testing.assert_array_equal(back.xy, points.xy)
    np.testing.assert_array_equal(back.class_index, points.class_index)
    np.testing.assert_array_equal(back.value, points.value)
    np.testing.assert_array_equal(back.map_index, points.map_index)


@pytest.mark.parametrize("line", ["1 2 3", "1 2 3 0.9 4 5", "a 2 3 0.9", "1 2.5 3 0.9", "1 2 3 x"])
def test_a_bad_line_is_named(line: str) -> None:
    with pytest.raises(UserError, match=r"^a\.txt: line 2 is not `column row class value`"):
        parse_points(f"1 2 3 0.9\n{line}\n", where="a.txt")


def test_empty_lines_do_not_matter() -> None:
    assert len(parse_points("\n1 2 3 0.9\n\n", where="a.txt")) == 1


def test_a_missing_file_is_the_users_matter(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_point_file(tmp_path / "none.txt")
