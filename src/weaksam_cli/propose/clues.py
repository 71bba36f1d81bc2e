"""Which images of a folder have point prompts in an artifact of another run: by key, or by a name that only they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from weaksam_cli.data.images import SUFFIXES
from weaksam_cli.errors import UserError


@dataclass(frozen=True)
class Clues:
    """Point prompts for some images.

    Attributes:
        path: the artifact that holds them.
        sha256: its digest.
        ids: key of an image -> its image id in the artifact.
        by_key: how many images have the very id as their key; the others share a file name with it.
    """

    path: Path
    sha256: str
    ids: dict[str, str]
    by_key: int


def stem(key: str) -> str:
    """The file name of a key without folders and without the suffix of an image: `a/b.x.jpg` gives `b.x`."""
    name = PurePosixPath(key).name
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in SUFFIXES else name


def match_keys(keys: Sequence[str], ids: Sequence[str]) -> dict[str, str]:
    """Key of an image -> id of an artifact.

    An image with the very key goes first. Of what is left, an image and an id belong together when they have the same
    `stem` and no other image and no other id of either side has it: where names are not unique nothing is guessed.
    """
    known = set(ids)
    matched = {key: key for key in keys if key in known}
    stems = Counter(map(stem, keys))
    owners = Counter(map(stem, ids))
    by_stem = {stem(image_id): image_id for image_id in ids}
    for key in keys:
        name = stem(key)
        if key not in matched and stems[name] == owners[name] == 1:
            matched[key] = by_stem[name]
    return matched


def match_clues(path: Path, sha256: str, keys: Sequence[str], ids: Sequence[str]) -> Clues:
    """The clues of the images `keys` in the artifact at `path`, whose images are `ids`.

    Raises:
        UserError: no image is in it.
    """
    matched = match_keys(keys, ids)
    if not matched:
        example = repr(ids[0]) if ids else "none at all"
        raise UserError(
            f"holds points of none of these images: its images are called like {example}, the images like {keys[0]!r}",
            where=str(path),
            remedy="A key or a file name that occurs once on both sides makes a match; give the points of these images",
        )
    return Clues(path, sha256, matched, sum(key == image_id for key, image_id in matched.items()))
