"""Packages of the user's own, opened by `allow_code=[package]`, typed: for methods, metrics, collators and trackers."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from peftkit.config.errors import Refusal, UserError, error_summary, refusal
from peftkit.config.signatures import clear_caches, module_trees, names_in, syntax_errors
from peftkit.paths import conf_folder

_OPENED: ContextVar[tuple[str, ...]] = ContextVar("allow_code", default=())


@contextmanager
def open_code(packages: Sequence[str]) -> Iterator[None]:
    """Allow the classes and functions of these packages, installed or in the working folder, while a job runs."""
    search_working_folder(packages)
    token = _OPENED.set(tuple(packages))
    try:
        yield
    finally:
        _OPENED.reset(token)


def opened_packages() -> tuple[str, ...]:
    """Return the packages that are opened."""
    return _OPENED.get()


def search_working_folder(packages: Sequence[str]) -> None:
    """Let Python find packages in the working folder, after all installed ones."""
    folder = str(Path.cwd())
    if packages and not {"", folder} & {*sys.path}:
        sys.path.append(folder)
        clear_caches()


def code_errors(packages: Any) -> Iterator[str]:
    """Yield a message for each name of `allow_code` that is no package."""
    packages = packages if isinstance(packages, list) else []
    search_working_folder(packages)
    for name in packages:
        if not str(name).isidentifier():
            top = str(name).partition(".")[0]
            right = f"allow_code=[{top if top.isidentifier() else 'mypackage'}]"
            yield refusal(f"allow_code=[{name}]: expected the name of a package or module, without dots", right)
        elif name not in sys.modules and find_spec(name) is None:
            yield f"allow_code=[{name}]: no such package or module, neither installed nor in {Path.cwd()}"
        else:
            yield from (f"allow_code=[{name}]: {message}" for message in syntax_errors(name))


@cache
def shipped_targets() -> frozenset[str]:
    """Return the classes that `_target_` may always name: PEFT's configs, and those of conf/method."""
    texts = [file.read_text(encoding="utf-8") for file in (conf_folder() / "method").glob("*.yaml")]
    named = [name for text in texts for name in re.findall(r"_target_: (peftkit\.[\w.]+)", text)]
    return frozenset([*(f"peft.{name}" for name in names_in("peft", "Config")), *named])


def is_allowed(target: str, packages: Sequence[str]) -> bool:
    """Return whether a recipe may name a class, or one of the opened packages has it."""
    package, _, name = target.partition(".")
    return target in shipped_targets() or (package in packages and bool(name))


def import_allowed(target: str) -> Any:
    """Import a class by its full name.

    Raises:
        UserError: it is not allowed, or its package cannot be imported.
    """
    if not is_allowed(target, opened_packages()):
        own = f"allow_code=[{target.partition('.')[0]}]"
        raise UserError(Refusal(f"{target} is refused; if the code is your own, type {own}", own))
    module, _, name = target.rpartition(".")
    found = import_own(module)
    if not hasattr(found, name):
        raise UserError(f"{target} cannot be imported: {module} has no {name}")
    return getattr(found, name)


def import_own(module: str) -> ModuleType:
    """Import a module of an opened package.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        return import_module(module)
    except Exception as error:  # an import can raise anything
        raise UserError(f"{module} cannot be imported: {error_summary(error)}") from error


def instantiate(node: Any, *arguments: Any) -> Any:
    """Return a copy of plain values in which every mapping with a `_target_` is an instance of that class.

    Args:
        arguments: positional arguments of the outermost class.

    Raises:
        UserError: a class is not allowed, or does not accept its settings.
    """
    if isinstance(node, list | tuple):
        return [instantiate(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    values = {name: instantiate(value) for name, value in node.items() if name != "_target_"}
    if "_target_" not in node:
        return values
    try:
        return import_allowed(str(node["_target_"]))(*arguments, **values)
    except (TypeError, ValueError, AttributeError, KeyError, ImportError) as error:
        raise UserError(f"{node['_target_']}: {error_summary(error)}") from error


def own_metrics(packages: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the metrics of opened packages by name: their input, and the module that registers them."""
    search_working_folder(packages)
    return {
        function.name: (str(ast.literal_eval(call.args[0])), module)
        for package in packages
        for module, tree in module_trees(package)
        for function in tree.body
        if isinstance(function, ast.FunctionDef)
        for call in function.decorator_list
        if isinstance(call, ast.Call) and call.args and ast.unparse(call.func).split(".")[-1] == "metric"
    }
