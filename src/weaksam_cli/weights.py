"""Published weights: which files the recipes need, and where they are looked for. Nothing is downloaded here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from weaksam_cli.errors import UserError


@dataclass(frozen=True)
class WeightsFinder:
    """Finds a weights file by name in a few folders, in order.

    Attributes:
        folders: `--weights-dir`, `WEAKSAM_WEIGHTS`, `weights/` of the working folder, the user's cache.
    """

    folders: tuple[Path, ...]

    def find(self, name: str) -> Path | None:
        """The file, or None; a name with a slash is a path and is taken as it stands."""
        if "/" in name:
            path = Path(name)
            return path if path.is_file() else None
        for folder in self.folders:
            if (folder / name).is_file():
                return folder / name
        return None

    def require(self, name: str) -> Path:
        """The file.

        Raises:
            UserError: when it is in none of the folders.
        """
        path = self.find(name)
        if path is None:
            looked = ", ".join(str(folder) for folder in self.folders)
            raise UserError(
                f"the weights file {name!r} is not in {looked}",
                where="weights",
                remedy="Put it there or name its folder with --weights-dir; `--profile embedded` needs no weights",
            )
        return path


def default_folders(given: Path | None, environment: dict[str, str]) -> tuple[Path, ...]:
    """The folders that are searched."""
    folders = [given] if given else []
    if environment.get("WEAKSAM_WEIGHTS"):
        folders.append(Path(environment["WEAKSAM_WEIGHTS"]))
    folders.append(Path("weights"))
    cache = environment.get("XDG_CACHE_HOME") or (
        f"{environment['HOME']}/.cache" if environment.get("HOME") else ""
    )
    if cache:
        folders.append(Path(cache) / "weaksam" / "weights")
    return tuple(folders)
