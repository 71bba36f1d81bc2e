"""ResNet-50 weights from a user's file, in every layout, and never executed."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from weaksam_cli.detectron.backbones import load_resnet50, torchvision_key
from weaksam_cli.detectron.compat import import_detectron2
from weaksam_cli.errors import UserError


def resnet(*, stride_in_1x1: bool) -> Any:
    """A ResNet of 50 layers, as narrow as detectron2 builds it."""
    import_detectron2()
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone.resnet import build_resnet_backbone

    cfg = get_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = stride_in_1x1
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 2
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 2
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    return build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()


def torchvision_resnet() -> nn.Module:
    """torchvision's ResNet-50 with channels divided by 32, and statistics that are not the identity."""
    from torchvision.models.resnet import Bottleneck, ResNet

    torch.manual_seed(0)
    network = ResNet(Bottleneck, [3, 4, 6, 3])
    shrink = {id(m): m for m in network.modules()}
    for module in shrink.values():
        if isinstance(module, nn.Conv2d):
            module.in_channels = (
                max(module.in_channels // 32, 3) if module.in_channels == 3 else module.in_channels // 32
            )
            module.out_channels //= 32
            shape = (module.out_channels, module.in_channels, *module.kernel_size)
            module.weight = nn.Parameter(torch.randn(shape) * 0.3)
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features //= 32
            for name in ("weight", "running_var"):
                value = torch.rand(module.num_features) + 0.5
                setattr(module, name, nn.Parameter(value) if name == "weight" else value)
            module.bias = nn.Parameter(torch.randn(module.num_features) * 0.1)
            module.running_mean = torch.randn(module.num_features) * 0.1
    return network.eval()


def torchvision_res5(network: Any, x: torch.Tensor) -> torch.Tensor:
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    x = network.layer4(network.layer3(network.layer2(network.layer1(x))))
    return x


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_layout(tmp_path: Path, suffix: str) -> None:
    source = torchvision_resnet()
    path = tmp_path / f"resnet50{suffix}"
    if suffix == ".pth":
        torch.save(source.state_dict(), path)
    else:
        save_file(source.state_dict(), path)
    model = resnet(stride_in_1x1=False)
    load_resnet50(model, str(path), "imagenet_rgb")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model(x)["res5"], torchvision_res5(source, x), rtol=1e-3, atol=1e-4)


def caffe2_name(name: str) -> str:
    """detectron2's name of a tensor as Caffe2's R-50.pkl spells it."""
    name = name.replace("stem.conv1.norm", "res_conv1_bn").replace("stem.conv1", "conv1")
    name = name.replace("shortcut.norm", "branch1_bn").replace("shortcut", "branch1")
    for number, letter in zip("123", "abc", strict=True):
        name = name.replace(f"conv{number}.norm", f"branch2{letter}_bn")
        name = re.sub(rf"(res\d\.\d+\.)conv{number}\.", rf"\1branch2{letter}.", name)
    name = name.replace("_bn.weight", "_bn_s").replace("_bn.bias", "_bn_b")
    return name.replace(".weight", "_w").replace(".bias", "_b").replace(".", "_")


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("wrapped", [True, False])
def test_caffe2_pickle(tmp_path: Path, protocol: int, wrapped: bool) -> None:
    torch.manual_seed(1)
    source, target = resnet(stride_in_1x1=True), resnet(stride_in_1x1=True)
    state = source.state_dict()
    blobs = {caffe2_name(k): torch.randn_like(v).numpy() for k, v in state.items() if "running" not in k}
    blobs |= {"pred_w": np.zeros((10, 64), np.float32), "conv1_w_momentum": np.zeros(1, np.float32)}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs} if wrapped else blobs, protocol=protocol))
    load_resnet50(target, str(path), "msra_bgr")
    for name, value in target.state_dict().items():
        if "running" in name:
            assert torch.equal(value, state[name])
        else:
            assert np.array_equal(value.numpy(), blobs[caffe2_name(name)]), name


def test_detectron2_names(tmp_path: Path) -> None:
    torch.manual_seed(2)
    source, target = resnet(stride_in_1x1=False), resnet(stride_in_1x1=False)
    path = tmp_path / "r50.safetensors"
    save_file(source.state_dict(), path)
    load_resnet50(target, str(path), "imagenet_rgb")
    for a, b in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_var", "stem.conv1.norm.running_var"),
        ("layer1.0.conv2.weight", "res2.0.conv2.weight"),
        ("layer4.2.bn3.bias", "res5.2.conv3.norm.bias"),
        ("layer3.0.downsample.0.weight", "res4.0.shortcut.weight"),
        ("layer3.0.downsample.1.weight", "res4.0.shortcut.norm.weight"),
    ],
)
def test_torchvision_key(theirs: str, ours: str) -> None:
    assert torchvision_key(theirs) == ours


@pytest.mark.parametrize(
    ("name", "content", "pixels", "message"),
    [
        ("absent.pth", None, "imagenet_rgb", "no such weights file"),
        ("r50.pth", b"nonsense", "imagenet_rgb", "expected a checkpoint of torch or a pickle of arrays"),
        ("r50.safetensors", b"nonsense", "imagenet_rgb", "cannot be read: truncated or damaged"),
        ("R-50.pkl", b"nonsense", "msra_bgr", "not a readable pickle|refused"),
        ("R-50.pkl", pickle.dumps({"a": 1}), "msra_bgr", "expected a table of named tensors"),
        (
            "R-50.pkl",
            pickle.dumps({"": np.ones(1), "_": np.ones(0)}),
            "msra_bgr",
            "does not fit ResNet-50: .* missing",
        ),
        (
            "R-50.pkl",
            pickle.dumps({"conv1_w": np.ones((2, 3))}),
            "msra_bgr",
            "does not fit ResNet-50: .* missing",
        ),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes | None, pixels: str, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_resnet50(resnet(stride_in_1x1=False), str(path), pixels)
    assert name in caught.value.one_line()


def test_pixels_have_to_fit_the_layout(tmp_path: Path) -> None:
    path = tmp_path / "resnet50.pth"
    torch.save(torchvision_resnet().state_dict(), path)
    with pytest.raises(UserError, match=r"--set backbone\.pixels=imagenet_rgb"):
        load_resnet50(resnet(stride_in_1x1=True), str(path), "msra_bgr")


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"fc.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"does not fit ResNet-50: 26\d tensors missing"):
        load_resnet50(resnet(stride_in_1x1=False), str(path), "imagenet_rgb")
