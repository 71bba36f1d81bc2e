from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.vit.helpers import (
    TINY,
    expand_blocks,
    images,
    oracle_weaktr,
    random_weaktr,
    state_shapes,
)
from weaksam_cli.errors import UserError
from weaksam_cli.models.vit import attention
from weaksam_cli.models.vit.attention import AttentionRecord, Workspace
from weaksam_cli.models.vit.checkpoint import VitCheckpoint, VitShape
from weaksam_cli.models.vit.network import Encoded, choose_map, spread
from weaksam_cli.models.vit.weaktr import FusionShape, FusionV1, WeakTr, load_weaktr

ORACLES = [("weaktr", "tiny_weaktr", index) for index in range(3)] + [
    ("weaktr_upstream_v3", "tiny_weaktr_v3", index) for index in range(2)
]
ROUTES: dict[str, tuple[object, str, object]] = {
    "kept": (attention, "ROWS", attention.ROWS),
    "computed anew": (attention, "CPU_BYTES", 0),
    "all heads at once": (AttentionRecord, "_computes_at_once", lambda *_: True),  # as on a GPU
}
ALL = [0, 1, 2]


def close(got: torch.Tensor, expected: Any) -> None:
    np.testing.assert_allclose(got.detach().numpy(), np.asarray(expected, np.float32), rtol=1e-4, atol=2e-6)


def encode_by(network: WeakTr, pixels: torch.Tensor) -> Encoded:
    """The trunk with attentions that wait for their weights, whatever the variant."""
    shape = network.shape
    record = AttentionRecord(shape.n_classes, shape.depth, Workspace(), want_maxima=network.pool == "max")
    return network.encode(pixels, record, lambda branch: branch.amax(1))


@pytest.mark.parametrize(("file", "name", "index"), ORACLES)
def test_maps_of_the_published_networks(oracle: Any, file: str, name: str, index: int) -> None:
    tiny = oracle(file)[name]
    network, case = oracle_weaktr(tiny), tiny["cases"][index]
    with torch.inference_mode():
        encoded = network.encode_for_maps(torch.tensor(case["input"]), Workspace())
        maps = network.maps(encoded, ALL, [0, 1])
        fused = network.fused_attention(encoded)
    class_attention = fused[:, :3, 3:].unflatten(-1, encoded.grid)
    coarse = torch.tensor(case["coarse_cam"]) if "coarse_cam" in case else maps.coarse
    close(encoded.class_logits(), case["class_token_logits"])
    close(fused[None, :, 3:, 3:], case["patch_attention"])
    close(choose_map("fused", class_attention, coarse), case["fused_cam"])
    if "fine_cam" not in case:  # the file of v3 holds fewer outputs
        return
    close(maps.fine, case["fine_cam"])
    close(maps.coarse, case["coarse_cam"])
    close(class_attention, case["cross_attention"])
    per_head = np.asarray(case["per_head_layer_cross_attention"], np.float32)
    assert list(per_head.shape) == case["shape_of_per_head"]
    close(maps.cross, per_head[0].reshape(4, 3, *encoded.grid).swapaxes(0, 1)[None])


@pytest.mark.parametrize(("file", "name", "index"), ORACLES)
@pytest.mark.parametrize("gradients", [True, False])
def test_training_outputs(oracle: Any, file: str, name: str, index: int, gradients: bool) -> None:
    tiny = oracle(file)[name]
    case = tiny["cases"][index]
    with torch.set_grad_enabled(gradients):
        logits = oracle_weaktr(tiny)(torch.tensor(case["input"]))
    expected = case["training_outputs"]
    close(logits["class_token"], expected["cls"])
    close(logits["coarse"], expected["coarse"])
    close(logits["fine"], expected["fine"])


@pytest.mark.parametrize(("file", "name", "index"), ORACLES)
@pytest.mark.parametrize("route", ROUTES)
def test_every_way_of_summing_gives_the_same(
    oracle: Any, monkeypatch: pytest.MonkeyPatch, file: str, name: str, index: int, route: str
) -> None:
    monkeypatch.setattr(*ROUTES[route])
    tiny = oracle(file)[name]
    network, case = oracle_weaktr(tiny), tiny["cases"][index]
    with torch.inference_mode():
        encoded = encode_by(network, torch.tensor(case["input"]))
        close(network.fused_attention(encoded)[None, :, 3:, 3:], case["patch_attention"])


@pytest.mark.parametrize("rows", [1, 2, 4, 5])
@pytest.mark.parametrize("variant", [None, "v1", "v3"])
@pytest.mark.parametrize("most_bytes", [attention.CPU_BYTES, 0])
def test_parts_of_matrices_make_the_whole(
    monkeypatch: pytest.MonkeyPatch, rows: int, variant: Any, most_bytes: int
) -> None:
    network, pixels = random_weaktr(variant), images(12, 20, count=2)
    with torch.inference_mode():
        whole = network.maps(network.encode_for_maps(pixels, Workspace()), ALL, [2])
        monkeypatch.setattr(attention, "ROWS", rows)
        monkeypatch.setattr(attention, "CPU_BYTES", most_bytes)
        encoded = network.encode_for_maps(pixels, Workspace())
        parts = network.maps(encoded, ALL, [2])
    for got, expected in ((parts.fine, whole.fine), (parts.coarse, whole.coarse), (parts.cross, whole.cross)):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("variant", "pool"), [(None, "max"), ("v1", "avg"), ("v1", "max"), ("v3", "avg")])
@pytest.mark.parametrize("route", ROUTES)
def test_weights_that_are_known_beforehand_give_the_same(
    monkeypatch: pytest.MonkeyPatch, variant: Any, pool: Any, route: str
) -> None:
    network, pixels = random_weaktr(variant, pool=pool), images(12, 20, count=2)
    with torch.inference_mode():
        known = network.maps(network.encode_for_maps(pixels, Workspace()), ALL, [0])
        monkeypatch.setattr(*ROUTES[route])
        record = AttentionRecord(3, 3, Workspace(), want_maxima=True)
        waiting = network.encode(pixels, record, lambda branch: branch.mean(1))
        if variant == "v1" and pool == "avg":
            record.maxima = None
        later = network.maps(waiting, ALL, [0])
    torch.testing.assert_close(known.fine, later.fine, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(known.cross, later.cross)


def test_half_precision_of_a_gpu_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    network, pixels = random_weaktr(), images(20, 28, count=2)
    with torch.inference_mode():
        exact = network.maps(encode_by(network, pixels), ALL, [0])
        monkeypatch.setattr(*ROUTES["all heads at once"])
        with torch.autocast("cpu", torch.bfloat16):
            encoded = encode_by(network, pixels)
        half = network.maps(encoded, ALL, [0])
    assert half.fine.dtype == half.cross.dtype == half.coarse.dtype == torch.float32
    for got, expected in ((half.cross, exact.cross), (half.fine, exact.fine)):
        assert float((got - expected).abs().max()) < 0.1 * float(expected.abs().max())


def test_a_batch_is_its_images() -> None:
    network, pixels, workspace = random_weaktr(), images(12, 8, count=2), Workspace()
    with torch.inference_mode():
        both = network.maps(network.encode_for_maps(pixels, workspace), [2, 0], [1])
        for row in range(2):
            one = network.maps(network.encode_for_maps(pixels[row : row + 1], workspace), [2, 0], [1])
            torch.testing.assert_close(both.fine[row : row + 1], one.fine)
            torch.testing.assert_close(both.coarse[row : row + 1], one.coarse)


def test_maps_outlive_the_workspace() -> None:
    network, workspace = random_weaktr(), Workspace()
    with torch.inference_mode():
        first = network.maps(network.encode_for_maps(images(12, 8), workspace), ALL, [0, 1])
        copies = [item.clone() for item in (first.coarse, first.fine, first.cross)]
        network.maps(network.encode_for_maps(images(20, 28, seed=1), workspace), ALL, [0, 1])
    for got, expected in zip((first.coarse, first.fine, first.cross), copies, strict=True):
        assert torch.equal(got, expected)


def test_classes_and_layers_are_chosen() -> None:
    network = random_weaktr()
    with torch.inference_mode():
        encoded = network.encode_for_maps(images(12, 8), Workspace())
        whole, some = network.maps(encoded, ALL, [0, 1, 2]), network.maps(encoded, [2], [2, 0])
        none = network.maps(encoded, [1, 0], [])
    torch.testing.assert_close(some.fine, whole.fine[:, 2:])
    torch.testing.assert_close(some.coarse, whole.coarse[:, 2:])
    assert none.cross.shape == (1, 2, 0, 3, 2)
    # Numbered head * layers + layer: of three layers 2 and 0 are the third and the first of each head.
    torch.testing.assert_close(some.cross[0, 0], whole.cross[0, 2][[2, 0, 5, 3]])


def test_attention_types() -> None:
    attention, patch = torch.rand(1, 2, 3, 4), torch.rand(1, 2, 3, 4)
    assert torch.equal(choose_map("fused", attention, patch), attention * patch)
    assert torch.equal(choose_map("patchcam", attention, patch), patch)
    assert torch.equal(choose_map("attention", attention, patch), attention)


def test_spreading_puts_the_result_at_the_rows() -> None:
    affinity = torch.zeros(1, 6, 6)
    affinity[0, 4, 1] = 2.0  # location 4 takes from location 1
    spreaded = spread(affinity, torch.arange(6.0).view(1, 1, 2, 3))
    assert spreaded.flatten().tolist() == [0, 0, 0, 0, 2, 0]


def test_the_fine_logits_train_the_fusion_alone() -> None:
    network = random_weaktr("v1", pool="avg").requires_grad_(True)
    network(images(8, 8))["fine"].sum().backward()
    reached = {name for name, value in network.named_parameters() if value.grad is not None}
    assert reached == {"adaptive_attention_fusion.fc.0.weight", "adaptive_attention_fusion.fc.2.weight"}


def test_the_other_logits_train_the_trunk() -> None:
    network = random_weaktr().requires_grad_(True)
    logits = network(images(8, 8))
    (logits["class_token"].sum() + logits["coarse"].sum()).backward()
    missed = {name for name, value in network.named_parameters() if value.grad is None}
    assert missed == {
        name for name in dict(network.named_parameters()) if name.startswith(("norm.", "adaptive_"))
    }


def test_maps_are_not_made_with_gradients() -> None:
    network = random_weaktr()
    encoded = network.encode_for_maps(images(8, 8), Workspace())
    with pytest.raises(ValueError, match="without gradients"):
        network.maps(encoded, ALL, [0])
    with pytest.raises(ValueError, match="without a record"):
        network.maps(network.encode(images(8, 8)), ALL, [0])


def test_average_pooling_of_the_published_fusion(oracle: Any) -> None:
    case = oracle("weaktr")["aaf_avg_pool"]
    attention = torch.tensor(case["attention"])
    fusion = FusionV1(FusionShape("v1", 8, 4))
    fusion.load_state_dict(
        {"fc.0.weight": torch.tensor(case["fc0"]), "fc.2.weight": torch.tensor(case["fc2"])}
    )
    close(attention.mean((2, 3)), case["pooled"])
    # Rows of a softmax sum to 1: the gates are known from the number of tokens.
    gates = fusion.gates_of_average(attention.shape[-1])
    close(gates.expand(2, -1), case["weights"])
    close(attention[0, 0] * gates[0, 0], case["out_00"])


def test_random_gates_are_nearly_plain_averaging(oracle: Any) -> None:
    spread_of = oracle("weaktr")["aaf_random_init_spread"]
    found = []
    for seed in range(5):
        torch.manual_seed(seed)
        fusion = FusionV1(FusionShape.published("v1", VitShape(20), 4))
        found.append(fusion.gates_of_average(spread_of["n_tokens"]))
    gates = torch.stack(found).detach()
    assert 0.499 < float(gates.min()) < 0.5 < float(gates.max()) < 0.501


@pytest.mark.parametrize(("classes", "key"), [(20, "C20"), (90, "C90")])
def test_official_names_shapes_and_size(oracle: Any, classes: int, key: str) -> None:
    expected = oracle("weaktr")
    shape = VitShape(classes)
    with torch.device("meta"):
        network = WeakTr(shape, FusionShape.published("v1", shape, 4))
    assert sum(value.numel() for value in network.parameters()) == expected["n_parameters"][key]
    if classes == 20:
        listed = expand_blocks(expected["state_dict_shapes_C20_vendored"], 12)
        assert state_shapes(network) == listed


def test_names_of_the_linked_weights(oracle: Any) -> None:
    listed = expand_blocks(oracle("weaktr")["state_dict_shapes_C20_vendored"], 12)
    listed = {name: value for name, value in listed.items() if not name.startswith("adaptive_")}
    listed |= oracle("weaktr_upstream_v3")["aaf_keys_upstream"]
    shape = VitShape(20)
    with torch.device("meta"):
        network = WeakTr(shape, FusionShape.published("v3", shape, 8))
    assert state_shapes(network) == listed


def test_a_network_tells_its_shape() -> None:
    network = random_weaktr()
    assert VitShape.of_state(network.state_dict(), heads=2) == TINY
    assert FusionShape.of_state(network.state_dict()) == FusionShape.published("v3", TINY, 2)
    assert FusionShape.of_state(random_weaktr("v1").state_dict()) == FusionShape.published("v1", TINY, 2)
    assert FusionShape.of_state(random_weaktr(None).state_dict()) is None


@pytest.mark.parametrize("change", ["drop", "flatten", "extend"])
def test_a_damaged_fusion_is_refused(change: str) -> None:
    state = random_weaktr().state_dict()
    key = next(name for name in state if name.endswith("attn_feat_ffn.0.weight"))
    state[key] = state[key].flatten() if change == "flatten" else state[key][None]
    if change == "drop":
        del state[key]
    with pytest.raises(UserError, match=r"w\.pth: the attention fusion cannot be read"):
        load_weaktr(VitCheckpoint("w.pth", state))
