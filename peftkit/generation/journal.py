"""Turn rows into lines of a file that only grows, and a file that a kill left behind into whole lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from peftkit.config import UserError

if TYPE_CHECKING:
    from typing_extensions import Self


class Journal:
    """A jsonl file that is only appended to; a last line that was torn is cut where it is opened.

    `rows` are those that were there.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        whole = _whole(file.read_bytes())
        if os.fstat(self._handle).st_size > len(whole):
            os.ftruncate(self._handle, len(whole))
            os.fsync(self._handle)
        self.lines = [f"{text}\n" for text in whole.decode().split("\n")[:-1]]
        self.rows = [self._row(number, line) for number, line in enumerate(self.lines, start=1)]

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows, each a whole line; they survive this process, and after `sync` the machine."""
        self._write("".join(map(json_line, rows)).encode())

    def sync(self) -> None:
        os.fsync(self._handle)

    def close(self) -> None:
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._handle, data) :]

    def _row(self, number: int, text: str) -> dict[str, Any]:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{self.file}: line {number} is damaged ({error.msg}); mend it, or begin again with force=true"
            ) from error


class ReplayedJournal(Journal):
    """Lines that are a function of the journal: those that a resumed run makes again must be those that are there."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.place = 0

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        made = [json_line(row) for row in rows]
        there = self.lines[self.place : self.place + len(made)]
        self.check(there, made[: len(there)])
        self.place += len(made)
        self._write("".join(made[len(there) :]).encode())

    def check_end(self) -> None:
        """Refuse to leave lines that these settings do not lead to, as with less patience than before."""
        if self.place < len(self.lines):
            raise UserError(
                f"{self.file} holds more than these settings give; say those that it was begun with, or force=true"
            )

    def check(self, there: Sequence[str], made: Sequence[str]) -> None:
        """Refuse to go on in a folder that something else has written to."""
        for offset, (old, new) in enumerate(zip(there, made, strict=True), start=1):
            if old != new:
                raise UserError(
                    f"{self.file}: line {self.place + offset} is not what the journal beside it gives; "
                    "this folder was changed, or made by another version: begin again with force=true"
                )


def json_line(row: Mapping[str, Any]) -> str:
    """Return a row as it is written: nothing in it ends a line but its own end."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def _whole(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]
