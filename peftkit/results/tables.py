"""Tables of predictions as csv, tsv, jsonl or parquet files."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftkit.config.console import log
from peftkit.data.cells import id_of, is_formula
from peftkit.paths import atomic_write

NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?")
SEPARATORS = {".csv": ",", ".tsv": "\t"}


def write_table(table: Any, file: Path) -> None:
    """Write a table of `datasets` in the format of the file's ending, atomically.

    Cells of csv and tsv with separators, quotes or line breaks are quoted (RFC 4180). A missing value is an empty cell,
    a list of words their text, other nested values JSON. Dates are ISO text, NaN is null in jsonl. A text that a
    spreadsheet computes as a formula is data, and is written unchanged; the log states how many there are.

    Raises:
        WriteError: the file cannot be written.
    """
    with atomic_write(file) as part:
        if file.suffix == ".parquet":
            with part.open("wb") as data:
                table.to_parquet(data)
            return
        with part.open("w", encoding="utf-8", newline="") as out:
            if file.suffix == ".jsonl":
                out.writelines(f"{json.dumps(_plain(row), ensure_ascii=False)}\n" for row in table)
                return
            separator, formulas = SEPARATORS[file.suffix], 0
            for line in (table.column_names, *(row.values() for row in table)):
                cells = [_cell(each) for each in line]
                formulas += sum(is_formula(each) and not NUMBER.fullmatch(each) for each in cells)
                out.write(f"{separator.join(_quoted(each, separator) for each in cells)}\n")
    if formulas:
        log(
            f"!! {formulas} cells of {file} begin like a formula (=, +, -, @), which a spreadsheet computes; "
            "import its columns as text, or use output=FILE.jsonl"
        )


def _plain(value: Any) -> Any:
    """Return a value of the types of JSON."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return id_of(value)  # of dates, decimals and bytes


def _cell(value: Any) -> str:
    """Return a value as the text of one cell, as `read_file` reads it."""
    plain = _plain(value)
    are_words = isinstance(plain, list) and all(isinstance(each, str) and each.split() == [each] for each in plain)
    if are_words and plain and not plain[0].startswith("["):  # else the text would be read as a list
        return " ".join(plain)
    return "" if plain is None else plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _quoted(text: str, separator: str) -> str:
    is_plain = text == text.strip() and not {separator, '"', "\n", "\r"} & {*text}
    return text if is_plain else '"' + text.replace('"', '""') + '"'
