from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from weaksam_cli.errors import UserError
from weaksam_cli.propose import precision
from weaksam_cli.propose.methods import build
from weaksam_cli.propose.precision import choose_dtype, set_precision
from weaksam_cli.propose.recipe import SamRecipe

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    ("asked", "device", "native", "chosen"),
    [
        ("float32", "cpu", False, F32),
        ("auto", "cpu", True, F32),
        ("bfloat16", "cpu", True, BF16),
        ("bfloat16", "cpu", False, None),
        ("float16", "cpu", True, None),
        ("float32", "cuda", False, F32),
        ("auto", "cuda:1", True, BF16),
        ("auto", "cuda", False, F16),
        ("bfloat16", "cuda", False, BF16),
        ("float16", "cuda", True, F16),
    ],
)
def test_the_format_fits_the_device(
    monkeypatch: pytest.MonkeyPatch, asked: Any, device: str, native: bool, chosen: torch.dtype | None
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: native)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
    if chosen is None:
        with pytest.raises(UserError, match="emulate"):
            choose_dtype(asked, device)
    else:
        assert choose_dtype(asked, device) is chosen


def test_coordinates_stay_in_float32(tiny_sam_factory: Any) -> None:
    sam = tiny_sam_factory(0)
    set_precision(sam, BF16)
    assert {value.dtype for value in sam.image_encoder.parameters()} == {BF16}
    assert {value.dtype for value in sam.mask_decoder.parameters()} == {BF16}
    assert {value.dtype for value in sam.prompt_encoder.parameters()} == {F32}


def test_compiling_for_a_cpu_is_refused(tmp_path: Path) -> None:
    recipe = SamRecipe(model="vit_b", weights="x.pth", compile=True)
    with pytest.raises(UserError, match="compile gains nothing on cpu"):
        build(recipe, tmp_path / "x.pth", "cpu")
