"""What the detectors share that are made of the parts of `transformers`: the library, settings, published checkpoints."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import ValidationError

from weaksam_cli.core.names import first_few
from weaksam_cli.core.settings import RecipeModel
from weaksam_cli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

S = TypeVar("S", bound=RecipeModel)
_NAMED: Final = 3


def require_transformers(method: str) -> None:
    """Refuse a method whose network is made of `transformers` where that is not installed.

    Raises:
        UserError: it says how to install it.
    """
    if find_spec("transformers") is None:
        raise UserError(
            f"the method {method} needs transformers, which is not installed",
            where=f"method: {method}",
            remedy="pip install 'weaksam-cli[hf]'",
        )


def what_was_loaded(
    path: Path,
    wanted: Mapping[str, tuple[int, ...]],
    fits: Collection[str],
    found: Collection[str],
    of_classes: tuple[str, ...],
) -> str:
    """A line for people about a checkpoint of a whole network of which is taken what fits.

    Args:
        path: the file.
        wanted: name -> shape of what the network learns.
        fits: names that were loaded.
        found: names of the file's tensors as the network would call them.
        of_classes: how the names begin of layers whose size the number of classes decides.
    """
    parts = [f"initial weights: {len(fits)} of {len(wanted)} tensors from {path}"]
    classes = [name for name in wanted if name.startswith(of_classes) and name not in fits]
    if classes:
        parts.append(f"{len(classes)} belong to its classes and start anew: {first_few(classes, _NAMED)}")
    missing = [name for name in wanted if name not in fits and name not in classes]
    for kind, names in (
        ("of another shape", [name for name in missing if name in found]),
        ("not in the file", [name for name in missing if name not in found]),
        ("of the file unknown here", [name for name in found if name not in wanted]),
    ):
        if names:
            parts.append(f"{len(names)} {kind}: {first_few(names, _NAMED)}")
    return "; ".join(parts)


def split_projection(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor with its name; torch's attention keeps query, key and value in one, transformers' in three."""
    match = re.fullmatch(r"(.+\.)in_proj_(weight|bias)", name)
    if match is None:
        yield name, value
        return
    for part, item in zip("qkv", value.chunk(3), strict=False):
        yield f"{match[1]}{part}_proj.{match[2]}", item


def method_settings(cfg: Any, kind: type[S]) -> S:
    """`MODEL.METHOD.SETTINGS` of detectron2's configuration as settings of that kind.

    Raises:
        UserError: they are none; of a recipe they were looked at, so a model's file has them.
    """
    try:
        return kind.model_validate(dict(cfg.MODEL.METHOD.SETTINGS))
    except ValidationError as error:
        what = (
            f"they are none of this version's {cfg.MODEL.METHOD.NAME} ({' '.join(str(error).split())[:200]})"
        )
        raise UserError(what, where="MODEL.METHOD.SETTINGS of the model", remedy="Train it again") from error
