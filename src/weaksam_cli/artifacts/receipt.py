"""Receipts: the small JSON file beside every artifact that says what it is, from what it was made, and its SHA-256.

An artifact is complete when its receipt is there and agrees with it. Times live here and not in the artifact, so that equal
inputs give equal bytes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from weaksam_cli.artifacts import digest
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.core.files import read_bytes
from weaksam_cli.core.json_files import refusal
from weaksam_cli.core.names import plain_word
from weaksam_cli.errors import UserError

RECEIPT_VERSION = 2
RECEIPT_SUFFIX = ".receipt.json"
_MAX_BYTES: Final = 50 * 1000**2
"""Some 300,000 images that failed; parsed, a receipt takes up to 30 times its size."""
_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
_Model = ConfigDict(frozen=True, extra="forbid", strict=True)


class InputDigest(BaseModel):
    """One input of an artifact.

    Attributes:
        path: where it lay, relative to the run directory where it lies inside, else absolute.
        sha256: digest of what it held.
        file: False for what is no file (a dataset that was read), which nobody can compare later.
        size, mtime_ns: of a file without a receipt: while they stay, it is not read again.
    """

    model_config = _Model
    path: str
    sha256: str
    file: bool = True
    size: _Count | None = None
    mtime_ns: int | None = None


class Identity(BaseModel):
    """All that decides the contents of an artifact; equal identities give equal bytes."""

    model_config = _Model
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

    @field_validator("split")
    @classmethod
    def _names_files(cls, split: str) -> str:
        try:
            return plain_word(split, "split", where="")
        except UserError as error:
            raise ValueError(error.what) from None

    @field_validator("recipe")
    @classmethod
    def _has_a_digest(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        digest.canonical_json(recipe)
        return recipe

    def key(self) -> str:
        """Digest of everything but names and places: the same work has the same key wherever it is done."""
        content = self.model_dump(exclude={"recipe_name", "inputs", "dataset"})
        content["inputs"] = {name: item.sha256 for name, item in self.inputs.items()}
        return digest.of_json(content)


class Failure(BaseModel):
    """An image that could not be done."""

    model_config = _Model
    image: str
    reason: str


class Receipt(BaseModel):
    """What stands in `<artifact>.receipt.json`.

    Attributes:
        recipe: the whole recipe of the stage, of which the identity has what decides this artifact.
        left_out: annotated objects that cannot be ground truth.
        peak_bytes: most memory that it took, see `engine.memory`; None where the system does not tell.
    """

    model_config = _Model
    receipt_version: int
    artifact: str
    sha256: str
    size: _Count
    key: str
    identity: Identity
    recipe: dict[str, Any] = {}
    program_version: str
    images: _Count
    failed: list[Failure]
    left_out: list[Failure] = []
    wall_seconds: Annotated[FiniteFloat, Field(ge=0)]
    peak_bytes: _Count | None = None
    finished_at: str


def receipt_path(artifact: Path) -> Path:
    """Where the receipt of `artifact` stands."""
    return artifact.with_name(artifact.name + RECEIPT_SUFFIX)


def stamp(artifact: Path) -> tuple[int, int] | None:
    """What tells one receipt of `artifact` from the next, be their contents equal; None where there is none."""
    try:
        found = receipt_path(artifact).lstat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def write_receipt(ops: FileOps, artifact: Path, receipt: Receipt) -> None:
    """Write the receipt beside its artifact; from here on the artifact is complete."""
    text = json.dumps(receipt.model_dump(), indent=1, sort_keys=True, ensure_ascii=False)
    ops.write_atomically(receipt_path(artifact), text.encode() + b"\n")


class _Version(BaseModel):
    model_config = ConfigDict(strict=True)
    receipt_version: _Count


def read_receipt(artifact: Path) -> Receipt | None:
    """The receipt of `artifact`, or None where there is none.

    Raises:
        UserError: for a receipt that is damaged or written by a newer program.
    """
    path = receipt_path(artifact)
    if not os.path.exists(path):  # noqa: PTH110 - the name with the suffix may be too long for the file system
        return None
    try:
        data = read_bytes(path, _MAX_BYTES)
        version = _Version.model_validate_json(data).receipt_version
        if version <= RECEIPT_VERSION:
            return Receipt.model_validate_json(data)
    except (UserError, ValidationError) as error:
        fault = error if isinstance(error, UserError) else refusal(error, path, None)
        raise UserError(
            f"{fault.what} (the receipt is damaged)",
            where=fault.where,
            remedy="Make the artifact again with --overwrite",
        ) from None
    raise UserError(
        f"the receipt has version {version}, this program reads up to {RECEIPT_VERSION}",
        where=str(path),
        remedy="Install a newer weaksam-cli",
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
"""Marks what has no receipt as ours: the `Software` of a PNG, the `generator` of a page."""
_PAGE_MARK = f'<meta name="generator" content="{OUR_NAME}">'.encode()


def refuse_foreign(path: Path, *, overwrite: bool) -> None:
    """Refuse to write to a place where something stands that this program did not write.

    Ours is a file that agrees with its receipt, an HDF5 file that says so, and a PNG or a page that bears our mark.

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
    if not path.is_file():
        return False
    try:
        receipt = read_receipt(path)
        if receipt is not None:
            verify(path, receipt)
            return True
        if path.suffix == ".h5":
            import h5py

            with h5py.File(path, "r") as handle:
                return str(handle.attrs.get("format", "")).startswith(f"{OUR_NAME}/")
        if path.suffix == ".html":
            with path.open("rb") as file:
                return _PAGE_MARK in file.read(500)
        from PIL import Image

        with Image.open(path) as image:
            return image.info.get("Software") == OUR_NAME
    except Exception:  # the libraries raise all kinds for a file that is not theirs
        return False
