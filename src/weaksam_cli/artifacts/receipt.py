"""Receipts: the small JSON file beside every artifact that says what it is, from what it was made, and its SHA-256.

An artifact is complete when its receipt is there and agrees with it. Times live here and not in the artifact, so that equal
inputs give equal bytes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.errors import UserError

RECEIPT_VERSION = 1
RECEIPT_SUFFIX = ".receipt.json"


class InputDigest(BaseModel):
    """One input of an artifact.

    Attributes:
        path: where it lay, relative to the run directory where it lies inside, else absolute.
        sha256: digest of what it held.
        file: False for what is no file (a dataset that was read), which nobody can compare later.
        size, mtime_ns: of a file without a receipt: while they stay, it is not read again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    sha256: str
    file: bool = True
    size: int | None = None
    mtime_ns: int | None = None


class Identity(BaseModel):
    """All that decides the contents of an artifact; equal identities give equal bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    stage_version: int
    format: str
    format_version: int
    dataset: str
    split: str
    recipe_name: str
    recipe: dict[str, Any]
    seed: int
    inputs: dict[str, InputDigest]

    def key(self) -> str:
        """Digest of everything but names and places: the same work has the same key wherever it is done."""
        content = self.model_dump(exclude={"recipe_name", "inputs", "dataset"})
        content["inputs"] = {name: item.sha256 for name, item in self.inputs.items()}
        return digest.of_json(content)


class Failure(BaseModel):
    """An image that could not be done."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    image: str
    reason: str


class Receipt(BaseModel):
    """What stands in `<artifact>.receipt.json`; `left_out` are annotated objects that cannot be ground truth."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    receipt_version: int
    artifact: str
    sha256: str
    size: int
    key: str
    identity: Identity
    program_version: str
    images: int
    failed: list[Failure]
    left_out: list[Failure] = []
    wall_seconds: float
    finished_at: str


def receipt_path(artifact: Path) -> Path:
    """Where the receipt of `artifact` stands."""
    return artifact.with_name(artifact.name + RECEIPT_SUFFIX)


def stamp(artifact: Path) -> tuple[int, int] | None:
    """What tells one receipt of `artifact` from the next, be their contents equal; None where there is none."""
    try:
        found = receipt_path(artifact).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def write_receipt(ops: FileOps, artifact: Path, receipt: Receipt) -> None:
    """Write the receipt beside its artifact; from here on the artifact is complete."""
    text = json.dumps(receipt.model_dump(), indent=1, sort_keys=True, ensure_ascii=False)
    ops.write_atomically(receipt_path(artifact), text.encode() + b"\n")


def read_receipt(artifact: Path) -> Receipt | None:
    """The receipt of `artifact`, or None where there is none.

    Raises:
        UserError: for a receipt that is damaged or written by a newer program.
    """
    path = receipt_path(artifact)
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    version = raw.get("receipt_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > RECEIPT_VERSION:
        raise UserError(
            f"the receipt has version {version}, this program reads up to {RECEIPT_VERSION}",
            where=str(path),
            remedy="install a newer weaksam-cli",
        )
    try:
        return Receipt.model_validate(raw)
    except ValidationError as error:
        raise _damaged(path, f"{error.error_count()} fields do not fit") from error


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"the receipt is damaged ({reason})",
        where=str(path),
        remedy="make the artifact again with --overwrite",
    )


def verify(artifact: Path, receipt: Receipt) -> None:
    """Compare an artifact with its receipt.

    Raises:
        UserError: when the file is missing or its bytes are not those that were written.
    """
    if not artifact.is_file():
        raise UserError(
            "the artifact is gone, its receipt is there", where=str(artifact), remedy="run its stage again"
        )
    if artifact.stat().st_size != receipt.size or digest.of_file(artifact) != receipt.sha256:
        raise UserError(
            "the file is damaged or was changed: its SHA-256 is not the one in its receipt",
            where=str(artifact),
            remedy=f"make it again: weaksam {receipt.identity.stage} --split {receipt.identity.split} --overwrite",
        )


OUR_NAME = "weaksam"
"""Marks what has no receipt as ours: the `Software` of a PNG."""


def refuse_foreign(path: Path, *, overwrite: bool) -> None:
    """Refuse to write to a place where something stands that this program did not write.

    Ours is a file that agrees with its receipt, an HDF5 file that says so, and a PNG that bears our mark.

    Raises:
        UserError: something else is there, and `overwrite` was not given; or a folder.
    """
    if path.is_dir():
        raise UserError("is a folder", where=str(path), remedy="Give the name of a file")
    if not overwrite and os.path.lexists(path) and not _is_ours(path):
        raise UserError(
            "there is another file, which weaksam did not write",
            where=str(path),
            remedy="Give another name, or --overwrite to replace it",
        )


def _is_ours(path: Path) -> bool:
    try:
        receipt = read_receipt(path)
        if receipt is not None:
            verify(path, receipt)
            return True
        if path.suffix == ".h5":
            import h5py

            with h5py.File(path, "r") as handle:
                return str(handle.attrs.get("format", "")).startswith(f"{OUR_NAME}/")
        from PIL import Image

        with Image.open(path) as image:
            return image.info.get("Software") == OUR_NAME
    except (OSError, UserError, ValueError, SyntaxError):
        return False
