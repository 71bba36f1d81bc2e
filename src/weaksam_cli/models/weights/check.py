"""Is a weights file the published one? Its size first, then its SHA-256, and for SAM the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from weaksam_cli.artifacts import digest
from weaksam_cli.console import Console
from weaksam_cli.errors import UserError
from weaksam_cli.models.weights.catalogue import Catalogue, WeightsFile

_MEGABYTE = 1_000_000


class FileState(Enum):
    """What is known about a file."""

    OK = "ok"
    WRONG_SIZE = "wrong size"
    WRONG_DIGEST = "wrong SHA-256"
    NOT_PINNED = "not pinned"
    """In the catalogue, without a checksum to compare with."""
    UNKNOWN = "not in the catalogue"


@dataclass(frozen=True)
class Verdict:
    """What `check_file` found.

    Attributes:
        path: the file.
        entry: what it was compared with; None when the catalogue has nothing like it.
        state: the outcome.
        size: bytes.
        sha256: hexadecimal; empty when the size was wrong and nothing was read.
        fault: one line for the user when the file is not what it should be.
    """

    path: Path
    entry: WeightsFile | None
    state: FileState
    size: int
    sha256: str
    fault: UserError | None = None


def check_file(
    path: Path,
    entry: WeightsFile | None,
    catalogue: Catalogue,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Verdict:
    """Compare a file with what is published.

    Args:
        path: an existing file.
        entry: what it should be; None looks its digest up in `catalogue`.
        catalogue: all that is known.
        on_bytes: hears how many bytes were read.
    """
    size = path.stat().st_size
    if entry is not None and entry.size is not None and size != entry.size:
        what = f"expected {entry.size} bytes, got {size}"
        return _refused(path, entry, FileState.WRONG_SIZE, size, "", what)
    sha256 = digest.of_file(path, on_bytes)
    entry = entry or catalogue.of_digest(sha256)
    if entry is None:
        return Verdict(path, None, FileState.UNKNOWN, size, sha256)
    if not entry.has_digest(sha256):
        expected = entry.sha256 or f"{entry.sha256_prefix}..."
        what = f"expected SHA-256 {expected}, got {sha256}"
        return _refused(path, entry, FileState.WRONG_DIGEST, size, sha256, what)
    return Verdict(path, entry, FileState.OK if entry.pinned else FileState.NOT_PINNED, size, sha256)


def _refused(path: Path, entry: WeightsFile, state: FileState, size: int, sha256: str, what: str) -> Verdict:
    # Only a file with other bytes is opened: those of the published one are known to fit, and ViT-H takes 2.6 GB of memory.
    if entry.network is not None:
        differences = shape_differences(path, entry.network)
        what += f"; {differences or f'its tensors fit {entry.network}: trained further, or saved anew?'}"
    remedy = f"Remove it and fetch it anew: weaksam weights fetch {entry.name}"
    if entry.url is None:
        remedy = f"Remove it and get it anew from: {entry.origin}"
    return Verdict(path, entry, state, size, sha256, UserError(what, where=str(path), remedy=remedy))


def shape_differences(path: Path, network: str) -> str:
    """How a checkpoint differs from a network of `segment-anything`; empty when every tensor fits.

    Args:
        path: the checkpoint; nothing in it is executed.
        network: `vit_h`, `vit_l` or `vit_b`.
    """
    import torch
    from segment_anything import sam_model_registry

    from weaksam_cli.models.checkpoints import mismatches, read_checkpoint, shapes_of

    try:
        state = read_checkpoint(path, remedy="").tensors
    except UserError as error:
        return error.what
    with torch.device("meta"):  # shapes only, no memory
        sam = sam_model_registry[network]()
    return "; ".join(mismatches(shapes_of(sam), state))


@contextmanager
def byte_progress(console: Console, title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Progress in megabytes; yields a function that takes the bytes that were just done."""
    seen = done
    with console.progress(title, total // _MEGABYTE, "MB", done=done // _MEGABYTE) as progress:

        def advance(count: int) -> None:
            nonlocal seen
            before, seen = seen, seen + count
            if steps := seen // _MEGABYTE - before // _MEGABYTE:
                progress.advance(steps)

        yield advance
