from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from weaksam_cli.errors import UserError
from weaksam_cli.propose.sam import Recipe, build
from weaksam_cli.propose.sam.segmenter import set_precision


def test_coordinates_stay_in_float32(tiny_sam_factory: Any) -> None:
    sam = tiny_sam_factory(0)
    set_precision(sam, torch.bfloat16)
    assert {value.dtype for value in sam.image_encoder.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in sam.mask_decoder.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in sam.prompt_encoder.parameters()} == {torch.float32}


def test_compiling_for_a_cpu_is_refused(tmp_path: Path) -> None:
    recipe = Recipe(model="vit_b", weights="x.pth", compile=True)
    with pytest.raises(UserError, match="compile gains nothing on cpu"):
        build(recipe, tmp_path / "x.pth", "cpu")
