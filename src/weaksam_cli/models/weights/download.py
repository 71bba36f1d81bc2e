"""Download of a published weights file."""

from __future__ import annotations

from pathlib import Path

from weaksam_cli.artifacts import download
from weaksam_cli.console import Console
from weaksam_cli.errors import UserError
from weaksam_cli.models.weights.catalogue import WeightsFile


def fetch_file(entry: WeightsFile, folder: Path, console: Console, *, unverified: bool = False) -> Path:
    """Download a file that is not there yet.

    Args:
        entry: what to download.
        folder: where to; it is made.
        console: shows the progress.
        unverified: take a file that nothing is known to compare with.

    Returns:
        The file, complete and compared with its checksum.

    Raises:
        UserError: it has no address, or see `download.fetch_file`.
    """
    if entry.url is None:
        remedy = f"Put it into {folder}: {entry.origin}"
        raise UserError("only a browser gets this file", where=entry.name, remedy=remedy)
    wanted = download.Download(
        name=entry.name,
        url=entry.url,
        checksum=entry.checksum,
        algorithm="sha256",
        digest=entry.sha256 or entry.sha256_prefix,
        size=entry.size,
        command="weaksam weights fetch",
        place="--weights-dir",
    )
    return download.fetch_file(wanted, folder, console, unverified=unverified)
