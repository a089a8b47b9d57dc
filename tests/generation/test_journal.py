"""Lines are whole: a torn one is cut, and what is made again must be what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftkit.config import UserError
from peftkit.generation.journal import Journal, ReplayedJournal, json_line

ROWS = [{"text": "été\u2028\n"}, {"text": "b"}, {"text": "c"}]


def test_a_file_that_is_cut_anywhere_holds_its_whole_lines(tmp_path: Path) -> None:
    whole = "".join(map(json_line, ROWS)).encode()
    file = tmp_path / "rows.jsonl"
    for size in range(len(whole) + 1):
        file.write_bytes(whole[:size])
        with Journal(file) as lines:
            there = lines.rows
            lines.append(ROWS[len(there) :])
        assert there == ROWS[: whole[:size].count(b"\n")]
        assert file.read_bytes() == whole


def test_lines_that_are_there_are_not_written_twice(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(map(json_line, ROWS[:2])))
    with ReplayedJournal(file) as lines:
        lines.append(ROWS[:1])
        lines.append(ROWS[1:])
    assert file.read_text() == "".join(map(json_line, ROWS))


def test_a_changed_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(map(json_line, ROWS)))
    with ReplayedJournal(file) as lines, pytest.raises(UserError, match=r"line 2 is not what .* force=true"):
        lines.append([ROWS[0], ROWS[2]])
    with ReplayedJournal(file) as lines, pytest.raises(UserError, match="more than these settings give"):
        lines.check_end()
    file.write_text('{"a": 1}\n{"b"\n')
    with pytest.raises(UserError, match=r"line 2 is damaged"):
        Journal(file)
