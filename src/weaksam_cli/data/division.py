"""Dividing a test split off a training split, so that every class keeps its share in both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from weaksam_cli.artifacts import digest
from weaksam_cli.core.names import plain_word
from weaksam_cli.data.dataset import DatasetSplit, ImageRecord
from weaksam_cli.errors import UserError


def split_off(splits: Sequence[DatasetSplit], name: str, share: float) -> tuple[DatasetSplit, ...]:
    """The only training split without `share` of its images, and these as a test split `name`.

    Raises:
        UserError: there are several splits, or too few images.
    """
    plain_word(name, "split", where="--split-off")
    if len(splits) != 1 or splits[0].role != "train" or splits[0].name == name:
        found = ", ".join(f"{split.name} ({split.role})" for split in splits)
        raise UserError(
            f"a test split is divided off a dataset that has one training split and no other, this one has {found}",
            where="--split-off",
            remedy="Leave it out; --set 'splits={train: train}' reads one of them alone",
        )
    whole = splits[0]
    chosen = held_out(whole.images, share)
    kept = tuple(image for image in whole.images if image.key not in chosen)
    off = tuple(image for image in whole.images if image.key in chosen)
    if not kept or not off:
        what = (
            f"{share:g} of {len(whole.images)} images leave {len(kept)} to train on and {len(off)} to test on"
        )
        raise UserError(what, where="--split-off", remedy="Choose another share")
    test = replace(whole, name=name, role="test", images=off, failed=(), warnings=())
    return replace(whole, images=kept), test


def held_out(images: Sequence[ImageRecord], share: float) -> frozenset[str]:
    """Keys of the images that are held out, by iterative stratification (Sechidis et al., ECML 2011, algorithm 1).

    The rarest class is dealt out first, each of its images to the part that lacks most of it. Images come in the order of a
    hash of their keys, so that equal datasets are divided equally wherever they lie.
    """
    order = sorted(images, key=lambda image: digest.of_bytes(image.key.encode()))
    shown = {image.key: image.labels or ("",) for image in order}
    left = Counter(name for names in shown.values() for name in names)
    lacks = {name: [count * (1 - share), count * share] for name, count in left.items()}
    room = [len(order) * (1 - share), len(order) * share]
    chosen: set[str] = set()
    while left:
        rarest = min(left, key=lambda name: (left[name], name))
        for key in [key for key, names in shown.items() if rarest in names]:
            part = max((0, 1), key=lambda part: (lacks[rarest][part], room[part]))
            if part:
                chosen.add(key)
            room[part] -= 1
            for name in shown.pop(key):
                lacks[name][part] -= 1
                left[name] -= 1
        left = +left
    return frozenset(chosen)
