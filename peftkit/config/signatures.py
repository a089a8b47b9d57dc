"""The fields of a class and their types, from its source: importing torch would take seconds."""

import ast
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

SIMPLE: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "list": (list, tuple), "List": (list, tuple),
    "tuple": (list, tuple), "set": (list, tuple), "Sequence": (list, tuple), "dict": (dict,), "Dict": (dict,),
    "Mapping": (dict,),
}  # fmt: skip
DESCRIPTIONS = {
    **{"int": "an int", "float": "a float", "bool": "true or false", "str": "a string", "None": "null"},
    **dict.fromkeys(("list", "List", "tuple", "Sequence", "set"), "a list"),
    **dict.fromkeys(("dict", "Dict", "Mapping"), "a mapping"),
}


@dataclass(frozen=True)
class Field:
    """One field of a class: its annotation as written, the module of the class, its choices and its default."""

    annotation: ast.expr | None
    module: str
    choices: tuple[Any, ...] | None = None
    default: Any = ...  # if it is a literal

    def refuses(self, value: Any) -> str | None:
        """Return a description of what the field takes where it does not take this value."""
        if value == self.default and type(value) is type(self.default):  # upstream annotates `int` and defaults to None
            return None
        if self.choices is not None and value is not None and value not in self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        if self.annotation is None:
            return None
        values = _enum_values(self.annotation, self.module)
        # upstream's `SchedulerType | str` means the names of the enum
        is_name = not values or not isinstance(value, str) or value in values
        if is_name and _accepts(self.annotation, value, self.module):
            return None
        return "one of " + ", ".join(map(str, values)) if values else _describe(self.annotation)


@lru_cache(maxsize=64)
def fields_of(target: str) -> dict[str, Field] | None:
    """Return the fields that a class's constructor takes, or None where its package defines no such class."""
    module, _, name = target.rpartition(".")
    found = _find(module, name)
    if found is None or found[0].split(".")[0] != target.split(".")[0]:  # a package's imports are not its own
        return None
    return _fields(*found)


def names_in(package: str, ending: str) -> list[str]:
    """Return the names with this ending that a package's __init__ imports."""
    tree = _tree(package)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)] if tree else []
    return sorted({alias.name for node in nodes for alias in node.names if alias.name.endswith(ending)})


def clear_caches() -> None:
    """Forget which modules exist, after Python has another folder to search."""
    for function in (fields_of, _find, _tree, _file):
        function.cache_clear()


def module_trees(package: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield the name and the syntax tree of each module of a package, or of a module; unreadable ones are left out."""
    for module, file in _module_files(package):
        with suppress(OSError, SyntaxError, ValueError):
            yield module, ast.parse(file.read_text(encoding="utf-8"))


def class_nodes(tree: ast.Module) -> list[ast.ClassDef]:
    """Return the classes that a module defines."""
    return [node for node in tree.body if isinstance(node, ast.ClassDef)]


def syntax_errors(package: str) -> Iterator[str]:
    """Yield a message for each file of a package in the working folder that Python cannot read."""
    for file in (file for _, file in _module_files(package) if file.is_relative_to(Path.cwd())):
        try:
            ast.parse(file.read_text(encoding="utf-8"))
        except SyntaxError as error:
            yield f"{file.name}, line {error.lineno}: {error.msg}"
        except (OSError, ValueError) as error:
            yield f"{file.name}: {error}"


def _module_files(package: str) -> Iterator[tuple[str, Path]]:
    file = _file(package)
    is_package = file is not None and file.name == "__init__.py"
    for each in sorted(file.parent.rglob("*.py")) if file is not None and is_package else [file] if file else []:
        parts = each.relative_to(file.parent).with_suffix("").parts if is_package and file is not None else ()
        yield ".".join([package, *(part for part in parts if part != "__init__")]), each


def annotation(text: str, module: str) -> Field:
    """Return a field of one of peftkit's classes from the text of its annotation."""
    return Field(ast.parse(text, mode="eval").body, module)


def _fields(module: str, node: ast.ClassDef) -> dict[str, Field]:
    fields: dict[str, Field] = {}
    for base in reversed(node.bases):
        package, _, name = ast.unparse(base).rpartition(".")  # `peft.PeftConfig`, or a name of this module
        if found := _find(package or module, name):
            fields |= _fields(*found)
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _parameters(item.args, module)
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        name = item.target.id
        if name.startswith("_") or "ClassVar" in ast.unparse(item.annotation) or _keyword(item.value, "init") is False:
            continue
        metadata = _keyword(item.value, "metadata")
        choices = metadata.get("choices") if isinstance(metadata, dict) else None
        fields[name] = Field(
            item.annotation,
            module,
            tuple(choices) if isinstance(choices, (list, tuple)) else None,
            _default(item.value),
        )
    return fields


def _parameters(arguments: ast.arguments, module: str) -> dict[str, Field]:
    names = [*arguments.args[1:], *arguments.kwonlyargs]
    values = [*[None] * (len(arguments.args) - len(arguments.defaults)), *arguments.defaults][1:]
    found = {}
    for argument, value in zip(names, [*values, *arguments.kw_defaults], strict=True):
        default = ... if value is None else _literal(value)
        kind = argument.annotation
        if kind is None and isinstance(default, (bool, int, float, str)):  # the default's type replaces it
            kind = ast.Name(type(default).__name__)
        found[argument.arg] = Field(kind, module, default=default)
    return found


def _default(value: ast.expr | None) -> Any:
    """Return a dataclass field's default, or ... where it has none or no literal one."""
    if value is None:
        return ...
    return _keyword(value, "default") if isinstance(value, ast.Call) else _literal(value)


def _keyword(call: ast.expr | None, name: str) -> Any:
    """Return a literal keyword of dataclasses.field(...), ... where it has none; of a dict, the literal entries."""
    keywords = call.keywords if isinstance(call, ast.Call) else []
    value = next((keyword.value for keyword in keywords if keyword.arg == name), None)
    if isinstance(value, ast.Dict):
        pairs = zip(value.keys, value.values, strict=True)
        return {_literal(key): _literal(entry) for key, entry in pairs if key is not None}
    return ... if value is None else _literal(value)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return ...


def _accepts(node: ast.expr, value: Any, module: str) -> bool:
    return any(_accepts_one(part, value, module) for part in _alternatives(node))


def _accepts_one(node: ast.expr, value: Any, module: str) -> bool:
    name, inner = _generic(node)
    if name == "None":
        return value is None
    if name == "Literal":
        return value in [_literal(part) for part in inner]
    if name in SIMPLE:  # exclude bool, a subclass of int
        items = value if inner and isinstance(value, (list, tuple)) else ()
        is_type = isinstance(value, SIMPLE[name]) and (name == "bool" or not isinstance(value, bool))
        return is_type and all(_accepts(inner[0], item, module) for item in items)
    values = _enum_values(node, module)
    return value in values if values else True


def _enum_values(node: ast.expr, module: str) -> list[Any]:
    """Return the values of an enum that the annotation names; empty where it names none."""
    for name in (part.id for part in _alternatives(node) if isinstance(part, ast.Name)):
        found = None if name in SIMPLE else _find(module, name)
        if found and any("Enum" in ast.unparse(base) for base in found[1].bases):
            assigns = [item for item in found[1].body if isinstance(item, ast.Assign)]
            return [value for item in assigns if (value := _literal(item.value)) is not ...]
    return []


def _describe(node: ast.expr) -> str:
    """Return an annotation as "an int or null"."""
    parts = [_describe_one(part) for part in _alternatives(node)]
    return " or ".join(dict.fromkeys(parts))


def _describe_one(node: ast.expr) -> str:
    name, inner = _generic(node)
    if name == "Literal":
        return " or ".join(str(_literal(part)) for part in inner)
    if name == "list" and inner and ast.unparse(inner[0]) in ("int", "float"):
        return "a list of numbers"
    return DESCRIPTIONS.get(name, ast.unparse(node))


def _alternatives(node: ast.expr) -> list[ast.expr]:
    """Return the members of a union, or the annotation itself."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _alternatives(ast.parse(node.value, mode="eval").body)
    if isinstance(node, ast.BinOp):
        return [*_alternatives(node.left), *_alternatives(node.right)]
    name, inner = _generic(node)
    if name not in ("Optional", "Union"):
        return [node]
    members = [*inner, ast.Constant(None)] if name == "Optional" else inner
    return [part for member in members for part in _alternatives(member)]


def _generic(node: ast.expr) -> tuple[str, list[ast.expr]]:
    """Return the last name of an annotation, such as list of list[int], and its arguments."""
    if not isinstance(node, ast.Subscript):
        return ast.unparse(node).split(".")[-1], []
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return ast.unparse(node.value).split(".")[-1], inner


@lru_cache(maxsize=1024)
def _find(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """Find the class, following the imports of the modules on the way."""
    tree = _tree(module)
    if tree is None:
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
    for item in ast.walk(tree):
        if isinstance(item, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in item.names):
            package = module if _is_package(module) else module.rpartition(".")[0]
            source = resolve_name("." * item.level + (item.module or ""), package)
            original = next(alias.name for alias in item.names if (alias.asname or alias.name) == name)
            return _find(source, original) if source != module else None
    return None


@lru_cache(maxsize=256)
def _tree(module: str) -> ast.Module | None:
    file = _file(module)
    return None if file is None else ast.parse(file.read_text(encoding="utf-8"))


def _is_package(module: str) -> bool:
    file = _file(module)
    return file is not None and file.name == "__init__.py"


@lru_cache(maxsize=256)
def _file(module: str) -> Path | None:
    top, *rest = module.split(".")
    spec = find_spec(top) if top else None
    if spec is None or not spec.submodule_search_locations:
        is_source = spec is not None and not rest and str(spec.origin).endswith(".py")
        return Path(str(spec.origin)) if spec is not None and is_source else None
    path = Path(spec.submodule_search_locations[0], *rest)
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None
