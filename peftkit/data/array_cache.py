"""Arrays in the cache folder that are computed once for all processes: tokenized examples, features of frozen layers.

An entry is a safetensors file, named by the hash of what determines its arrays. It contains a hash of the arrays
themselves, so that a damaged or foreign file is ignored, and written anew.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from peftkit.config.console import log
from peftkit.paths import PACKAGE, atomic_write, cache_folder

Arrays = dict[str, torch.Tensor]
VERSION = "1"  # of the files; another one is ignored
MAX_BYTES = 5 << 30  # of all entries; the least recently used ones are deleted
MIN_FREE = 2  # times the size of an entry: less free space is left to the user


def folder() -> Path:
    """Return the folder of the entries, which may be deleted at any time."""
    return cache_folder() / "arrays"


def read_arrays(kind: str, key: str) -> Arrays | None:
    """Return the arrays of an entry, mapped from its file; None where there is none, or where it is damaged.

    Args:
        kind: a folder, such as "tokenized".
        key: hexadecimal digits, the hash of all that determines the arrays.
    """
    file = _file(kind, key)
    try:
        with safe_open(file, framework="pt") as opened:
            described = opened.metadata() or {}
            if described.get("version") != VERSION or described.get("key") != key:
                return None
            found = {name: opened.get_tensor(name) for name in sorted(opened.keys())}
    except (OSError, SafetensorError):
        return None
    if described.get("sha256") != _digest(found):
        return None
    with suppress(OSError):
        os.utime(file)  # used now
    return found


def write_arrays(kind: str, key: str, arrays: Mapping[str, torch.Tensor]) -> None:
    """Write an entry atomically; where that is impossible, log it once: it only costs time."""
    contiguous = {name: arrays[name].detach().cpu().contiguous() for name in sorted(arrays)}
    size = sum(each.nbytes for each in contiguous.values())
    if size > MAX_BYTES // 2:
        return
    described = {"version": VERSION, "key": key, "sha256": _digest(contiguous)}
    file = _file(kind, key)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(file.parent).free < MIN_FREE * size:
            _log_unwritten("the disk is almost full")
            return
        with atomic_write(file, is_durable=False) as part:  # it has its hash
            save_file(contiguous, part, described)
        _delete_oldest()
    except (OSError, SafetensorError) as error:
        _log_unwritten(getattr(error, "strerror", None) or str(error).splitlines()[0])


@cache
def code_digest(folder: str) -> str:
    """Return a hash of the code in a folder of this package, so that a change of it invalidates what was stored."""
    files = sorted((PACKAGE / folder).rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


@cache
def _log_unwritten(reason: str) -> None:
    log(f"   {folder()} cannot be written ({reason}): nothing is cached; set PEFTKIT_HOME to another folder")


def _file(kind: str, key: str) -> Path:
    return folder() / kind / f"{key}.safetensors"


def _digest(arrays: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and values, in the order given."""
    digest = hashlib.sha256()
    for name, each in arrays.items():
        digest.update(repr((name, str(each.dtype), tuple(each.shape))).encode())
        digest.update(each.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _delete_oldest() -> None:
    """Delete the least recently used entries until the others have at most `MAX_BYTES`."""
    entries: list[tuple[Any, Path]] = []
    for file in folder().glob("*/*.safetensors"):
        with suppress(OSError):  # another process deleted it
            entries.append((file.stat(), file))
    size = sum(status.st_size for status, _ in entries)
    for status, file in sorted(entries, key=lambda entry: entry[0].st_mtime_ns):
        if size <= MAX_BYTES:
            return
        with suppress(OSError):
            file.unlink(missing_ok=True)
        size -= status.st_size
