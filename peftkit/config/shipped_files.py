"""The files that a finished run ships, with their sizes and hashes in result.json, and whether they are still those."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from peftkit.paths import read_regular, sha256_of, sync

WEIGHTS = ("adapter", "model", "prompt")  # folders of a run that a job loads
PREDICTIONS = ("predictions.parquet", "calibration.parquet", "other_domains.parquet")


def shipped_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return bytes and sha256 of the files of a run by their paths in its folder, after they are safe on the disk."""
    artifacts = [file for name in WEIGHTS for file in sorted((folder / name).rglob("*")) if file.is_file()]
    files = [*artifacts, *(folder / name for name in PREDICTIONS if (folder / name).is_file())]
    for place in (*files, *{file.parent for file in files}):
        sync(place)
    return {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": _sha256_of(file)}
        for file in files
    }


def recorded_files(folder: Path) -> Any:
    """Return `files` of a run's result.json, None without any or without a result of peftkit."""
    try:
        return json.loads(read_regular(folder / "result.json")).get("files")
    except (OSError, ValueError, RecursionError, AttributeError):
        return None


def damaged_file(folder: Path, recorded: Any, parts: Iterable[str] = (*WEIGHTS, *PREDICTIONS)) -> str | None:
    """Return which file of a run is missing or is not the recorded one, None if none is.

    Args:
        recorded: `files` of result.json; runs of earlier versions have none.
        parts: names of the files and folders that are checked.
    """
    if recorded is None:
        return None
    if not isinstance(recorded, Mapping):
        return f"{folder / 'result.json'}: files: expected an object"
    for name, entry in recorded.items():
        path = PurePosixPath(str(name))
        if path.is_absolute() or ".." in path.parts:
            return f"{folder / 'result.json'}: files: {name!r:.80} is not in the folder of the run"
        if path.parts[0] in parts and (wrong := file_difference(folder / path, entry, _sha256_of)) is not None:
            return f"{folder / path} {wrong}"
    return None


def file_difference(file: Path, entry: Any, hash_of: Callable[[Path], str] = sha256_of) -> str | None:
    """Return how a file differs from its recorded bytes and sha256, as a predicate; None if it does not."""
    size, digest = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, Mapping) else (None, None)
    try:
        if not file.is_file():
            return "is missing"
        found = file.stat().st_size
        if found != size:
            return f"has {found:,} bytes, not {size:,}" if isinstance(size, int) else "has no recorded size"
        return None if hash_of(file) == digest else "has another content than was recorded"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _sha256_of(file: Path) -> str:
    status = file.stat()
    return _sha256(os.path.realpath(file), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256(path: str, size: int, changed: int) -> str:
    """Return the SHA-256 of a file, which is read once per process unless size or time change."""
    return sha256_of(Path(path))
