"""One process writes a folder or file; others wait for it, name it, and take over from a dead one."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from peftkit.config.errors import BusyError, WriteError
from peftkit.results import locks
from peftkit.results.locks import LOCK, is_locked, locked_file, locked_folder

ME = f"process {os.getpid()} on {socket.gethostname()}, since 20"


@contextmanager
def held(folder: Path, seconds: float) -> Iterator[None]:
    """Hold the lock of a folder in another thread, for some seconds."""
    has_it = threading.Event()

    def hold() -> None:
        with locked_folder(folder):
            has_it.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    has_it.wait()
    yield
    thread.join()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("POLL_SECONDS", 0.01), ("QUIET_SECONDS", 0.05), ("REPEAT_SECONDS", 0.1)):
        monkeypatch.setattr(locks, name, seconds)


def refuse_flock(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Behave as a file system without locks."""

    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("exists", [True, False], ids=["existing", "new"])  # the process that made a folder removes it
@pytest.mark.parametrize("code", [None, errno.ENOSYS, errno.EOPNOTSUPP])
def test_the_second_waits_and_names_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int | None, exists: bool
) -> None:
    if code is not None:
        refuse_flock(monkeypatch, code)
    folder = tmp_path / "run"
    if exists:
        folder.mkdir()
    with held(folder, 0.4):
        assert is_locked(folder)
        with pytest.raises(BusyError, match=f"run is written by {ME}.*; wait for it"), locked_folder(folder, False):
            pass
        with locked_folder(folder):
            assert is_locked(folder)
    first, *more = capsys.readouterr().err.splitlines()
    assert first.startswith(f"waiting for {ME}") and first.endswith(f", which writes {folder} (Ctrl-C ends the wait)")
    assert 1 <= len(more) <= 4 and all(line.startswith(f"   still waiting for {ME}") for line in more)
    assert not is_locked(folder) and not [*folder.rglob("*")]


def test_the_lock_of_a_killed_process_is_none(tmp_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with locked_folder(tmp_path):
            os.write(write, b".")
            time.sleep(60)
            os._exit(0)
    os.read(read, 1)
    assert is_locked(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / LOCK).read_text().startswith(f"{child}\n") and not is_locked(tmp_path)
    with locked_folder(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"{os.getpid()}\n")


@pytest.mark.usefixtures("fast")
def test_without_locks_of_the_system_only_a_dead_process_of_this_machine_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse_flock(monkeypatch, errno.ENOLCK)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with locked_folder(tmp_path):
        marker = next(file for file in tmp_path.iterdir() if file.name != LOCK)
        host = marker.read_text().split("\n")[1]
    marker.write_text(f"{child}\n{host}\n")
    with locked_folder(tmp_path):
        assert marker.read_text().startswith(f"{os.getpid()}\n")
    marker.write_text(f"{child}\nanother.host\n")
    threading.Timer(0.2, marker.unlink).start()
    with locked_folder(tmp_path):
        pass
    assert f"if that process has ended, delete {marker}\n" in capsys.readouterr().err


def test_a_folder_that_was_replaced_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with locked_folder(folder) as check:
        check()
        shutil.rmtree(folder)
        with pytest.raises(WriteError, match="run was deleted or replaced"):
            check()
        with held(folder, 0.1), pytest.raises(WriteError):  # another process trains it again
            check()


def test_a_file_is_locked_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / f"{'a' * 250}.csv"
    with locked_file(file):
        (lock,) = file.parent.iterdir()
        assert lock.name.startswith(".a") and lock.name.endswith(LOCK)
    assert not file.parent.exists()


@pytest.mark.parametrize(("code", "lines"), [(errno.EROFS, 0), (errno.EIO, 1)])
def test_a_folder_that_cannot_be_locked_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, lines: int
) -> None:
    def acquire(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with locked_folder(tmp_path) as check:
        check()
    assert capsys.readouterr().err.count("cannot be locked") == lines
