from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from weaksam_cli.errors import UserError
from weaksam_cli.models.vgg16 import DilatedVgg16, VggNeck, load_vgg16

NARROW, WIDE = (2, 3, 4, 5, 6), (64, 128, 256, 512, 512)
FIRST_OF = {"torchvision": (0, 3), "wetectron": (1, 4)}
"""Numbers of fc6 and fc7 in the two layouts of ImageNet files."""


def backbone(
    widths: Sequence[int] = NARROW,
    *,
    ceil_mode: bool = False,
    last_relu: bool = False,
    frozen_blocks: int = 0,
) -> DilatedVgg16:
    return DilatedVgg16(widths, ceil_mode=ceil_mode, last_relu=last_relu, frozen_blocks=frozen_blocks)


def imagenet_file(layout: str) -> dict[str, Tensor]:
    """What an ImageNet file of the narrow network holds, its last layer too."""
    generator = torch.Generator().manual_seed(5)
    state = {
        name: torch.randn(value.shape, generator=generator) for name, value in backbone().state_dict().items()
    }
    for number, inputs in zip(FIRST_OF[layout], (6 * 49, 7), strict=True):
        state[f"classifier.{number}.weight"] = torch.randn(7, inputs, generator=generator)
        state[f"classifier.{number}.bias"] = torch.randn(7, generator=generator)
    state["classifier.6.weight"] = torch.randn(1000, 7, generator=generator)
    state["classifier.6.bias"] = torch.randn(1000, generator=generator)
    return state


def test_names_and_shapes_are_those_of_torchvision() -> None:
    from torchvision.models import vgg16

    with torch.device("meta"):
        published = {
            name: value.shape
            for name, value in vgg16().state_dict().items()
            if name.startswith("features.") or name.startswith(("classifier.0.", "classifier.3."))
        }
        own = {name: value.shape for name, value in backbone(WIDE).state_dict().items()}
        neck = VggNeck(512, 4096, 0.5).state_dict()
    names = {"fc6": "classifier.0", "fc7": "classifier.3"}
    own |= {f"{names[name[:3]]}.{name[4:]}": value.shape for name, value in neck.items()}
    assert own == published


def test_the_first_three_blocks_compute_what_torchvision_does() -> None:
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    widths = (4, 5, 6, 7, 8)
    ours = backbone(widths)
    named = dict(zip((64, 128, 256), widths[:3], strict=True))
    # VGG16's own table, up to the third pooling, with narrow layers.
    table = [named[item] if isinstance(item, int) else item for item in cfgs["D"][:10]]
    theirs = make_layers(table)
    theirs.load_state_dict(
        {name: ours.state_dict()[f"features.{name}"] for name in theirs.state_dict()}, strict=True
    )
    image = torch.randn(2, 3, 43, 70)
    expected = theirs(image)
    assert expected.shape == (2, 6, 5, 8)
    torch.testing.assert_close(ours.features[:17](image), expected)


@pytest.mark.parametrize(("ceil_mode", "rounded"), [(False, (5, 8)), (True, (6, 9))])
def test_the_stride_is_eight(ceil_mode: bool, rounded: tuple[int, int]) -> None:
    network = backbone(ceil_mode=ceil_mode)
    assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 6, 8, 12)
    assert network(torch.zeros(1, 3, 43, 70)).shape == (1, 6, *rounded)


def test_the_last_relu_is_the_only_difference() -> None:
    torch.manual_seed(1)
    open_end, rectified = backbone(last_relu=False), backbone(last_relu=True)
    rectified.load_state_dict(open_end.state_dict(), strict=True)
    image = torch.randn(1, 3, 32, 40)
    found = open_end(image)
    assert (found < 0).any()
    assert torch.equal(rectified(image), found.relu())


def test_the_fifth_block_sees_the_dilated_field() -> None:
    """Three dilated convolutions reach 6 cells to each side, plain ones after the fourth block 3."""
    network = backbone().eval()
    image = torch.zeros(1, 3, 256, 256)
    cells = torch.zeros(1, 5, 32, 32)
    cells[0, :, 16, 16] = 1
    fifth = network.features[24:]
    for layer in fifth:
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
    reached = fifth(cells)[0, 0] > 0
    assert network(image).shape[-2:] == (32, 32)
    rows = torch.nonzero(reached.any(dim=1)).flatten()
    assert rows.tolist() == [10, 12, 14, 16, 18, 20, 22]


@pytest.mark.parametrize(("frozen", "convolutions"), [(0, 0), (2, 4), (5, 13)])
def test_frozen_blocks_keep_their_weights(frozen: int, convolutions: int) -> None:
    torch.manual_seed(2)
    network = backbone(frozen_blocks=frozen)
    layers = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    before = [layer.weight.detach().clone() for layer in layers]
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scale = torch.ones((), requires_grad=True)  # something to learn even where all is frozen
    (network(torch.randn(1, 3, 16, 16)) * scale).square().sum().backward()
    optimizer.step()
    changed = [not torch.equal(layer.weight, old) for layer, old in zip(layers, before, strict=True)]
    assert changed == [False] * convolutions + [True] * (13 - convolutions)


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_the_neck_takes_every_number_of_rois(n: int) -> None:
    torch.manual_seed(0)
    neck = VggNeck(6, 7, 0.5)
    pooled = torch.randn(n, 6, 7, 7)
    expected = neck.fc7(neck.fc6(pooled.flatten(1)).relu()).relu()
    torch.testing.assert_close(neck.eval()(pooled), expected)
    assert neck.train()(pooled).shape == (n, 7)


def test_dropout_of_the_neck_is_for_training() -> None:
    torch.manual_seed(0)
    neck = VggNeck(6, 500, 0.5)
    assert not neck.fc6.bias.any() and not neck.fc7.bias.any()
    assert float(neck.fc6.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    nn.init.ones_(neck.fc7.bias)
    nn.init.zeros_(neck.fc7.weight)
    found = neck.train()(torch.randn(20, 6, 7, 7))
    assert set(found.detach().unique().tolist()) == {0.0, 2.0}
    assert float((found == 0).float().mean()) == pytest.approx(0.5, abs=0.03)


def save_pth(state: dict[str, Tensor], path: Path) -> None:
    torch.save(OrderedDict(state), path)


def save_old_pth(state: dict[str, Tensor], path: Path) -> None:
    torch.save(OrderedDict(state), path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("save", "suffix"), [(save_pth, "pth"), (save_old_pth, "pth"), (save_file, "safetensors")]
)
@pytest.mark.parametrize("layout", ["torchvision", "wetectron"])
def test_both_layouts_load(
    layout: str, save: Callable[[dict[str, Tensor], Path], None], suffix: str, tmp_path: Path
) -> None:
    state, path = imagenet_file(layout), tmp_path / f"vgg.{suffix}"
    save(state, path)
    network, neck = backbone(), VggNeck(6, 7, 0.5)
    assert load_vgg16(network, neck, path) == {"torchvision": "RGB", "wetectron": "BGR"}[layout]
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    for layer, number in zip((neck.fc6, neck.fc7), FIRST_OF[layout], strict=True):
        assert torch.equal(layer.weight, state[f"classifier.{number}.weight"])
        assert torch.equal(layer.bias, state[f"classifier.{number}.bias"])


def without(*names: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: [state.pop(name) for name in names]


def transposed(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({name: state[name].transpose(0, 1).contiguous()})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("features.28.bias"), r"vgg\.pth.*1 tensors missing: features\.28\.bias"),
        (without("classifier.3.weight"), r"1 tensors missing: classifier\.3\.weight"),
        (without("classifier.0.weight"), r"missing: classifier\.1\.weight"),
        (
            transposed("features.5.weight"),
            r"1 tensors of another shape: features\.5\.weight \(2, 3, 3, 3\) instead of \(3, 2, 3, 3\)",
        ),
        (dict.clear, "expected a table of named tensors, got an empty dictionary"),
    ],
)
def test_misfits_are_named(
    spoil: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    state = imagenet_file("torchvision")
    spoil(state)
    save_pth(state, tmp_path / "vgg.pth")
    network, neck = backbone(), VggNeck(6, 7, 0.5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(UserError, match=message):
        load_vgg16(network, neck, tmp_path / "vgg.pth")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "whole.pth")
    with pytest.raises(
        UserError, match=r"whole\.pth: refused: it holds torch\.nn\.modules\.linear\.Linear.*VGG16"
    ):
        load_vgg16(backbone(), VggNeck(6, 7, 0.5), tmp_path / "whole.pth")
    with pytest.raises(UserError, match="no such checkpoint"):
        load_vgg16(backbone(), VggNeck(6, 7, 0.5), tmp_path / "absent.pth")
