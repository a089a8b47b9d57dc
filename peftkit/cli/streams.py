"""The standard streams: closed ones, pipes whose reader has gone, and encodings that lack a character."""

import io
import os
import sys


def prepare_streams() -> None:
    """Make every write to stdout and stderr possible.

    A closed descriptor is opened on the null device, so that no file of a run gets its number. After the reader of a
    pipe has gone (`| head`), output is discarded and the run goes on. A character that the encoding lacks is escaped.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue  # replaced by the caller, as pytest does
        number, encoding = (1, 2)[name == "stderr"], getattr(stream, "encoding", None) or "utf-8"
        raw = io.BufferedWriter(_Pipe(number, "wb", closefd=False))  # type: ignore[type-var]
        is_line_buffered = name == "stderr" or os.isatty(number)
        text = io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=is_line_buffered)
        setattr(sys, name, text)


def discard_output(error: Exception) -> None:
    """Discard output that could not be written, such as to a full disk, so that the exit does not try again."""
    if isinstance(error, OSError):
        try:
            sys.stdout.flush()
        except OSError:
            _discard(sys.stdout.fileno())


def _discard(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


class _Pipe(io.FileIO):
    """A descriptor that leads to the null device once the reader of its pipe has gone."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except BrokenPipeError:
            _discard(self.fileno())
            return len(data)
