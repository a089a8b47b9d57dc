"""Tables of predictions are read back as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

from peftkit.data.tables import read_file
from peftkit.results.tables import write_table

TEXTS = ["a\tb", "c\nd\r\ne", '"f"', 'g "h"', "i; j, k | l", " m ", '""', "n"]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("texts", [TEXTS, ["n", "o"], ['"n"', '"o"'], ['"n', "o"]])
def test_a_written_table_is_read_back(tmp_path: Path, ending: str, texts: list[str]) -> None:
    table = {"text": texts, "n": list(range(len(texts))), "prediction": ["x"] * len(texts)}
    write_table(Dataset.from_dict(table), tmp_path / f"a{ending}")
    assert read_file(tmp_path / f"a{ending}").to_dict() == table
