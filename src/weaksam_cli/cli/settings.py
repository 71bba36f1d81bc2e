"""`weaksam.toml` in the working folder: defaults of options."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from weaksam_cli.core.files import read_bytes
from weaksam_cli.core.settings import RecipeModel, refusal
from weaksam_cli.errors import UserError

SETTINGS_FILE = Path("weaksam.toml")
_MAX_BYTES = 100_000


class FileSettings(RecipeModel, strict=True):
    """What may stand in `weaksam.toml`.

    Attributes:
        executor_settings: executor -> its settings as `--executor-set` takes them, which are added to these.
    """

    dataset: str | None = None
    run_dir: str | None = None
    profile: str | None = None
    weights_dir: str | None = None
    device: str | None = None
    workers: Annotated[int, Field(ge=0, le=1024)] | None = None
    executor: str | None = None
    executor_settings: dict[str, list[str]] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None


def read_settings() -> FileSettings:
    """Read `weaksam.toml` if there is one.

    Raises:
        UserError: not TOML, an unknown key, or a value of the wrong type.
    """
    if not SETTINGS_FILE.is_file():
        return FileSettings()
    try:
        return FileSettings.model_validate(tomllib.loads(read_bytes(SETTINGS_FILE, _MAX_BYTES).decode()))
    except ValidationError as error:
        raise refusal(SETTINGS_FILE, {}, FileSettings, error) from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # no TOML, no UTF-8, a number of 5,000 digits, brackets in brackets
        raise UserError(f"not readable as TOML: {error}", where=str(SETTINGS_FILE)) from error
