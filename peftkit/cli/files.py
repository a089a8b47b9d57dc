"""The options of recipe, model, method and task, and their registration with Hydra.

Hydra searches no folder but conf/: peftkit reads every other file itself, checks it, and registers its content.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit import paths
from peftkit.config import UserError, nearest
from peftkit.config.checks.untrusted import PARTS, read_option
from peftkit.config.suggestions import with_hint

if TYPE_CHECKING:
    from omegaconf import DictConfig

GROUPS = (*PARTS, "recipe")
registered: dict[str, dict[str, tuple[Path, tuple[int, int] | None]]] = {}  # files by group and name


def options_of(group: str, extra: Path | None = None) -> dict[str, Path]:
    """Return the files of a config group by option, those of -cd DIR included."""
    if group == "recipe":
        return paths.recipes(extra)
    return {name: file for name, file in paths.group_files(group, extra).items() if not name.startswith("_")}


def register_files(extra: Path | None = None) -> None:
    """Register the recipes, and the models, methods and tasks of -cd DIR; invalid files are left out until chosen."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for group in GROUPS:
        files = _files(group, extra)
        shipped = {} if group == "recipe" else paths.group_files(group)
        versions = {name: (file, _version(file)) for name, file in files.items()}
        if registered.get(group) == versions:  # by an earlier command of this process
            continue
        store.repo.pop(group, None)
        registered[group] = versions
        for name, (file, version) in versions.items():
            if name in shipped:  # Hydra would merge the two files
                continue
            if (node := _checked_option(group, name, file, frozenset(files), version)) is None:
                continue
            folder, _, leaf = f"{group}/{name}".rpartition("/")
            package = "_global_" if group == "recipe" else group
            store.store(group=folder, name=leaf, node=node, package=package, provider=str(file))


def option_errors(group: str, name: str, extra: Path | None) -> Iterator[str]:
    """Yield why an option of recipe, model, method or task cannot be chosen."""
    options = options_of(group, extra)
    if name not in options:
        yield with_hint(f"unknown {group}={name}", nearest(name, options, f"{group}="))
    elif error := file_error(group, name, extra):
        yield error


def file_error(group: str, name: str, extra: Path | None) -> str | None:
    """Return why the file of a recipe, or of an option of -cd DIR, cannot be used; None if it can, or is shipped."""
    files = _files(group, extra)
    if name not in files or _is_shipped_part(group, files[name]):
        return None
    if group != "recipe" and name in paths.group_files(group):
        return f"{files[name]} has the name of an option of peftkit; rename the file and use {group}=NEW_NAME"
    try:
        read_option(group, name, files[name], files)
    except UserError as error:
        return str(error)
    return None


def _files(group: str, extra: Path | None) -> dict[str, Path]:
    return paths.recipes(extra) if group == "recipe" else paths.group_files(group, extra)


@lru_cache(maxsize=1024)
def _checked_option(
    group: str, name: str, file: Path, options: frozenset[str], version: tuple[int, int] | None
) -> DictConfig | None:
    """Return the content of a file, read once per version of it; None if it is invalid. Hydra copies it."""
    try:
        return read_option(group, name, file, options)
    except UserError:
        return None


def _version(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _is_shipped_part(group: str, file: Path) -> bool:
    return group != "recipe" and file.is_relative_to(paths.conf_folder())
