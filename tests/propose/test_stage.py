"""Whose points are whose."""

from __future__ import annotations

import pytest

from weaksam_cli.propose.stage import match_keys, stem


@pytest.mark.parametrize(
    ("key", "name"),
    [("a.jpg", "a"), ("x/a.b.PNG", "a.b"), ("000001", "000001"), ("v1.2", "v1.2"), ("x/.jpg", ".jpg")],
)
def test_stem(key: str, name: str) -> None:
    assert stem(key) == name


@pytest.mark.parametrize(
    ("keys", "ids", "matched"),
    [
        (["a.jpg", "b.jpg"], ["a.jpg", "b"], {"a.jpg": "a.jpg", "b.jpg": "b"}),
        (["x/a.jpg"], ["y/a.png"], {"x/a.jpg": "y/a.png"}),
        (["x/a.jpg", "y/a.jpg"], ["a"], {}),
        (["a.jpg"], ["x/a.jpg", "y/a.jpg"], {}),
        (["a.jpg", "a.png"], ["a"], {}),
        (["a.jpg", "x/a.jpg"], ["a.jpg"], {"a.jpg": "a.jpg"}),
        (["a.jpg"], [], {}),
    ],
)
def test_only_a_key_or_a_name_that_nobody_else_has_makes_a_match(
    keys: list[str], ids: list[str], matched: dict[str, str]
) -> None:
    assert match_keys(keys, ids) == matched
