"""Append-only jsonl files that survive a kill: torn lines are cut, and replayed lines must be equal to the old ones."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftkit.config import UserError


class Journal:
    """An append-only jsonl file; a torn last line is cut when it is opened. `rows` are those it had then."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._handle = file.open("a+b")
        data = file.read_bytes()
        end = data.rfind(b"\n") + 1
        if end < len(data):
            self._handle.truncate(end)
            self.sync()
        self.lines = [f"{line}\n" for line in data[:end].decode().split("\n")[:-1]]
        self.rows = [self._parse(number, line) for number, line in enumerate(self.lines, start=1)]

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Write rows, each as one line; they survive this process, and after `sync` the machine."""
        self._write("".join(map(json_line, rows)))

    def sync(self) -> None:
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        self._handle.close()

    def _write(self, text: str) -> None:
        self._handle.write(text.encode())
        self._handle.flush()

    def _parse(self, number: int, line: str) -> dict[str, Any]:
        try:
            return json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{self.file}: line {number} is damaged ({error.msg}); repair it, or start again with force=true"
            ) from error


class ReplayedJournal(Journal):
    """A file whose lines follow from the journal of replies: a resumed run has to write the same lines again."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.position = 0

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Write the rows that the file does not have yet.

        Raises:
            UserError: the file has another line at this place.
        """
        lines = [json_line(row) for row in rows]
        old_lines = self.lines[self.position : self.position + len(lines)]
        for number, (old, new) in enumerate(zip(old_lines, lines, strict=False), start=self.position + 1):
            if old != new:
                raise UserError(
                    f"{self.file}: line {number} does not follow from journal.jsonl: the folder was changed, or "
                    "another version of peftkit wrote it; start again with force=true"
                )
        self.position += len(lines)
        self._write("".join(lines[len(old_lines) :]))

    def check_end(self) -> None:
        """Refuse lines that these settings do not lead to, as with a lower patience than before."""
        if self.position < len(self.lines):
            raise UserError(
                f"{self.file}: has more lines than these settings lead to; use the earlier settings, or force=true"
            )


def json_line(row: Mapping[str, Any]) -> str:
    """Return a row as one line: line breaks within its texts are escaped."""
    return json.dumps(row, ensure_ascii=False) + "\n"
