"""Published weights: where they are looked for. Nothing is downloaded here."""

from __future__ import annotations

from collections.abc import Mapping
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
                remedy="`weaksam weights` says where to get it; put it there or name its folder with --weights-dir; "
                "`--profile embedded` needs no weights",
            )
        return path


def default_folders(given: Path | None, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The folders that are searched: `--weights-dir`, `WEAKSAM_WEIGHTS`, `weights/`, the user's cache."""
    chosen = _chosen_folders(given, environment)
    return (*chosen, Path("weights"), *_cache_folders(environment))


def download_folder(given: Path | None, environment: Mapping[str, str]) -> Path:
    """Where a download goes: `--weights-dir`, else `WEAKSAM_WEIGHTS`, else the user's cache (`weights/` without a home)."""
    return (*_chosen_folders(given, environment), *_cache_folders(environment), Path("weights"))[0]


def _chosen_folders(given: Path | None, environment: Mapping[str, str]) -> list[Path]:
    named = environment.get("WEAKSAM_WEIGHTS")
    return [folder for folder in (given, Path(named) if named else None) if folder is not None]


def _cache_folders(environment: Mapping[str, str]) -> list[Path]:
    cache = environment.get("XDG_CACHE_HOME") or (
        f"{environment['HOME']}/.cache" if environment.get("HOME") else ""
    )
    return [Path(cache) / "weaksam" / "weights"] if cache else []
