"""Typed settings in YAML files: parsed into frozen models, and refused in words when they do not fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from weaksam_cli.core.files import read_bytes
from weaksam_cli.core.json_files import shown
from weaksam_cli.core.names import is_text
from weaksam_cli.errors import UserError, suggestion

_MAX_BYTES: Final = 200_000
"""Of a YAML file: a table of a thousand class names has 30 kB, and a megabyte is parsed for a minute."""

P = TypeVar("P", bound="RecipeModel")
Side = Annotated[int, Field(ge=32, le=2048)]
"""Of an image as a network is shown it, pixels."""
Iteration = Annotated[int, Field(ge=0, le=10**7)]
"""Of a training, or a number of them: a million a day is fast, and published trainings have some 10,000 to 300,000."""
Epoch = Annotated[int, Field(ge=0, le=10_000)]
Weight = Annotated[float, Field(ge=0, le=1e6)]


class RecipeModel(BaseModel):
    """Base of all recipe and settings types: frozen; a key that nothing reads and numbers that are none are refused.

    A recipe that feeds several steps inherits from one settings class a step, and each step gets its `part` alone.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False, str_max_length=10_000
    )

    def part(self, settings: type[P]) -> P:
        """The fields that `settings`, which this recipe inherits from, declares."""
        return settings.model_validate({name: getattr(self, name) for name in settings.model_fields})


def stages_folder() -> Path:
    """The folder of recipes: inside the installed package, or `stages/` of the source tree."""
    inside = Path(__file__).parents[1] / "_stages"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "stages"


_LARGEST = 1e15
MAX_DEPTH = 20
Lines = dict[tuple[str, ...], str]
"""Key -> the place where it is given, for messages."""


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping, with safe tags only.

    Raises:
        UserError: when it is not readable YAML or not a mapping.
    """
    return read_yaml(path)[0]


class Loader(yaml.SafeLoader):
    """YAML 1.2's core: null, true and false, numbers, text, lists and mappings, and nothing that stands for something else.

    No tags, and no dates, sexagesimal numbers and merge keys of YAML 1.1, which nobody means here; no aliases: eleven short
    lines of them stand for gigabytes.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as in the base class

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias, a tag and text that is none, with its line."""
        event = self.peek_event()
        problem = None
        if isinstance(event, yaml.AliasEvent):
            problem = f"expected a value, got the alias *{event.anchor}: write the value out"
        elif (tag := getattr(event, "tag", None)) is not None:
            problem = f"expected a plain value, got the tag {tag}"
        elif isinstance(event, yaml.ScalarEvent) and not is_text(event.value):
            problem = "expected text, got a character that is none"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """As JSON, Python and YAML 1.2 read it: `1e-4` is a number, `010` is ten."""
        text = node.value.lower()
        if node.tag.endswith(":float"):
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        return int(text, 0) if text.lstrip("+-")[:2] in ("0x", "0o") else int(text)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?([0-9]+|0x[0-9a-fA-F]+|0o[0-7]+)", "-+0123456789"),
    (
        "float",
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(rf"(?:{_pattern})\Z"),
        [*_first, *([""] if _tag == "null" else [])],
    )
    if _tag in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", Loader.construct_number)

UNREADABLE = (yaml.YAMLError, ValueError, LookupError, OverflowError, RecursionError)
"""What a text that is no YAML, or a number of thousands of digits, makes the library raise."""


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """A YAML file that holds one mapping, and where each of its keys stands.

    Raises:
        UserError: as `read_yaml_mapping`; a key that stands twice.
    """
    data = read_bytes(path, _MAX_BYTES)
    try:
        text = data.decode("utf-8")
        node = yaml.compose(text, Loader=Loader)
        values = yaml.load(text, Loader=Loader)
    except UNREADABLE as error:
        raise UserError(f"not readable as YAML: {' '.join(str(error).split())}", where=str(path)) from error
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise UserError("expected a mapping of keys to values", where=str(path))
    lines: Lines = {}
    _collect_lines(node, (), lines, path)
    return values, lines


def _collect_lines(node: yaml.MappingNode, prefix: tuple[str, ...], lines: Lines, path: Path) -> None:
    for key, value in node.value:
        name = (*prefix, str(key.value))
        if name in lines:
            raise UserError(f"key {'.'.join(name)!r} stands twice", where=f"{path}:{key.start_mark.line + 1}")
        lines[name] = f"{path}:{key.start_mark.line + 1}"
        if isinstance(value, yaml.MappingNode):
            _collect_lines(value, name, lines, path)


def check_sizes(value: Any, lines: Lines, path: Path, names: tuple[str, ...] = ()) -> None:
    """Refuse numbers that no setting can be, and values that are nested without end.

    Raises:
        UserError: naming the key and its place.
    """
    if len(names) > MAX_DEPTH:
        what = f"{names[0]!r} is nested more than {MAX_DEPTH} levels deep"
        raise UserError(what, where=place_of(path, lines, names[:1]))
    if isinstance(value, dict | list | tuple):
        pairs = (
            value.items()
            if isinstance(value, dict)
            else ((str(index), item) for index, item in enumerate(value))
        )
        for key, item in pairs:
            check_sizes(item, lines, path, (*names, str(key)))
    elif isinstance(value, int | float) and not abs(value) <= _LARGEST:
        raise UserError(
            f"{'.'.join(names)}: expected a number of at most {_LARGEST:g}, got {_number(value)}",
            where=place_of(path, lines, names),
        )


def _number(value: float) -> str:
    try:
        return f"{value:g}"
    except OverflowError:
        return "one of hundreds of digits"


def place_of(path: Path, lines: Lines, names: tuple[str, ...]) -> str:
    """Where a key is given, or the nearest group that it would stand in."""
    for length in range(len(names), 0, -1):
        if names[:length] in lines:
            return lines[names[:length]]
    return str(path)


def refusal(path: Path, lines: Lines, model: type[BaseModel], error: ValidationError) -> UserError:
    """The first fault of a file that does not fit its model, in words: the line, what was given, what is allowed."""
    first = error.errors()[0]
    names, allowed = _key(model, first["loc"])
    place = place_of(path, lines, names)
    more = f" ({error.error_count() - 1} more faults)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return UserError(
            f"unknown key {'.'.join(names)!r}{suggestion(names[-1], allowed)}{more}",
            where=place,
            remedy=f"Allowed: {', '.join(allowed)}",
        )
    if first["type"] == "missing":
        return UserError(f"key {'.'.join(names)!r} is missing{more}", where=place)
    got = "" if isinstance(first["input"], dict) else f", got {shown(first['input'])}"
    return UserError(f"{'.'.join(names)}: {first['msg']}{got}{more}", where=place)


def _key(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[tuple[str, ...], list[str]]:
    """A key as a user writes it, of a place as pydantic names it, and the fields that are allowed there.

    Where one of several models is chosen by a field of theirs, pydantic's place holds the choice, too.
    """
    names: list[str] = []
    choices: dict[str, type[BaseModel]] = {}
    allowed: list[str] = []
    for part in (str(item) for item in loc):
        if part in choices:
            model, choices = choices[part], {}
            continue
        names.append(part)
        allowed = sorted(model.model_fields)
        field = model.model_fields.get(part)
        inner = _nested_models(field.annotation) if field else []
        if field and isinstance(field.discriminator, str):
            kinds = [(get_args(item.model_fields[field.discriminator].annotation)[0], item) for item in inner]
            choices = dict(kinds)
        elif inner:
            model = inner[0]
    return tuple(names), allowed


def _nested_models(annotation: Any) -> list[type[BaseModel]]:
    candidates = [annotation, *get_args(annotation)]
    return [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]
