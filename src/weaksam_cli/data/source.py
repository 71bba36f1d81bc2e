"""`labels/source.json`: where a dataset's images and annotations lie on this machine.

Kept apart from the labels themselves, so that artifacts do not depend on the place of a dataset.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from weaksam_cli.artifacts.fsops import FileOps
from weaksam_cli.core.json_files import read_json
from weaksam_cli.core.names import plain_word
from weaksam_cli.errors import UserError

SOURCE_FILE = Path("labels") / "source.json"
_AGAIN: Final = "Run `weaksam data SOURCE` again"
_Place = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]


class SplitSource(BaseModel):
    """What `weaksam data` was pointed at when it read a split.

    Attributes:
        role: train or test.
        layout: the module of this package that reads it.
        path: the dataset; relative paths are relative to the run directory (the demo lies in it).
        image_root: the folder that image paths are relative to.
        name: what the split is called there, or the split that it was divided off.
        images: the folder of images where it was named.
        recipe: how the layout was read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    role: Literal["train", "test"]
    layout: str
    path: _Place
    image_root: _Place
    name: str
    images: _Place | None = None
    recipe: dict[str, Any] = {}


class Source(BaseModel):
    """The splits of a run, each of its own place: `train` and `valid` may be two folders."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    splits: dict[str, SplitSource]

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, values: Any) -> Any:
        """Once all splits lay in one place, and before that `options` held the recipe under other names."""
        if not isinstance(values, dict) or not isinstance(values.get("layout"), str):
            return values
        place = dict(values)
        splits, old = place.pop("splits", None), place.pop("options", None)
        if isinstance(old, dict):
            place["images"] = old.pop("images_root", None)
            place["recipe"] = {"classes": old.pop("class_names", None), **old}
        if not isinstance(splits, dict):
            return values
        return {"splits": {name: {**place, "name": name, "role": role} for name, role in splits.items()}}

    def split(self, name: str, run_root: Path) -> SplitSource:
        """Where a split lies.

        Raises:
            UserError: it is not noted.
        """
        if name not in self.splits:
            what = f"there is no split {name!r}"
            raise UserError(what, where=str(run_root / SOURCE_FILE), remedy=_AGAIN)
        return self.splits[name]

    def role_names(self, role: str) -> list[str]:
        """The splits of a role."""
        return [name for name, part in self.splits.items() if part.role == role]


_SOURCE: Final = TypeAdapter(Source)


def image_root(run_root: Path, source: SplitSource) -> Path:
    """The folder of images on this machine.

    Raises:
        UserError: when it is not there.
    """
    root = run_root / source.image_root
    if not root.is_dir():
        raise UserError(
            "the folder of images is not there (any more)",
            where=str(root),
            remedy="Run `weaksam data SOURCE` again with the new place: the labels stay fresh",
        )
    return root


def write_source(ops: FileOps, run_root: Path, source: Source) -> None:
    """Note where the dataset lies; does nothing when that is noted already."""
    path = run_root / SOURCE_FILE
    data = json.dumps(source.model_dump(), indent=1, ensure_ascii=False).encode() + b"\n"
    if not path.is_file() or path.read_bytes() != data:
        ops.remove_stale_temporaries(path.parent)
        ops.write_atomically(path, data)


def read_source(run_root: Path) -> Source:
    """Read it back.

    Raises:
        UserError: when `weaksam data` has not been run, the file is damaged, or the name of a split could not name a file.
    """
    path = run_root / SOURCE_FILE
    if not path.exists():
        raise UserError(
            "this run has no dataset yet",
            where=str(run_root),
            remedy="Run `weaksam data SOURCE` (or `data demo`) first",
        )
    source = read_json(path, _SOURCE, remedy=_AGAIN)
    for split in source.splits:
        plain_word(split, "split", where=str(path))
    return source
