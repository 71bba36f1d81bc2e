"""COCO's categories as classes: of all splits together, without parents that nothing shows, each name once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainValidator, StringConstraints

from weaksam_cli.core.names import first_few
from weaksam_cli.data.dataset import numbered
from weaksam_cli.errors import UserError


def _identifier(value: object) -> int | str:
    """Ids as tools write them: 7, 7.0 and "7" are one; others are names."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    if isinstance(value, str) and value:
        return value
    raise ValueError("expected a whole number or a name")


Identifier = Annotated[int | str, PlainValidator(_identifier)]


class Category(BaseModel):
    """An entry of `categories`."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)
    id: Identifier
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    supercategory: Any = None


Categories = Mapping[int | str, Category]
"""id -> category."""


def class_table(
    splits: Mapping[str, Categories], counts: Mapping[int | str, int], where: Path
) -> tuple[dict[str, int], list[str]]:
    """Class -> id, by increasing id, and what is to be told.

    A category without annotations that others name as their parent, or that is called background, is no class. Categories of
    one name are one class.

    Args:
        splits: the categories of each split.
        counts: annotations of each category, in all splits.
        where: for messages.

    Raises:
        UserError: a class has two ids in two splits, or an id two classes: one would silently become another.
    """
    every = _joined(splits, where)
    parents = {item.supercategory for item in every.values() if _has_parent(item)}
    table: dict[str, int | str] = {}
    dropped, merged = list[str](), list[str]()
    for name, keys in _ids_of(every).items():
        used = [key for key in keys if counts.get(key)]
        children = [key for key in keys if every[key].supercategory == name]
        is_none = name in parents or name.strip("_").casefold() == "background"
        kept = used or ([] if is_none else (children or keys)[:1])
        if kept:
            table[name] = kept[0]
        dropped += [f"{key} {name!r}" for key in keys if key not in kept]
        merged += [f"{' and '.join(map(str, kept))} {name!r}"] if len(kept) > 1 else []
    told = []
    if dropped:
        what = (
            "no annotation has these categories, which are parents, twins of others or background: no classes"
        )
        told.append(f"{what}: {first_few(dropped)}")
    if merged:
        told.append(f"categories of the same name are read as one class: {first_few(merged)}")
    return _with_numbers(table), told


def _has_parent(item: Category) -> bool:
    return isinstance(item.supercategory, str) and item.supercategory != item.name


def _ids_of(categories: Categories) -> dict[str, list[int | str]]:
    """Name -> ids."""
    ids: dict[str, list[int | str]] = {}
    for key, item in categories.items():
        ids.setdefault(item.name, []).append(key)
    return ids


def _joined(splits: Mapping[str, Categories], where: Path) -> dict[int | str, Category]:
    """The categories of all splits by their ids."""
    joined: dict[int | str, Category] = {}
    first: dict[int | str, str] = {}
    ids: dict[str, list[int | str]] = {}

    def refuse(name: str, key: int | str, split: str, other: int | str, old: object) -> UserError:
        return UserError(
            f"the splits {first[other]} and {split} have different classes: {key} is {name!r} in {split}, "
            f"and in {first[other]} {old}",
            where=str(where),
            remedy="Give all splits the same categories",
        )

    for split, categories in splits.items():
        for name, keys in _ids_of(categories).items():
            for key in keys:
                if (old := joined.setdefault(key, categories[key]).name) != name:
                    raise refuse(name, key, split, key, repr(old))
                first.setdefault(key, split)
            known = ids.setdefault(name, keys)
            if not set(known) & set(keys):
                raise refuse(name, keys[0], split, known[0], known[0])
    return joined


def _with_numbers(table: Mapping[str, int | str]) -> dict[str, int]:
    """Class -> id by increasing id; where ids are names, they are counted from 1."""
    whole = {name: key for name, key in table.items() if isinstance(key, int)}
    if len(whole) == len(table):
        return dict(sorted(whole.items(), key=lambda item: item[1]))
    return dict(zip(table, numbered(list(table)), strict=True))
