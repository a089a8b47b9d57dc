"""The folders that peftkit reads and writes, in a checkout or an installed wheel."""

import errno
import glob
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path

MAX_NAME = 120  # bytes; file systems allow 255, and files of a run add endings
PACKAGE = Path(__file__).resolve().parent
UNLISTED = ["?"]  # the names of a folder that cannot be listed
MAX_BYTES = 2**26  # of a text file that peftkit reads as a whole


def conf_folder() -> Path:
    """Return the folder of config groups: inside the package in a wheel, next to it in a checkout."""
    return _packaged("conf")


def recipes(extra: Path | None = None) -> dict[str, Path]:
    """Return the recipe files by name, from the package, ./recipes, recipes/ and recipe/ of -cd DIR; the last wins."""
    folders = [_packaged("recipes"), Path.cwd() / "recipes"]
    if extra is not None:
        folders += [extra / "recipes", extra / "recipe"]
    files = [
        (top, folder / name)
        for top in folders
        for folder, names, _ in walk(top)
        for name in names
        if name.endswith(".yaml")
    ]
    return {file.relative_to(top).with_suffix("").as_posix(): file for top, file in sorted(files, key=itemgetter(1))}


def group_files(group: str, extra: str | Path | None = None) -> dict[str, Path]:
    """Return the YAML files of a config group by name, those of -cd DIR included; names of bases begin with _."""
    folders = [conf_folder()] + ([Path(extra)] if extra is not None else [])
    return {
        name.removesuffix(".yaml"): folder / group / name
        for folder in folders
        for name in names_in(folder / group)
        if name.endswith(".yaml")
    }


def dataset_path(name: str) -> Path:
    """Return the path of a data set; a name that is no path may be that of an example of the package, as tickets is."""
    example = PACKAGE / "data" / "examples" / f"{safe_name(name)}.csv"
    return example if not exists(name) and is_file(example) else Path(name)


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


def is_link(path: str | Path) -> bool:
    """Return whether a path is a symbolic link; False also where it cannot be looked up."""
    try:
        return Path(path).is_symlink()
    except OSError:
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


def names_in(folder: Path) -> list[str]:
    """Return the sorted names in a folder, none where it cannot be listed."""
    return next((names for _, names, _ in walk(folder) if names != UNLISTED), [])


def walk(top: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder below `top`, the names in it, and those of its folders, which the caller may prune.

    A link to a folder is not followed. The names of a folder that cannot be listed are UNLISTED.
    """
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL character
            continue
        except OSError:
            yield folder, UNLISTED, []
            continue
        below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        yield folder, [entry.name for entry in entries], below
        folders += [folder / name for name in reversed(below)]


def read_regular(file: str | Path, limit: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file; a pipe or a device may never end.

    Raises:
        OSError: it cannot be opened, is of another type, or has more bytes than `limit`.
    """
    try:
        status = Path(file).stat()
    except ValueError as error:  # a NUL character in the path
        raise OSError(str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"it is {'a folder, not a file' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}")
    with Path(file).open("rb") as opened:
        content = opened.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"it has more than {limit:,} bytes")
    return content


@contextmanager
def atomic_write(file: Path, is_durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path that replaces the file at the end; an error leaves the earlier file and nothing else.

    Args:
        is_durable: whether the file must be whole after a loss of power, which a cache that has its own hash need not.

    Raises:
        WriteError: the file cannot be written, as on a full disk.
    """
    target = Path(os.path.realpath(file))  # a link remains one
    part = target.with_name(f"{_part_prefix(target.name)}{os.urandom(4).hex()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if target.exists():
            shutil.copymode(target, part)
        if is_durable:
            sync(part)
        part.replace(target)
        if is_durable:
            sync(target.parent)
    except OSError as error:
        from peftkit.config.write_failures import unwritable  # config imports this module

        raise unwritable(file, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a path for a folder that gets its name when it is complete; of several processes, the first one wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        new = Path(scratch, "new")
        yield new
        for path in (*new.rglob("*"), new):
            sync(path)
        if not folder.exists():
            new.rename(folder)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yield a path for a folder that replaces the one of this name when it is complete; an error leaves that one.

    The caller alone writes it: what a killed process left is deleted.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}-new-"
    for left in folder.parent.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as scratch:
        new = Path(scratch, folder.name)
        new.mkdir()
        yield new
        for path in (*new.rglob("*"), new):
            sync(path)
        if folder.exists():
            folder.rename(Path(scratch, "old"))
        new.rename(folder)
        sync(folder.parent)


def clear_parts(folder: Path, names: Iterable[str]) -> None:
    """Delete what writing these files of a folder left where a process was killed; its caller alone writes them."""
    for name in names:
        for part in folder.glob(f"{_part_prefix(name)}*"):
            part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Write a file or a folder to the disk, so that it is there after a loss of power.

    Raises:
        OSError: it cannot be written. A system that cannot do so for folders does nothing.
    """
    is_folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folder
        if is_folder:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _part_prefix(name: str) -> str:
    return f".part-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}-"


def _packaged(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name
