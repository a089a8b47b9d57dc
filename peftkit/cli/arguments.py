"""Checks of the arguments of the Python API: a wrong type is refused by the argument's name."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peftkit.config import UserError


def run_folder(run: Any) -> str:
    """Return the folder of a run that is given by its folder or its `RunResult`."""
    folder = getattr(run, "folder", run)
    if not isinstance(folder, str | Path) or not str(folder):
        raise UserError(f"run={run!r:.60}: expected a run folder, or what peftkit.finetune returns")
    return str(folder)


def path(name: str, value: Any) -> Path:
    """Return a path that is given as a text or a path."""
    if not isinstance(value, str | Path):
        raise UserError(f"{name}={value!r:.60}: expected a path")
    return Path(value)


def items(name: str, values: Any, each: str, kind: type | tuple[type, ...] = object) -> list[Any]:
    """Return the items, each of `kind`, of a list or of another collection with an order; a text is none.

    Args:
        each: describes an item, for the message.
    """
    is_list = isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping | set | frozenset)
    found = list(values) if is_list else []
    if not is_list or not all(isinstance(item, kind) for item in found):
        raise UserError(f"{name}={values!r:.60}: expected a list, each a {each}")
    return found


def some(name: str, values: Any, each: str, kind: type) -> list[Any]:
    """Return the items of a list that may not be empty."""
    if not (found := items(name, values, each, kind)):
        raise UserError(f"{name}: expected at least one {each}")
    return found
