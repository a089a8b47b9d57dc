"""Turn an install of any kind into the folders that peftkit reads and keeps."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def conf_folder() -> Path:
    """Return the parts drawer: inside the package in a wheel, beside it in a checkout."""
    return _shipped("conf")


def recipes(more: Path | None = None) -> dict[str, Path]:
    """Return the recipe files by name; a later folder's wins: shipped, ./recipes, recipes/ and recipe/ of -cd DIR."""
    folders = [_shipped("recipes"), Path.cwd() / "recipes"]
    if more is not None:
        folders += [more / "recipes", more / "recipe"]
    return {
        file.relative_to(folder).with_suffix("").as_posix(): file
        for folder in folders
        for file in sorted(folder.rglob("*.yaml"))
    }


def cache_folder() -> Path:
    """Return where the offline stand-ins are kept: $PEFTKIT_HOME, else ~/.cache/peftkit."""
    if home := os.environ.get("PEFTKIT_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "peftkit"


def safe_name(text: str) -> str:
    """Return a text as the name of a file or folder: letters, digits and ._- stay, all else becomes a hyphen."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in text)


def _shipped(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name
