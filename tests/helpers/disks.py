"""Disks that fail: small ones, read-only ones, flipped bits, limits of a file, and errors at a chosen write."""

from __future__ import annotations

import errno
import importlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """Mount a file system in memory; the test is skipped without the right to do so."""
    place.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True, capture_output=True)


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Refuse files above a size in bytes, also to code that is not Python's."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Faults:
    """Counts the writes to a folder that Python code opens or flushes, and fails at one of them."""

    active: Faults | None = None

    def __init__(self, folder: Path, at: int | None, code: int) -> None:
        self.folder, self.at, self.code, self.count = str(folder), at, code, 0

    def pass_write(self, path: object) -> None:
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.folder):
            self.count += 1
            if self.count - 1 == self.at:
                raise OSError(self.code, os.strerror(self.code), os.fspath(path))


@contextmanager
def failing_write(folder: Path, at: int | None, code: int = errno.EIO) -> Iterator[Faults]:
    """Fail at the write with this number, None at none; yields the count of writes."""
    Faults.active = Faults(folder, at, code)
    try:
        yield Faults.active
    finally:
        Faults.active = None


def fail_at(arguments: list[str]) -> None:
    """Run a command that fails at a write: a function for `ForkServer.run`.

    Args:
        arguments: the number of the write, or -1 to fail at none and print how many there are; the name of the error;
            the folder; those of peftkit.
    """
    number, name, folder, *command = arguments
    importlib.import_module("peftkit.pipeline.verify").fork_verifier()  # a fresh process would import all again
    with failing_write(Path(folder), None if number == "-1" else int(number), getattr(errno, name)) as faults:
        try:
            importlib.import_module("peftkit.cli").main(command)
        finally:
            print(f"writes: {faults.count}", flush=True)


def _audit(event: str, arguments: tuple) -> None:
    if Faults.active is None:
        return
    if (event == "open" and arguments[2] is not None and arguments[2] & WRITES) or event in ("os.rename", "os.mkdir"):
        Faults.active.pass_write(arguments[0])


sys.addaudithook(_audit)
