"""Locks of folders and files, so that one process writes them; others wait for it and name it."""

import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from peftkit.config.console import is_main_process, log
from peftkit.config.errors import BusyError, WriteError
from peftkit.config.progress import duration
from peftkit.paths import safe_name

LOCK = ".lock"  # in a folder, while a process writes it
SOFT = ".soft"  # ending of a lock on a file system without locks: the file itself is the lock
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
POLL_SECONDS = 0.1
QUIET_SECONDS = 1.0  # `is_locked` has a lock for a moment
REPEAT_SECONDS = 60.0  # between two lines of a process that waits


@dataclass(frozen=True)
class Holder:
    """The process that has a lock, as far as that is known."""

    pid: int | None
    host: str | None
    since: datetime | None

    def __str__(self) -> str:
        if self.pid is None or self.since is None:
            return "another process"
        return f"process {self.pid} on {self.host}, since {self.since:%Y-%m-%d %H:%M:%S}"


@contextmanager
def locked_folder(folder: Path, waits: bool = True) -> Iterator[Callable[[], None]]:
    """Lock a folder against other processes; yield a function that raises an error if the folder was replaced since.

    A process that is killed leaves the file `.lock`, but not the lock. A folder that cannot be written is not locked.
    Of the processes of a run, only the main one locks.

    Args:
        waits: whether to wait for a process that has the lock, which is named once and then at intervals.

    Raises:
        BusyError: another process has the lock, and `waits` is False.
    """
    if not is_main_process():  # it writes nothing there
        yield lambda: None
        return
    with _locked(folder / LOCK, folder, waits) as check:
        yield check


@contextmanager
def locked_file(file: Path) -> Iterator[None]:
    """Lock a file, or a folder that is written as a whole, against other processes; wait for one that has the lock."""
    with _locked(file.absolute().with_name(f".{safe_name(file.name)}{LOCK}"), file, waits=True):
        yield


def is_locked(folder: Path) -> bool:
    """Return whether a process has the lock of a folder; True where that cannot be found out."""
    file = folder / LOCK
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return False
        _acquire(file, timeout=0).release()
    except FileNotFoundError:
        return False
    except OSError:  # Timeout is one, too
        return True
    return False


@contextmanager
def _locked(file: Path, target: Path, waits: bool) -> Iterator[Callable[[], None]]:
    lock, identity = None, None
    made = [folder for folder in file.parents if not folder.exists()]
    try:
        lock = _wait(file, target, waits)
        identity = _sign(file, lock)
    except Timeout as error:
        raise BusyError(f"{target} is written by {_holder(file)}; wait for it, then repeat the command") from error
    except OSError as error:
        if error.errno != errno.EROFS and os.access(file.parent, os.W_OK):  # else nobody writes it
            log(f"!! {target} cannot be locked ({error.strerror}); start no second command that writes it")

    def check() -> None:
        if identity is not None and _identity(file) != identity:
            raise WriteError(f"{target} was deleted or replaced while it was written; repeat the command")

    try:
        yield check
    finally:
        if lock is not None:
            with suppress(OSError):
                if _identity(file) == identity:
                    file.unlink()  # before the release: who waits for this file then sees that it is gone
            lock.release()
        with suppress(OSError):  # what is written is in them
            for folder in made:
                folder.rmdir()


def _wait(file: Path, target: Path, waits: bool) -> BaseFileLock:
    """Return the lock once this process has it.

    Raises:
        Timeout: another process has it, and `waits` is False.
    """
    settings = {"cancel_check": _Waiting(file, target)} if waits else {"timeout": QUIET_SECONDS}
    attempts = 10
    while True:
        attempts -= 1
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _acquire(file, **settings)
        except FileNotFoundError:  # the process that had it deleted the folder
            if not attempts:
                raise


def _acquire(file: Path, **settings: Any) -> BaseFileLock:
    """Return a lock of the system that is held, or a lock by existence where the file system has no others.

    Args:
        settings: of `FileLock.acquire`.

    Raises:
        Timeout: another process has it.
        OSError: the file cannot be written.
    """
    lock: BaseFileLock = FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire(poll_interval=POLL_SECONDS, **settings)
    except Timeout:
        raise
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        lock = SoftFileLock(_soft(file))  # takes over the lock of a dead process of this machine
        lock.acquire(poll_interval=POLL_SECONDS, **settings)
    return lock


class _Waiting:
    """Logs whom this process waits for, once it has waited for a second and then at intervals; called in between."""

    def __init__(self, file: Path, target: Path) -> None:
        self.file, self.target = file, target
        self.started, self.next = time.monotonic(), QUIET_SECONDS

    def __call__(self) -> bool:
        waited = time.monotonic() - self.started
        if waited >= self.next:
            self._log(waited)
            self.next = waited + REPEAT_SECONDS
        return False

    def _log(self, waited: float) -> None:
        holder = _holder(self.file)
        if waited > REPEAT_SECONDS:
            log(f"   still waiting for {holder}: {duration(waited)} so far")
            return
        log(f"waiting for {holder}, which writes {self.target} (Ctrl-C ends the wait)")
        if _soft(self.file).exists() and holder.host != socket.gethostname():
            log(f"   if that process has ended, delete {_soft(self.file)}")


def _sign(file: Path, lock: BaseFileLock) -> tuple[int, int] | None:
    """Write who has the lock, as `SoftFileLock` does, and return the identity of the file."""
    with suppress(OSError):  # a full disk
        if isinstance(lock, SoftFileLock):
            file.touch()  # the process that had the lock deleted it
        else:
            file.write_text(f"{os.getpid()}\n{socket.gethostname()}\n", encoding="utf-8")
    return _identity(file)


def _holder(file: Path) -> Holder:
    """Return who wrote a lock, and when."""
    for each in (_soft(file), file):
        try:
            pid, host = each.read_text(encoding="utf-8").split("\n")[:2]
            return Holder(int(pid), host, datetime.fromtimestamp(each.stat().st_mtime))
        except (OSError, ValueError):
            continue
    return Holder(None, None, None)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _soft(file: Path) -> Path:
    return file.with_name(f"{file.name}{SOFT}")
