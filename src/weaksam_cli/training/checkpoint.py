"""Training checkpoints and final models: no pickled objects, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from weaksam_cli.core.json_files import refusal
from weaksam_cli.errors import UserError

SaveBytes = Callable[[Path, bytes], object]
"""Puts bytes under a name so that readers see all of them or what stood there before (`FileOps.write_atomically`)."""

_MAGIC, _VERSION = b"weaksam-training-checkpoint", 2
_HEADER_BYTES = len(_MAGIC) + len(b" 2 \n") + hashlib.sha256().digest_size * 2
_METADATA: Final = TypeAdapter(dict[str, Any])
_AGAIN = "Remove the file to train from the start"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the rest of a training depends on.

    Attributes:
        iteration: the next iteration, so the number of finished ones.
        model, optimizer, scaler: state dicts; `scaler` is empty without mixed precision.
        fingerprint: what the training was started with (recipe, seed, digests of the inputs).
        extras: name -> state of what a training keeps besides.
        losses: state of the `LossLog`; {} in files of older programs.
        metadata: what the finished model's file will tell of itself; {} in files of older programs.
    """

    iteration: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    fingerprint: str
    extras: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """A line with format, version and SHA-256, then a file of `torch.save` that `weights_only=True` loads."""
        buffer = io.BytesIO(bytes(_HEADER_BYTES))
        buffer.seek(_HEADER_BYTES)
        torch.save(self.__dict__, buffer)
        with buffer.getbuffer() as view:
            view[:_HEADER_BYTES] = _header(view[_HEADER_BYTES:])
        return buffer.getvalue()


def _header(payload: bytes | memoryview) -> bytes:
    return b"%s %d %s\n" % (_MAGIC, _VERSION, hashlib.sha256(payload).hexdigest().encode())


def read_checkpoint(path: Path, fingerprint: str | None) -> Checkpoint | None:
    """The checkpoint at `path`, its tensors on the CPU; None where there is no file.

    Args:
        path: the file.
        fingerprint: of the training that goes on from it; None for who only looks at it.

    Raises:
        UserError: the file is damaged (a single flipped bit is noticed), of another format or version, or of a training
            started with something else.
    """
    if not path.is_file():
        return None
    data = path.read_bytes()
    version = b"%s %d " % (_MAGIC, _VERSION)
    if not data.startswith(version):
        raise UserError("this is no training checkpoint of this version", where=str(path), remedy=_AGAIN)
    payload = memoryview(data)[_HEADER_BYTES:]
    if data[:_HEADER_BYTES] != _header(payload):
        raise UserError("the training checkpoint is damaged", where=str(path), remedy=_AGAIN)
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(
            f"cannot be loaded safely ({type(error).__name__})", where=str(path), remedy=_AGAIN
        ) from error
    checkpoint = Checkpoint(**content)
    if fingerprint not in (None, checkpoint.fingerprint):
        raise UserError(
            "the checkpoint belongs to a training with another recipe, seed or input",
            where=str(path),
            remedy=_AGAIN,
        )
    return checkpoint


def model_bytes(model: nn.Module, metadata: Mapping[str, Any]) -> bytes:
    """The weights of a model as a safetensors file, the same bytes for the same weights and metadata.

    Args:
        model: whose state dict is saved, buffers included.
        metadata: what JSON can hold; stored as one text under `weaksam`, because safetensors writes several in any order.
    """
    return tensors_bytes(model.state_dict(), metadata)


def tensors_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> bytes:
    """Named tensors as a safetensors file, the same bytes for the same tensors and metadata; see `model_bytes`."""
    state = {name: value.detach().cpu().contiguous() for name, value in sorted(tensors.items())}
    return save(state, metadata={"weaksam": json.dumps(metadata, sort_keys=True, separators=(",", ":"))})


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        UserError: the file is missing or damaged.
    """
    with _open(path) as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118


def read_names(path: Path) -> list[str]:
    """The names of the tensors of a safetensors file.

    Raises:
        UserError: the file is missing or damaged.
    """
    with _open(path) as handle:
        return list(handle.keys())


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a file of `model_bytes`; empty for a safetensors file of another program.

    Raises:
        UserError: the file is missing or damaged.
    """
    with _open(path) as handle:
        texts: dict[str, str] = handle.metadata() or {}
    try:
        return _METADATA.validate_json(texts.get("weaksam", "{}"))
    except ValidationError as error:
        raise refusal(error, path, "Train the model anew", ("metadata", "weaksam")) from None


def expect_classes(trained: object, class_names: Sequence[str], path: Path) -> None:
    """Refuse a model that was trained for other classes than those of the images.

    Raises:
        UserError: the names that its metadata has are others, or in another order.
    """
    if trained != list(class_names):
        raise UserError(
            f"was trained for the classes {trained}, the images have {list(class_names)}",
            where=str(path),
            remedy="Give labels of the same dataset, or train anew: --variant NAME",
        )


def _open(path: Path) -> Any:
    if not path.is_file():
        raise UserError("no such file", where=str(path), remedy="Train the model first")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except Exception as error:  # safetensors raises its own kind without a public base
        raise UserError(f"not a safetensors file ({error})", where=str(path)) from error


def load_model(model: nn.Module, path: Path) -> None:
    """Load weights that `model_bytes` saved; every name and shape must fit.

    Raises:
        UserError: the file is missing, damaged or of another model.
    """
    state = read_tensors(path)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(
            f"these weights are of another model ({' '.join(str(error).split())[:200]})",
            where=str(path),
            remedy="Use the recipe that the model was trained with",
        ) from error
