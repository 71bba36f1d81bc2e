"""What a person should know of a dataset before days are spent on it: counts, and what looks like a mistake."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import PurePosixPath

from weaksam_cli.core.names import first_few
from weaksam_cli.data.dataset import DatasetSplit
from weaksam_cli.data.images import SUFFIXES
from weaksam_cli.data.labels import LabelsFile

_FEW = 5
"""A class with fewer images is hardly learnt."""
_RATIO = 5
"""Of two names that differ by a letter, the one with so many times fewer images is taken for a slip."""
_SHOWN_CLASSES = 40
_SEPARATORS = re.compile(r"\s*[;|,/]\s*")


def class_table(splits: Sequence[DatasetSplit]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: how many images show each class, by split; the most frequent first, and of many classes the ends."""
    counts = {split.name: label_counts(split) for split in splits}
    names = sorted(
        splits[0].class_names, key=lambda name: (-sum(item[name] for item in counts.values()), name)
    )
    rows = [[name, *(str(counts[split.name][name]) for split in splits)] for name in names]
    if len(rows) > _SHOWN_CLASSES:
        half = _SHOWN_CLASSES // 2
        rows = [*rows[:half], [f"({len(rows) - 2 * half} more)", *([""] * len(splits))], *rows[-half:]]
    totals = {
        "images": [len(split.images) for split in splits],
        "without a class": [sum(image.labels == () for image in split.images) for split in splits],
        "labels unknown": [sum(image.labels is None for image in split.images) for split in splits],
    }
    rows += [[name, *map(str, values)] for name, values in totals.items() if name == "images" or any(values)]
    return ["class", *(f"{split.name} ({split.role})" for split in splits)], rows


def label_counts(split: DatasetSplit) -> Counter[str]:
    """Class -> images that show it."""
    return Counter(name for image in split.images for name in image.labels or ())


def oddities(splits: Sequence[DatasetSplit]) -> Iterator[str]:
    """A line for each thing that looks like a mistake, or that decides what can be learnt, with what changes it."""
    for split in splits:
        yield from _of_split(split)
    names = splits[0].class_names
    total = sum((label_counts(split) for split in splits), Counter[str]())
    if found := list(slips(names, total)):
        yield f"these classes may be two spellings of one: {first_few(found)}"
    yield from separators(names)
    roles = {split.role for split in splits}
    if "test" not in roles:
        yield "there is no test split, so nothing tells how good the detector is; --split-off test=0.2 divides one off"
    if "train" not in roles:
        yield "there is no training split, so nothing can be learnt; roles are given by --set 'splits={NAME: train}'"


def _of_split(split: DatasetSplit) -> Iterator[str]:
    counts, what = label_counts(split), f"split {split.name}"
    if split.role == "train":
        absent = [name for name in split.class_names if not counts[name]]
        few = [f"{name} ({counts[name]})" for name in split.class_names if 0 < counts[name] < _FEW]
        unknown = sum(image.labels is None for image in split.images)
        if absent:
            yield f"{what}: no image shows {first_few(absent, 10)}; they cannot be learnt"
        if few:
            yield f"{what}: fewer than {_FEW} images show {first_few(few, 10)}; they will hardly be learnt"
        if unknown:
            yield f"{what}: {unknown} images have unknown labels and are not learnt from"
    hidden = [image for image in split.images if set(image.difficult) - set(image.labels or ())]
    shown = [image for image in split.images if set(image.difficult) & set(image.labels or ())]
    if hidden:
        classes = first_few(sorted({name for image in hidden for name in image.difficult}))
        yield (
            f"{what}: in {len(hidden)} images difficult objects or crowds alone show {classes}, which gives no label; "
            "--set difficult=include counts them"
        )
    if shown:
        yield (
            f"{what}: in {len(shown)} images a label is given by difficult objects or crowds alone; "
            "--set difficult=exclude leaves them out"
        )


def slips(names: Sequence[str], counts: Mapping[str, int]) -> Iterator[str]:
    """Pairs of names of which one looks like the other with a slip of the pen: `dgo` beside `dog`, `dogs` beside `dog`."""
    # Names that differ by one letter, or by two that changed places, are the same without one letter.
    alike: dict[str, list[str]] = {}
    for name in names:
        word = name.casefold()
        for shorter in {word, *(word[:place] + word[place + 1 :] for place in range(len(word)))}:
            alike.setdefault(shorter, []).append(name)
    pairs = {pair for group in alike.values() for pair in combinations(sorted(group), 2)}
    for one, other in sorted(pairs):
        fewer, more = sorted((counts.get(one, 0), counts.get(other, 0)))
        if not more:
            continue  # names of a fixed list that no image uses, as car and cat of VOC's
        if _letters(one) != _letters(other) and _is_slip(
            one.casefold(), other.casefold(), fewer * _RATIO > more
        ):
            yield f"{one!r} ({counts.get(one, 0)} images) and {other!r} ({counts.get(other, 0)})"


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _is_slip(one: str, other: str, surely: bool) -> bool:
    """Whether two names differ by two letters that changed places, or a plural; and unless `surely` by any one letter.

    Digits are no slips: names that are numbered differ by them.
    """
    short, long = sorted((one, other), key=len)
    start = next(
        (place for place, pair in enumerate(zip(short, long, strict=False)) if len(set(pair)) > 1), len(short)
    )
    if len(short) < 3 or any(
        character.isdigit() for character in short[start : start + 1] + long[start : start + 1]
    ):
        return False
    if len(short) < len(long):
        is_plural = start == len(short) and long.endswith("s")
        return is_plural or (not surely and short[start:] == long[start + 1 :])
    swapped = short[start + 1 : start + 2] + short[start : start + 1] + short[start + 2 :]
    return swapped == long[start:] or (not surely and short[start + 1 :] == long[start + 1 :])


def separators(names: Sequence[str]) -> Iterator[str]:
    """Names that hold a separator and of whose parts one is a class, too: they may be several labels in one."""
    known = set(names)
    for name in names:
        parts = _SEPARATORS.split(name)
        if len(parts) > 1 and known & set(parts):
            yield f"the class {name!r} may be {len(parts)} labels in one: {', '.join(map(repr, parts))}"


def shared_images(files: Sequence[LabelsFile]) -> Iterator[str]:
    """Images that two splits have in common, or that one split has twice, by the SHA-256 of the files."""
    owners: dict[str, tuple[str, str]] = {}
    common: dict[tuple[str, str], list[str]] = {}
    for file in files:
        for image in file.images:
            split, key = owners.setdefault(image.sha256, (file.info.split, image.key))
            if (split, key) != (file.info.split, image.key):
                common.setdefault((split, file.info.split), []).append(image.key)
    for (one, other), keys in common.items():
        shown = first_few(keys, 3)
        if one == other:
            yield f"split {one}: {len(keys)} images have the same bytes as another one: {shown}"
        else:
            yield (
                f"{len(keys)} images stand in {one} and in {other} (same bytes): {shown}; "
                "what is tested on images that were learnt from says little"
            )


def unlisted_images(splits: Sequence[DatasetSplit]) -> Iterator[str]:
    """Images that lie beside those of the splits, and belong to none of them."""
    used = {image.path for split in splits for image in split.images}
    failed = {PurePosixPath(item.key).stem for split in splits for item in split.failed}
    left = [
        child
        for folder in sorted({path.parent for path in used})
        for child in sorted(folder.iterdir())
        if child.suffix.casefold() in SUFFIXES and not child.name.startswith(".")
        if child not in used and child.stem not in failed
    ]
    if left:
        shown = first_few((child.name for child in left), 3)
        yield f"{len(left)} images in the folders of these splits are in none of them: {shown}"
