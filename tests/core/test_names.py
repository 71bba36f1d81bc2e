"""Names of splits, datasets and variants are plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from weaksam_cli.cli.options import CommonOptions, build_context
from weaksam_cli.console import Console, Mode
from weaksam_cli.core.names import first_few, plain_word
from weaksam_cli.errors import UserError

BAD = (
    "../../x",
    "a/b",
    "/etc",
    "",
    ".",
    "..",
    "a\\b",
    "a b",
    "a\n",
    "x@y",
    "a\0b",
    "C:x",
    "a" * 101,
    "...",
    ".git",
    "-rf",
    "a.",
    "ü" * 51,
    "Source",
    "pooled-train",
    "a.json.receipt",
)


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_plain_word(text: str) -> None:
    with pytest.raises(UserError, match=r"here: .* cannot be the name of a split"):
        plain_word(text, "split", where="here")


@pytest.mark.parametrize(
    "text", ["trainval", "val2017", "my-set_1.0", "prüfung", "a..b", "sources", "a" * 100]
)
def test_plain_words(text: str) -> None:
    assert plain_word(text, "split", where="here") == text


@pytest.mark.parametrize("text", ["../x", "", "a@b"])
@pytest.mark.parametrize("option", ["dataset", "variant", "split"])
def test_options_take_plain_words(option: str, text: str) -> None:
    given: dict[str, Any] = {option: text}
    with pytest.raises(UserError, match=f"--{option}: .* cannot be the name of a {option}"):
        build_context(CommonOptions(**given), "cam", Console(Mode.QUIET))


def test_first_few() -> None:
    assert first_few("abc") == "a, b, c"
    assert first_few("abc", 2) == "a, b and 1 more"


@pytest.mark.parametrize("place", ["WEAKSAM_DATASET", "weaksam.toml"])
def test_an_empty_dataset_is_never_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """F18: `WEAKSAM_DATASET=$UNSET weaksam all` ran the demo."""
    monkeypatch.chdir(tmp_path)
    if place == "weaksam.toml":
        Path(place).write_text('dataset = ""\n')
    else:
        monkeypatch.setenv(place, "")
    with pytest.raises(UserError, match=f"{place}: '' cannot be the name of a dataset"):
        build_context(CommonOptions(), "cam", Console(Mode.QUIET))
