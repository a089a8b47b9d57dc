"""The folders that peftkit reads and writes, in a checkout or an installed wheel."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MAX_NAME = 120  # bytes; file systems allow 255, and files of a run add endings
PACKAGE = Path(__file__).resolve().parent


def conf_folder() -> Path:
    """Return the folder of config groups: inside the package in a wheel, next to it in a checkout."""
    return _packaged("conf")


def recipes(extra: Path | None = None) -> dict[str, Path]:
    """Return the recipe files by name, from the package, ./recipes, recipes/ and recipe/ of -cd DIR; the last wins."""
    folders = [_packaged("recipes"), Path.cwd() / "recipes"]
    if extra is not None:
        folders += [extra / "recipes", extra / "recipe"]
    return {
        file.relative_to(folder).with_suffix("").as_posix(): file
        for folder in folders
        for file in sorted(folder.rglob("*.yaml"))
    }


def group_files(group: str, extra: str | Path | None = None) -> dict[str, Path]:
    """Return the YAML files of a config group by name, those of -cd DIR included; names of bases begin with _."""
    folders = [conf_folder()] + ([Path(extra)] if extra is not None else [])
    return {file.stem: file for folder in folders for file in sorted((folder / group).glob("*.yaml"))}


def cache_folder() -> Path:
    """Return the folder of the pretrained offline models: $PEFTKIT_HOME, else ~/.cache/peftkit."""
    if home := os.environ.get("PEFTKIT_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "peftkit"


def safe_name(text: str) -> str:
    """Return a text as the name of a file or folder, which stays in its folder on every system.

    Other characters than letters, digits and ._- become hyphens, as do dots at its start; a long name ends in a hash.
    """
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in text)
    kept = name.lstrip(".")
    name = "-" * (len(name) - len(kept) or not kept) + kept
    if len(name.encode()) <= MAX_NAME:
        return name
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]
    return f"{name.encode()[: MAX_NAME - 9].decode(errors='ignore')}-{digest}"


def is_file(path: str | Path) -> bool:
    """Return whether a path is a regular file; False also where it cannot be looked up."""
    try:
        return Path(path).is_file()
    except OSError:  # no permission, or a name that is too long
        return False


def is_folder(path: str | Path) -> bool:
    """Return whether a path is a folder; False also where it cannot be looked up."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def exists(path: str | Path) -> bool:
    """Return whether a path leads to anything; False also where it cannot be looked up."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def with_home(path: str) -> str:
    """Return a path with the home folder for a leading ~."""
    return str(Path(path).expanduser()) if path == "~" or path.startswith("~/") else path


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces the file at the end; an error leaves the earlier file and nothing else.

    Raises:
        UserError: the file cannot be written, as on a full disk.
    """
    target = Path(os.path.realpath(file))  # a link remains one
    part = target.with_name(f".part-{os.urandom(4).hex()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if target.exists():
            shutil.copymode(target, part)
        part.replace(target)
    except OSError as error:
        from peftkit.config.errors import UserError  # config imports this module

        reason = error.strerror or error
        raise UserError(f"{file} cannot be written: {reason}; free space, or use another folder") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _packaged(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name
