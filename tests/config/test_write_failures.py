"""Errors of libraries that follow from a failed write are told from others, and name path and cause."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from peftkit.config import UserError
from peftkit.config.errors import WriteError
from peftkit.config.write_failures import write_failure


def full(path: str | None = None) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def raised(error: BaseException, context: BaseException) -> BaseException:
    """Return an error as it is where it was raised while another one was handled."""
    error.__context__ = context
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (full("/disk/x"), "/disk/x cannot be written: No space left on device; free space, or use another folder"),
        (full(), "RUN cannot be written: No space left on device"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/disk/x"), "/disk/x cannot be written: Disk quota exceeded; free"),
        (OSError(errno.EROFS, "Read-only file system", "/disk/x"), "/disk/x cannot be written: Read-only file system; use another"),
        (raised(ValueError("half"), full("/disk/x")), "/disk/x cannot be written: No space left"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "RUN cannot be written: No space"),
        (RuntimeError("[enforce fail at inline_container.cc:603] . PytorchStreamWriter failed writing file"), "RUN cannot be written: [enforce fail"),
        (WriteError("it is full"), "it is full"),
    ],
)  # fmt: skip
def test_a_failed_write_names_path_and_cause(tmp_path: Path, error: BaseException, message: str) -> None:
    found = write_failure(error, tmp_path)
    assert str(found).replace(str(tmp_path), "RUN").startswith(message)


def test_a_folder_that_vanished_is_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "run" / "log.jsonl").open("a")
    assert "No such file" in str(write_failure(caught.value, tmp_path / "run"))
    assert write_failure(caught.value, tmp_path / "other") is None


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        FileNotFoundError(2, "No such file", "/data/x.csv"),
        raised(UserError("x"), full()),
        raised(KeyboardInterrupt(), full()),
    ],
)
def test_other_errors_are_none(tmp_path: Path, error: BaseException) -> None:
    assert write_failure(error, tmp_path) is None
