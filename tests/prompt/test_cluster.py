from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from weaksam_cli.core.types import Points
from weaksam_cli.exchange.points import format_points, parse_points
from weaksam_cli.prompt import peaks
from weaksam_cli.prompt.peaks import ClusterSettings


def cluster_points(points: Points, **settings: Any) -> Points:
    """As published, but for `settings`."""
    return peaks.cluster_points(points, ClusterSettings(**{"fallback_point": True, **settings}), seed=0)


def points_at(xy: list[tuple[int, int]], classes: list[int] | None = None) -> Points:
    n = len(xy)
    return Points(
        np.asarray(xy, np.int32).reshape(-1, 2),
        np.asarray(classes or [0] * n, np.int32),
        np.linspace(0.9, 1, n, dtype=np.float32) if n else np.zeros(0, np.float32),
        np.zeros(n, np.int16),
    )


@pytest.mark.parametrize("index", range(7))
def test_clusters_of_the_published_code(oracle: Any, index: int) -> None:
    case = oracle("kmeans_clustering")["cases"][index]
    points = parse_points(case["input_lines"], where=case["name"])
    assert len(points) == case["n_points"]
    got = format_points(cluster_points(points), with_map_index=False)
    assert sorted(got.splitlines()) == sorted(case["output_text"].splitlines())


def test_the_order_is_the_published_one(oracle: Any) -> None:
    """Holds with scikit-learn 1.9; its k-means++ fixes the order of the centres."""
    case = next(
        case for case in oracle("kmeans_clustering")["cases"] if case["name"] == "fifteen_three_groups"
    )
    points = parse_points(case["input_lines"], where=case["name"])
    assert format_points(cluster_points(points), with_map_index=False) == case["output_text"]


@pytest.mark.parametrize(
    ("n", "clusters"), [(1, 1), (2, 1), (4, 1), (6, 1), (7, 1), (10, 2), (14, 2), (15, 3)]
)
def test_number_of_clusters(n: int, clusters: int) -> None:
    points = points_at([(37 * index % 101, 53 * index % 97) for index in range(n)])
    assert len(cluster_points(points)) == clusters


def test_the_published_way_loses_the_class() -> None:
    centres = cluster_points(points_at([(10, 10), (20, 20)], [3, 3]))
    assert centres.class_index.tolist() == [-1]
    assert centres.value.tolist() == [1]


def test_clusters_within_a_class_keep_it() -> None:
    points = points_at([(10, 10), (12, 12), (100, 100)], [4, 4, 2])
    centres = cluster_points(points, within_class=True)
    assert centres.class_index.tolist() == [2, 4]
    assert centres.xy.tolist() == [[100, 100], [11, 11]]
    np.testing.assert_allclose(centres.value, [1.0, 0.95])


def test_identical_points_within_a_class_give_one_centre() -> None:
    centres = cluster_points(points_at([(40, 50)] * 10), within_class=True)
    assert centres.xy.tolist() == [[40, 50]]


@pytest.mark.parametrize("within_class", [False, True])
def test_no_points(within_class: bool) -> None:
    assert cluster_points(Points.empty(), within_class=within_class).xy.tolist() == [[100, 100]]
    assert len(cluster_points(Points.empty(), within_class=within_class, fallback_point=False)) == 0


def test_a_cluster_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ClusterSettings(points_per_cluster=0)
