"""In which number format a SAM runs: what was asked for, what the device is good at."""

from __future__ import annotations

from typing import Final, Literal

import torch
from segment_anything.modeling import Sam

from weaksam_cli.errors import UserError

Precision = Literal["float32", "auto", "bfloat16", "float16"]

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_dtype(precision: Precision, device: str) -> torch.dtype:
    """The number format for a device.

    `auto` is bfloat16 on a GPU that has it, float16 on another, float32 on a CPU.

    Raises:
        UserError: for half precision on a CPU that has to emulate it: tens of times slower, and no more exact.
    """
    on_gpu = device.startswith("cuda")
    if precision == "auto":
        if not on_gpu:
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if not on_gpu and (precision == "float16" or (precision == "bfloat16" and not cpu_has_bfloat16())):
        raise UserError(
            f"this CPU has no {precision} arithmetic and would emulate it, many times slower",
            where="propose recipe, precision",
            remedy="Use --set precision=float32 (or auto), or a GPU",
        )
    return DTYPES[precision]


def cpu_has_bfloat16() -> bool:
    """Has the CPU matrix products of bfloat16 (AVX512-BF16 or AMX)? A torch that cannot tell is taken to have none."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def set_precision(sam: Sam, dtype: torch.dtype) -> None:
    """Put encoder and decoder of `sam` into `dtype`.

    The prompt encoder stays as it is: its sines and cosines of coordinates need float32, and it costs nothing.
    """
    sam.image_encoder.to(dtype)
    sam.mask_decoder.to(dtype)
