"""Bounds on the size and shape of the package: functions, parameters, files, import cycles."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from peftkit.paths import PACKAGE

LINES_OF_A_FUNCTION, PARAMETERS, LINES_OF_A_FILE = 60, 7, 300
Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(package: Path) -> dict[str, Path]:
    """Return the files of a package by dotted module name."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = (package.name, *file.relative_to(package).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def functions(package: Path) -> list[tuple[str, int, int]]:
    """Return name, lines and number of parameters of each function."""
    return [
        (f"{name}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1, parameters(node))
        for name, file in modules(package).items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, Function)
    ]


def parameters(function: Function) -> int:
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def imports(package: Path) -> dict[str, set[str]]:
    """Return the modules of the package that each module imports, also inside functions."""
    known = modules(package)
    graph: dict[str, set[str]] = {}
    for name, file in known.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names if alias.name in known}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    graph[name] |= {inner} if inner in known else {node.module} & set(known)
        graph[name].discard(name)
    return graph


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one import cycle, none if there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def test_functions_are_short() -> None:
    sizes = {name: lines for name, lines, _ in functions(PACKAGE)}
    assert {name: size for name, size in sizes.items() if size > LINES_OF_A_FUNCTION} == {}


def test_functions_take_few_parameters() -> None:
    """Keyword-only verbs of the API are exempt: they are what a user types."""
    counts = {name: count for name, _, count in functions(PACKAGE) if not name.startswith("peftkit.api.")}
    assert {name: count for name, count in counts.items() if count > PARAMETERS} == {}


def test_files_are_short() -> None:
    sizes = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in modules(PACKAGE).items()}
    assert {name: size for name, size in sizes.items() if size > LINES_OF_A_FILE} == {}


def test_modules_do_not_import_one_another_in_a_circle() -> None:
    assert cycle(imports(PACKAGE)) == []


@pytest.mark.parametrize(
    ("text", "is_found"), [("from demo import b\n", True), ("", False), ("def f():\n    import demo.b\n", True)]
)
def test_a_planted_cycle_is_found(tmp_path: Path, text: str, is_found: bool) -> None:
    package = tmp_path / "demo"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text(text)
    (package / "b.py").write_text("from demo.a import x\n")
    assert bool(cycle(imports(package))) == is_found


FOR_USERS = {"as_evaluate"}  # named by other programs only


def unused(package: Path) -> list[str]:
    """Return the functions and classes of modules that no module uses, by its name or by the text `module:name`.

    Imports and definitions are no uses. A decorator may register what it decorates, and the API is used by others.
    """
    trees = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in modules(package).items()}
    used: set[str] = set()
    for node in (each for tree in trees.values() for each in ast.walk(tree)):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.update(re.findall(r"(?<=[.:])\w+$", node.value))
    return [
        f"{name}: {node.name}"
        for name, tree in trees.items()
        for node in tree.body
        if isinstance(node, (Function, ast.ClassDef)) and not node.decorator_list and node.name not in used | FOR_USERS
        if not node.name.startswith("__") and not name.startswith("peftkit.api")
    ]


def test_everything_that_is_defined_is_used(tmp_path: Path) -> None:
    assert unused(PACKAGE) == []
    (tmp_path / "module.py").write_text("def f(): ...\ndef g(): 'f and g'\nprint(f())\n")
    (tmp_path / "other.py").write_text("from module import g\n")
    assert unused(tmp_path) == [f"{tmp_path.name}.module: g"]


PUBLIC = {"_replace", "_asdict", "_target_", "_exit"}  # of named tuples, of Hydra's configs and of os


def private_names(package: Path) -> list[str]:
    """Return the private attributes of other libraries that modules outside compat read."""
    found = []
    for name, file in modules(package).items():
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        own = {node.name for node in nodes if isinstance(node, (Function, ast.ClassDef))} | PUBLIC
        found += [
            f"{name}: {ast.unparse(node)}"
            for node in nodes
            if isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and node.attr not in own
            and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
            and ".compat." not in name
        ]
    return found


def test_private_names_of_other_libraries_are_read_in_compat_only(tmp_path: Path) -> None:
    assert private_names(PACKAGE) == []
    file = tmp_path / "planted" / "module.py"
    file.parent.mkdir()
    file.write_text("import peft\nprint(peft._x)\n")
    assert private_names(file.parent) == ["planted.module: peft._x"]
