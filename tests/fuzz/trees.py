"""Mutations of trees: what JSON, YAML, pickles and checkpoints hold. One or a few nodes become something else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import yaml

from tests.fuzz.judge import ESCAPED

TEXTS: Sequence[str] = (
    "", " ", "x" * 70_000, "x" * 255, "a\x00b", "\x1b[31mred\x1b[0m", "line\nline", "tab\tc1\x9b1m", "\ud800",
    "\u202eabc", "é",
    "../../../x", "..", ".", "/", str(ESCAPED), "a/b", "a\\b", "C:\\x", "/dev/zero", "/etc/passwd", "-1", "1e400",
    "nan", "True",
    "0x10", "\u0661", "1_0", "9" * 5000, "{}", "[]", "%s%n", "$HOME", "~", "-x", "--help", "labels", "trainval", "test",
    "000001",
    "000001.jpg", "red one", "cam", "weaksam/labels", "sha256", "con", "a,b", "a|b", "<a>&b;",
    "!!python/name:os.system",
)  # fmt: skip
NUMBERS: Sequence[Any] = (
    0, 1, -1, 2, 7, 255, 256, 65536, 2**31 - 1, 2**31, -(2**31) - 1, 2**53 + 1, 2**63, 2**64, -(2**64), 10**400, 0.5,
    -0.0, 1.5, 1e-320,
    1e30, -1e30, 1e308, float("nan"), float("inf"), -float("inf"), True, False, 999, 100_000_000,
)  # fmt: skip
_DEEP = 100_000


class Raw(str):
    """Text that stands in the file as it is, without quotes."""


RAW_JSON: Sequence[str] = (
    "1e400", "-1e999999", "1E-999999", "9" * 5000, "01", "-", "NaN", "-Infinity", "tru", "'a'", "[" * _DEEP,
    '{"a":' * _DEEP,
    "[" * _DEEP + "]" * _DEEP, '"\\ud800"', '"\\u0000"', '"a\nb"', "1 2", "", "[1,]", "{1:2}", '{"id":1,"id":2}',
    "/*c*/1", "\x00",
)  # fmt: skip
RAW_YAML: Sequence[str] = (
    "!!float x", "!!int 1_x", "!!timestamp 2001-99-99", "2001-99-99", "!!python/object/apply:os.system [true]",
    "!!binary =", ".nan",
    ".inf", "-.inf", "0o777", "1:20:30", "0b2", "*a", "&a [*a]", "<<: {}", "!!set {a, b}", "!!omap [a: 1]",
    "? [a]\n: b", "1e400",
    "[" * 5000, "{a: " * 5000, "!!null x", "~", "yes", "'", '"', "|", "%YAML 9.9", "\t", "@", "`", "9" * 5000,
    "!!bool maybe", "!<x> y",
    "{a: &b [1,1,1,1,1,1], c: &d [*b,*b,*b,*b,*b,*b], e: &f [*d,*d,*d,*d,*d,*d], g: &h [*f,*f,*f,*f,*f], i: [*h,*h,*h]}",
    "!!str 1", "!!seq {}", "!!map []", "=", "!", "\ufeff", "\x00", "\x07", "- a\n- b", "---\n", "...\n",
    "2001-01-01T00:00:00+99:99",
)  # fmt: skip


def any_value(rng: Random) -> Any:
    """A value that nobody expects: a leaf or a small tree."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(TEXTS)
    if kind < 6:
        return rng.choice(NUMBERS)
    if kind == 6:
        return rng.choice(
            [
                None,
                [],
                {},
                [[]],
                [None],
                {"": None},
                {"id": 1},
                [0, 0, 0, 0],
                [1],
                [1, 2, 3, 4],
                {"a": {"b": {}}},
            ]
        )
    return [rng.choice(NUMBERS) for _ in range(rng.choice((1, 2, 4, 5, 100)))]


def edited(rng: Random, tree: Any, value: Callable[[Random], Any] = any_value) -> Any:
    """A copy of `tree` with one to three changes: a node replaced, dropped, doubled, moved, renamed or wrapped."""
    tree = [copy.deepcopy(tree)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _edit(rng, tree, value)
    return tree[0]


def _edit(rng: Random, top: list[Any], value: Callable[[Random], Any]) -> None:
    found = places(top)
    holder, key = rng.choice(found)
    action = rng.randrange(10)
    if action < 5 or holder is top:
        holder[key] = value(rng)
    elif action == 5:
        del holder[key]
    elif action == 6:
        other, from_key = rng.choice(found)
        holder[key] = copy.deepcopy(other[from_key])
    elif action == 7:
        holder[key] = rng.choice(([holder[key]], {"a": holder[key]}, [holder[key]] * 2))
    elif isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(rng.choice(holder)))
    else:
        moved = holder.pop(key)
        holder[rng.choice(TEXTS) if action == 8 else value_key(rng, holder)] = moved


def value_key(rng: Random, holder: dict[Any, Any]) -> Any:
    """A key that is there already, or one with another letter."""
    return rng.choice([*holder, "Key", "id"])


def places(tree: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of every node below `tree`, once: a node may stand in several places."""
    found, left, seen = [], [tree], set[int]()
    while left:
        holder = left.pop()
        if id(holder) not in seen and isinstance(holder, dict | list):
            seen.add(id(holder))
            items = [*holder.items()] if isinstance(holder, dict) else [*enumerate(holder)]
            found += [(holder, key) for key, _ in items]
            left += [node for _, node in items]
    return found


def _with_raw(rng: Random, raw: Sequence[str]) -> Callable[[Random], Any]:
    """Now and then a token that the format's own writer would not write."""
    return lambda _: f"@raw:{rng.randrange(len(raw))}@" if rng.random() < 0.3 else any_value(rng)


def json_text(rng: Random, data: bytes) -> bytes:
    """A JSON file whose tree is changed."""
    tree = edited(rng, json.loads(data), _with_raw(rng, RAW_JSON))
    text = json.dumps(tree, indent=rng.choice((None, 1)), ensure_ascii=rng.random() < 0.5)
    for index, raw in enumerate(RAW_JSON):
        text = text.replace(f'"@raw:{index}@"', raw)
    return text.encode("utf-8", "surrogatepass")


def yaml_text(rng: Random, data: bytes) -> bytes:
    """A YAML file whose tree is changed."""
    tree = edited(rng, yaml.safe_load(data), _with_raw(rng, RAW_YAML))
    try:
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    except (yaml.YAMLError, ValueError):  # a key that YAML cannot write
        text = data.decode() + f"\n{any_value(rng)!r}"
    for index, raw in enumerate(RAW_YAML):
        text = text.replace(f"'@raw:{index}@'", raw).replace(f"@raw:{index}@", raw)
    return text.encode("utf-8", "surrogatepass")
