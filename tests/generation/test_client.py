"""A truncated last line is removed, and a resumed run must write the same lines again."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from peftkit.config import UserError
from peftkit.generation.client import Journal

ROWS = [{"text": "été\u2028\n"}, {"text": "b"}, {"text": "c"}]


def text(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_a_file_cut_anywhere_keeps_its_complete_lines(tmp_path: Path) -> None:
    whole = text(ROWS).encode()
    file = tmp_path / "rows.jsonl"
    for size in range(len(whole) + 1):
        file.write_bytes(whole[:size])
        with closing(Journal(file)) as journal:
            rows = journal.rows
            journal.append(*ROWS[len(rows) :])
        assert rows == ROWS[: whole[:size].count(b"\n")]
        assert file.read_bytes() == whole


def test_existing_lines_are_not_written_twice(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text(ROWS[:2]))
    with closing(Journal(file, is_replayed=True)) as journal:
        journal.append(ROWS[0])
        journal.append(*ROWS[1:])
    assert file.read_text() == text(ROWS)


def test_a_changed_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text(ROWS))
    with (
        closing(Journal(file, is_replayed=True)) as journal,
        pytest.raises(UserError, match=r"line 2 does not follow from .* force=true"),
    ):
        journal.append(ROWS[0], ROWS[2])
    with (
        closing(Journal(file, is_replayed=True)) as journal,
        pytest.raises(UserError, match="more lines than these settings produce"),
    ):
        journal.check_end()
    file.write_text('{"a": 1}\n{"b"\n')
    with pytest.raises(UserError, match=r"line 2 is damaged"):
        Journal(file)
