"""Published weights as data: `stages/weights.yaml`, and which recipes name which file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from weaksam_cli.engine.recipes import RecipeModel, read_yaml_mapping, stages_folder
from weaksam_cli.errors import UserError, suggestion

CATALOGUE_FILE = "weights.yaml"
SUFFIXES = (".pth", ".pt", ".pkl", ".safetensors")
"""A value of a recipe that ends like this names a weights file, whatever its key is called."""

Needs = Mapping[str, tuple[str, ...]]
"""File name -> who names it, as `stage/recipe` or `profiles/name`."""


class WeightsFile(RecipeModel):
    """One published file.

    Attributes:
        name: the name that it has to have on the disk.
        what: which network, trained on what.
        origin: the page that publishes it, or where to look for it when there is no `url`.
        url: where it can be downloaded from; None when only a browser gets it.
        licence: of the weights; None when it is not known.
        size: bytes; None when it is not known.
        sha256: of the whole file, hexadecimal, small letters; None when it is not known.
        sha256_prefix: the first digits, when no more than these are published.
        network: the network of `segment-anything` that the tensors have to fit.
    """

    name: str = Field(pattern=r"^[\w.-]+$")
    what: str
    origin: str
    url: str | None = Field(default=None, pattern=r"^https?://\S+$")
    licence: str | None = None
    size: int | None = Field(default=None, gt=0)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    sha256_prefix: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,63}$")
    network: Literal["vit_h", "vit_l", "vit_b"] | None = None

    @model_validator(mode="after")
    def _one_checksum(self) -> WeightsFile:
        if self.sha256 and self.sha256_prefix:
            raise ValueError(f"{self.name}: expected sha256 or sha256_prefix, got both")
        return self

    @property
    def pinned(self) -> bool:
        """Whether there is a checksum to compare with."""
        return bool(self.sha256 or self.sha256_prefix)

    def has_digest(self, sha256: str) -> bool:
        """Whether `sha256` (64 hexadecimal digits) is that of the published file, as far as it is known."""
        return sha256.startswith(self.sha256 or self.sha256_prefix or "")


class Catalogue(RecipeModel):
    """All files, sorted by name."""

    files: Annotated[tuple[WeightsFile, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _sorted_without_repetition(self) -> Catalogue:
        names = [item.name for item in self.files]
        for earlier, later in pairwise(names):
            if earlier.casefold() >= later.casefold():
                raise ValueError(f"expected the files sorted by name, got {later} after {earlier}")
        return self

    def find(self, name: str) -> WeightsFile | None:
        """The file of that name."""
        return next((item for item in self.files if item.name == name), None)

    def of_digest(self, sha256: str) -> WeightsFile | None:
        """The file whose whole SHA-256 this is, whatever it is called."""
        return next((item for item in self.files if item.sha256 == sha256), None)


def read_catalogue() -> Catalogue:
    """The catalogue that came with the program.

    Raises:
        UserError: when the file was changed into something else.
    """
    path = stages_folder() / CATALOGUE_FILE
    try:
        return Catalogue.model_validate(read_yaml_mapping(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{place}: {first['msg']}" if place else first["msg"], where=str(path)) from error


def read_needs() -> Needs:
    """Which recipes and profiles name which weights file; read from them, so that it cannot drift.

    Raises:
        UserError: for a recipe that is not readable.
    """
    needs: dict[str, tuple[str, ...]] = {}
    for path in sorted(stages_folder().glob("*/*.yaml")):
        for name in dict.fromkeys(_weights_names(read_yaml_mapping(path))):
            needs[name] = (*needs.get(name, ()), f"{path.parent.name}/{path.stem}")
    return needs


def _weights_names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _weights_names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _weights_names(item)
    elif isinstance(value, str) and value.endswith(SUFFIXES):
        yield value


def select(catalogue: Catalogue, needs: Needs, text: str) -> list[WeightsFile]:
    """The files that `text` means: one by its name, or all of a recipe or profile (`sam-vit-h`, `propose/sam-vit-h`).

    Raises:
        UserError: when it is none of these; the message suggests the nearest.
    """
    named = catalogue.find(text)
    if named is not None:
        return [named]
    found = [
        item
        for item in catalogue.files
        if any(text in (user, user.partition("/")[2]) for user in needs.get(item.name, ()))
    ]
    if found:
        return found
    users = {user.partition("/")[2] for names in needs.values() for user in names}
    near = suggestion(text, [*(item.name for item in catalogue.files), *sorted(users)])
    raise UserError(
        f"no such file, and no published one, recipe or profile is called so{near}",
        where=text,
        remedy="`weaksam weights` lists all",
    )
