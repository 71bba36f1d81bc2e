"""Proposals of a tiny run to its weakly supervised detector, on either network."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import done_here, run_here
from weaksam_cli.artifacts import open_artifact
from weaksam_cli.core.boxes import as_boxes
from weaksam_cli.training.checkpoint import model_bytes
from weaksam_cli.wsod import vgg16
from weaksam_cli.wsod.own_features import Layer, TrainedDetector, vgg16_features
from weaksam_cli.wsod.vgg_detector import VggDetector, padded, pool_rois
from weaksam_cli.wsod.views import test_views as views_of
from weaksam_cli.wsod.wsddn import Wsddn
from weaksam_cli.wsod.yang2019 import Yang2019

COMMAND = (
    "eval",
    "--dataset",
    "tiny",
    "--workers",
    "1",
    "--recipe",
    "feature-similarity",
    "--split",
    "trainval",
)


@pytest.fixture(scope="module")
def compared(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy of the finished run with few boxes beside its proposals, compared, and what was said."""
    folder = tmp_path_factory.mktemp("compared") / "work"
    shutil.copytree(finished, folder)
    propose = (
        "propose",
        "--dataset",
        "tiny",
        "--profile",
        "embedded",
        "--workers",
        "1",
        "--split",
        "trainval",
    )
    with contextlib.chdir(folder):
        done_here(*propose, "--set", "grid_boxes=7", "--set", "clues.sources=[]", "--variant", "few")
        return folder, done_here(*COMMAND, "--set", "sets=[few,plain]", "--set", "most=6")


def test_rows_figures_and_heat_maps(compared: tuple[Path, str]) -> None:
    folder, said = compared
    place = folder / "runs" / "tiny" / "eval"
    with open_artifact(place / "similarity-trainval.h5") as artifact:
        assert artifact.table("set_names") == ["few", "plain"]
        counts = artifact.column("proposals").astype(int).reshape(-1, 2)
        cosines = artifact.column("mean_cosine").astype(float).reshape(-1, 2)
    assert (counts[:, 0] == counts[:, 1]).all() and counts.max() <= 6
    assert np.isnan(cosines[counts < 2]).all() and (np.abs(cosines[counts >= 2]) <= 1).all()
    first, second = json.loads((place / "similarity-trainval.json").read_text())["sets"]
    assert (first["set"], second["set"], first["lower"]) == ("few", "plain", 0)
    assert second["lower"] == pytest.approx(np.nanmean(cosines[:, 0] - cosines[:, 1]), abs=1e-6)
    assert (place / "similarity-trainval.png").read_bytes().startswith(b"\x89PNG")
    assert "lower than few" in said


def test_what_the_heads_read_is_another_layer(compared: tuple[Path, str]) -> None:
    folder, _ = compared
    with contextlib.chdir(folder):
        done_here(*COMMAND, "--set", "layer=heads", "--set", "images=2", "--variant", "heads")
    with open_artifact(folder / "runs/tiny/eval@heads/similarity-trainval.h5") as artifact:
        assert len(artifact) == 2
        assert artifact.column("mean_cosine").astype(float).min() < 0.99


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("sets=[none]", "has no proposals 'none'. Allowed: plain, few"),
        ("image=none", "there is no image 'none'"),
        ("layer=last", "layer: Input should be 'pooled' or 'heads'"),
    ],
)
def test_what_cannot_be_compared(compared: tuple[Path, str], more: str, message: str) -> None:
    with contextlib.chdir(compared[0]):
        result = run_here(*COMMAND, "--variant", "wrong", "--set", more)
    assert (result.exit_code, message in result.output) == (2, True), result.output


@pytest.mark.parametrize("last_relu", [True, False])
def test_vgg16_pools_its_last_map(tmp_path: Path, last_relu: bool) -> None:
    network = vgg16.Vgg16(
        name="vgg16", weights="random", widths=(2, 2, 4, 4, 8), hidden=16, last_relu=last_relu,
        test_images=vgg16.TestImageSettings(short_sides=(64, 96)),
    )  # fmt: skip
    torch.manual_seed(0)
    detector = VggDetector(Wsddn(), network, 2)
    (tmp_path / "model.safetensors").write_bytes(model_bytes(detector, {"class_names": ["a", "b"]}))
    trained = TrainedDetector(Wsddn(), tmp_path, ["a", "b"], True, "cpu")
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    sets = [as_boxes([[index, 0, index + 30, 40] for index in range(n)]) for n in (0, 1, 2, 6, 7)]

    def found(layer: Layer) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        return vgg16_features(network, trained, layer)("key", image, sets)

    assert [item.shape for item in found("pooled")] == [(n, 8 * 49) for n in (0, 1, 2, 6, 7)]
    assert [item.shape for item in found("heads")] == [(n, 16) for n in (0, 1, 2, 6, 7)]
    assert (found("pooled")[-1].min() >= 0) == last_relu
    np.testing.assert_allclose(found("pooled")[1], found("pooled")[4][:1], rtol=1e-5)


def test_features_are_those_of_the_method(tmp_path: Path) -> None:
    """Guided attention strengthens the map before RoIs are pooled: by one and a half where it knows nothing yet."""
    network = vgg16.Vgg16(name="vgg16", weights="random", widths=(2, 2, 4, 4, 8), hidden=16)
    torch.manual_seed(0)
    method = Yang2019()
    detector = VggDetector(method, network, 2)
    attend = detector.heads.get_submodule("attend")
    assert isinstance(attend, torch.nn.Conv2d)
    torch.nn.init.zeros_(attend.weight)
    names = {"class_names": ["a", "b"]}
    (tmp_path / "model.safetensors").write_bytes(model_bytes(detector, names))
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    view, boxes = next(views_of(image, as_boxes([[0, 0, 30, 40]]), network)), as_boxes([[0, 0, 30, 40]])
    with torch.no_grad():
        plain = pool_rois(
            detector.backbone(padded([torch.from_numpy(view.pixels)])), [torch.from_numpy(view.boxes)]
        )
    trained = TrainedDetector(method, tmp_path, ["a", "b"], True, "cpu")
    (found,) = vgg16_features(network, trained, "pooled")("key", image, [boxes])
    np.testing.assert_allclose(found, 1.5 * plain.flatten(1).numpy(), rtol=1e-4, atol=1e-6)
