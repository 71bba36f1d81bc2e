"""Which dataset, run directory and defaults: command line, then environment, then `weaksam.toml`, then built in."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from weaksam_cli.core.names import plain_word
from weaksam_cli.errors import UserError, suggestion

SETTINGS_FILE = "weaksam.toml"
DEFAULT_DATASET = "demo"


@dataclass(frozen=True)
class FileSettings:
    """What may stand in `weaksam.toml` in the working folder."""

    dataset: str | None = None
    run_dir: str | None = None
    profile: str | None = None
    weights_dir: str | None = None
    device: str | None = None
    workers: int | None = None
    seed: int | None = None


def read_settings(folder: Path) -> FileSettings:
    """Read `weaksam.toml` if there is one.

    Raises:
        UserError: not TOML, an unknown key, or a value of the wrong type.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return FileSettings()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"not readable as TOML: {error}", where=str(path)) from error
    known = {field.name: str(field.type) for field in fields(FileSettings)}
    for key, value in values.items():
        _check(path, known, key, value)
    return FileSettings(**values)


def _check(path: Path, known: dict[str, str], key: str, value: Any) -> None:
    if key not in known:
        raise UserError(
            f"unknown key {key!r}{suggestion(key, list(known))}",
            where=str(path),
            remedy=f"Allowed: {', '.join(known)}",
        )
    wanted = int if known[key].startswith("int") else str
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise UserError(f"{key}: expected {wanted.__name__}, got {value!r}", where=str(path))


def resolve_dataset(given: str | None, environment: dict[str, str], settings: FileSettings) -> str:
    """The dataset's name: `--dataset`, else WEAKSAM_DATASET, else weaksam.toml, else `demo`.

    Raises:
        UserError: for a name that is not a plain word; the place of the images goes to `weaksam data SOURCE`.
    """
    named = (given, environment.get("WEAKSAM_DATASET") or None, settings.dataset, DEFAULT_DATASET)
    return plain_word(next(name for name in named if name is not None), "dataset", where="--dataset")
