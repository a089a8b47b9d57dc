"""What a kill leaves of a folder: its content before each file operation of a program.

`CrashImages` records the folder before each file in it is opened for writing, renamed, removed or flushed, and each
folder made or removed, by this process. What libraries write without Python (safetensors, torch, Arrow) or another
process writes appears with the next of these operations. For each file that was written since the one before, there
are images in which it is empty, and has half of what was written. Images equal by content are kept once.

    with CrashImages(folder) as recorded:
        ...
    for image in recorded.images:
        image.write(elsewhere)  # then run again there
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
PATHS = {  # audited operations, with the positions of a path and its folder's descriptor in their arguments
    "os.rename": ((0, 2), (1, 3)), "os.remove": ((0, 1),), "os.rmdir": ((0, 1),), "os.mkdir": ((0, 2),),
    "os.truncate": ((0, None),), "os.link": ((1, 3),), "os.symlink": ((1, 2),), "open": ((0, None),),
}  # fmt: skip


@dataclass(frozen=True)
class Image:
    """The content of a folder: the bytes of each file by its relative path, None for a folder."""

    operation: str  # before which, or in which, the program is killed
    content: Mapping[str, bytes | None]

    def write(self, folder: Path) -> None:
        """Make the folder have this content."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, content in self.content.items():
            path = folder / name
            if content is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


@dataclass(frozen=True)
class _Entry:
    content: bytes | None
    digest: str
    inode: int
    changed: int


class CrashImages:
    """Record images of a folder while the block runs; one block at a time in a process."""

    active: CrashImages | None = None
    is_hooked = False

    def __init__(self, folder: Path) -> None:
        self.folder, self.process = folder.resolve(), os.getpid()
        self.images: list[Image] = []
        self._seen: set[str] = set()
        self._contents: dict[str, bytes] = {}
        self._last: dict[str, _Entry] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> CrashImages:
        assert CrashImages.active is None
        self._last = dict(self._entries())
        CrashImages.active, self._fsync = self, os.fsync
        os.fsync = self._flush  # is not audited
        if not CrashImages.is_hooked:
            sys.addaudithook(_hook)  # remains until the process ends
            CrashImages.is_hooked = True
        return self

    def __exit__(self, *_: object) -> None:
        CrashImages.active, os.fsync = None, self._fsync
        self.record("end")

    def record(self, operation: str) -> None:
        """Add what the folder was in since the last record, and what it is."""
        with self._lock:
            before, now = self._last, dict(self._entries())
            inodes = {(entry.inode, entry.digest) for entry in before.values()}
            written = [
                name
                for name, entry in now.items()
                if entry.content is not None
                and (name not in before or before[name].digest != entry.digest)
                and (entry.inode, entry.digest) not in inodes  # else it was renamed
            ]
            state = {name: entry for name, entry in before.items() if name in now}
            state |= {name: entry for name, entry in now.items() if name not in written}
            for name in sorted(written, key=lambda each: now[each].changed):
                old, new = before[name].content if name in before else None, now[name].content or b""
                kept = len(old) if old and new.startswith(old) else 0
                for size in {0, len(new) // 2} if not kept else {(kept + len(new)) // 2}:
                    self._add(f"write {name}", {**state, name: self._entry(new[:size], 0, 0)})
                state[name] = now[name]
            self._add(operation, now)
            self._last = now

    def _add(self, operation: str, entries: Mapping[str, _Entry]) -> None:
        content = {name: entries[name].content for name in sorted(entries)}
        digest = hashlib.sha256(repr([(name, entries[name].digest) for name in content]).encode()).hexdigest()
        if digest not in self._seen:
            self._seen.add(digest)
            self.images.append(Image(operation, content))

    def _entries(self) -> Iterator[tuple[str, _Entry]]:
        for top, folders, files in os.walk(self.folder):
            for name in folders:
                yield str((Path(top) / name).relative_to(self.folder)), _Entry(None, "", 0, 0)
            for name in files:
                path = Path(top) / name
                with suppress(FileNotFoundError):  # another process removed it
                    status, content = path.stat(), path.read_bytes()
                    yield str(path.relative_to(self.folder)), self._entry(content, status.st_ino, status.st_mtime_ns)

    def _entry(self, content: bytes, inode: int, changed: int) -> _Entry:
        digest = hashlib.sha256(content).hexdigest()
        return _Entry(self._contents.setdefault(digest, content), digest, inode, changed)

    def _flush(self, descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        self.before("fsync", _opened(number))
        self._fsync(descriptor)

    def before(self, operation: str, path: Path) -> None:
        """Record an operation if its path is in the folder."""
        path = path.parent.resolve() / path.name
        if path.is_relative_to(self.folder):
            self.record(f"{operation} {path.relative_to(self.folder)}")


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    recorder = CrashImages.active
    if recorder is None or event not in PATHS or recorder.process != os.getpid():
        return
    if event == "open" and not arguments[2] & WRITING:
        return
    for position, folder in PATHS[event]:
        if not isinstance(arguments[position], int):
            descriptor = -1 if folder is None else arguments[folder]
            path = Path(os.fsdecode(arguments[position]))
            recorder.before(event.removeprefix("os."), path if descriptor < 0 else _opened(descriptor) / path)


def _opened(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def record(arguments: list[str]) -> None:
    """Run a command while images of a folder are recorded: a function for `ForkServer.run`.

    Args:
        arguments: the file for the images, the folder, then those of peftkit.
    """
    file, folder, *command = arguments
    importlib.import_module("peftkit.pipeline.verify").fork_verifier()  # a fresh process would import all again
    recorded = CrashImages(Path(folder))
    try:
        with recorded:
            importlib.import_module("peftkit.cli").main(command)
    finally:
        Path(file).write_bytes(pickle.dumps(recorded.images))


def read_images(file: Path) -> list[Image]:
    """Return the images that `record` wrote."""
    return pickle.loads(file.read_bytes())  # type: ignore[no-any-return]
