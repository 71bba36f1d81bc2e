"""The methods of a stage: modules of its package, and of other distributions by entry points.

A module is a method when it binds `Recipe` and `steps` (readers of datasets: `Recipe` and `read`); executors are found
likewise. That is read off its source, so that only the chosen one is imported.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from weaksam_cli.errors import UserError, suggestion

_CONTRACTS = ({"Recipe", "steps"}, {"Recipe", "read"}, {"Options", "executor"})


def _bound_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _is_method(source: Path) -> bool:
    names = set(_bound_names(ast.parse(source.read_text(encoding="utf-8"))))
    return any(contract <= names for contract in _CONTRACTS)


@cache
def _own_methods(package: str) -> tuple[str, ...]:
    folder = find_spec(f"weaksam_cli.{package}")
    places = list(folder.submodule_search_locations or ()) if folder else []
    found = []
    for module in pkgutil.iter_modules(places):
        path = Path(places[0], module.name)
        if _is_method(path / "__init__.py" if module.ispkg else path.with_suffix(".py")):
            found.append(module.name)
    return tuple(found)


def _foreign_methods(group: str) -> dict[str, EntryPoint]:
    return {found.name: found for found in entry_points(group=f"weaksam.{group}")}


def method_names(stage: str) -> list[str]:
    """Names of all methods of a stage that are installed."""
    return sorted({*_own_methods(stage), *_foreign_methods(stage)})


def load_method(stage: str, name: str, *, where: str) -> ModuleType:
    """The module of a method: it has `Recipe`, and `steps` or (readers of datasets) `read`.

    Args:
        stage: the stage.
        name: as a recipe gives it; hyphens count as underscores.
        where: the line that names the method, for the message.

    Raises:
        UserError: there is no such method.
    """
    return load_named(stage, stage, name, f"method {name!r} is not one of {stage}'s", where=where)


def load_named(package: str, group: str, name: str, fault: str, *, where: str) -> ModuleType:
    """A module of `weaksam_cli.<package>`, or of an entry point of the group `weaksam.<group>`.

    Args:
        package: whose modules are meant, those that keep one of the contracts.
        group: of entry points.
        name: of the module; hyphens count as underscores.
        fault: what to say when there is none.
        where: what names it, for the message.

    Raises:
        UserError: there is no such module.
    """
    module = name.replace("-", "_")
    if module in _own_methods(package):
        return importlib.import_module(f"weaksam_cli.{package}.{module}")
    foreign = _foreign_methods(group)
    if module in foreign:
        found: ModuleType = foreign[module].load()
        return found
    names = sorted({*_own_methods(package), *foreign})
    raise UserError(
        f"{fault}{suggestion(module, names)}",
        where=where,
        remedy=f"Allowed: {', '.join(names)}",
    )
