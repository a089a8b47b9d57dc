"""Turn an install of any kind into the folders that peftkit reads and keeps."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def conf_folder() -> Path:
    """Return the parts drawer: inside the package in a wheel, beside it in a checkout."""
    return _shipped("conf")


def recipe_folders(more: Path | None = None) -> list[Path]:
    """Return the folders of recipes, later ones win: shipped, ./recipes, and DIR/recipes of -cd DIR."""
    folders = [_shipped("recipes"), Path.cwd() / "recipes"]
    if more is not None:
        folders.append(more / "recipes")
    return list(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def cache_folder() -> Path:
    """Return where the embedded stand-ins are kept: $PEFTKIT_HOME, else ~/.cache/peftkit."""
    if "PEFTKIT_HOME" in os.environ:
        return Path(os.environ["PEFTKIT_HOME"])
    return Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "peftkit"


def _shipped(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name
