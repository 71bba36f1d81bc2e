"""Variants share what they can: an artifact that another variant of the run has made of the same work is taken over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from weaksam_cli.artifacts import receipt as receipts
from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.engine.runs import RunDirectory
from weaksam_cli.errors import UserError


def take_over(
    path: Path, identity: receipts.Identity, run: RunDirectory, ops: FileOps
) -> tuple[receipts.Receipt, Path] | None:
    """Put the artifact of another variant under the name `path`, where one was made of the same work.

    The file gets a second name where the file system can do that: artifacts are replaced whole, and never written to.

    Args:
        path: the artifact that is wanted.
        identity: of the work; equal keys mean equal bytes.
        run: whose variants are looked at.
        ops: writes the file.

    Returns:
        The receipt that `path` is to have, and the artifact that it was taken from; None where nobody has made it.
    """
    for other in _twins(path, run):
        with suppress(UserError):  # one that is damaged is made again, here and there
            receipt = receipts.read_receipt(other)
            if receipt is None or receipt.key != identity.key() or receipt.failed:
                continue
            receipts.verify(other, receipt)
            ops.build_atomically(path, partial(_link, ops, other))
            return receipt.model_copy(update={"artifact": path.name, "identity": identity}), other
    return None


def _twins(path: Path, run: RunDirectory) -> Iterator[Path]:
    """The same artifact of the other variants, the plain one first."""
    if not path.is_relative_to(run.root):
        return
    folder, *rest = path.relative_to(run.root).parts
    plain = folder.partition("@")[0]
    for place in (run.root / plain, *sorted(run.root.glob(f"{plain}@*"))):
        if place.name != folder:
            yield place.joinpath(*rest)


def _link(ops: FileOps, source: Path, target: Path) -> None:
    ops.before("write", target)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
