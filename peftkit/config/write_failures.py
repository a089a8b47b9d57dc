"""Failed writes: which errors of libraries are one, and what a user can do about it."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from peftkit.config.errors import UserError, WriteError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DISK = {*NO_ROOM, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN}
PLACE = {errno.ENOTDIR, errno.EACCES, errno.EPERM}  # faults of the disk only for files of the run
RUST_ERROR = re.compile(r"\(os error (\d+)\)")  # of safetensors and tokenizers
TORCH_WRITER = ("PytorchStreamWriter", "inline_container", "iostream error", "Parent directory")  # of torch.save


def unwritable(path: str | Path, cause: OSError) -> WriteError:
    """Return the error of a path that cannot be written."""
    reason = cause.strerror or cause
    advice = "free space, or use another folder" if cause.errno in NO_ROOM else "use another folder, or repair this one"
    return WriteError(f"{path} cannot be written: {reason}; {advice}", cause)


def write_failure(error: BaseException, folder: Path) -> WriteError | None:
    """Return the failed write in a folder from which an error follows, None if it follows from something else.

    Libraries raise errors of their own: safetensors with the number of the system's error in its text, torch.save
    without any.
    """
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return None
    for each in _chain(error):
        if isinstance(each, WriteError):
            return each
        if isinstance(each, OSError) and each.errno is not None:
            path = Path(each.filename if isinstance(each.filename, str) else folder)
            is_inside = each is error and path.absolute().is_relative_to(folder.absolute())
            has_vanished = each.errno == errno.ENOENT and not path.parent.exists()
            if each.errno in DISK or (is_inside and (each.errno in PLACE or has_vanished)):
                return unwritable(path, each)
        elif (found := RUST_ERROR.search(str(each))) is not None and int(found[1]) in DISK | PLACE:
            return unwritable(folder, OSError(int(found[1]), os.strerror(int(found[1]))))
        elif isinstance(each, RuntimeError) and any(name in str(each) for name in TORCH_WRITER):
            return unwritable(folder, OSError(str(each).splitlines()[0]))
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it follows from."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        yield following
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
