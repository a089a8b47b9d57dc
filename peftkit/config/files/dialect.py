"""Cells of csv and tsv files: delimiter, quotation marks and a line `sep=` are detected, and stated where unusual."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import IO, Any

from peftkit.config.console import assume
from peftkit.config.errors import UserError
from peftkit.config.files.content import ending_of, open_text

DELIMITERS = ",;\t|"
SAMPLE = 1 << 16  # characters that select the delimiter
DIRECTIVE = re.compile(r'"?sep=(\\t|[^"\r\n])"?[,;\t|]*(\r\n?|\n|$)', re.IGNORECASE)  # for Excel, in the first line
NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}


@dataclass(frozen=True)
class Dialect:
    """How the rows of a file are divided into cells; without `quoted`, a quotation mark is an ordinary character."""

    delimiter: str
    quoted: bool
    has_directive: bool = False
    spaced: bool = False  # a space follows each delimiter
    comments: int = 0  # lines before the header


def read_cells(file: Path) -> Iterator[list[str]]:
    """Yield the header of a .csv or .tsv, and then the cells of each row, unchanged.

    Raises:
        UserError: the header has a name twice, a row differs from it in length, or a quotation does not end.
    """
    csv.field_size_limit(2**31 - 1)  # the default of 131,072 characters is too small for a long document
    dialect = _dialect_of(file)
    with _open_rows(file, dialect.comments) as text:
        lines = _reader(text, dialect.delimiter, dialect.quoted, dialect.spaced)
        rows = filter(None, lines)  # without blank lines
        try:
            if dialect.has_directive:
                next(rows)
            header = [
                name or f"Unnamed: {number}" for number, name in enumerate(next(rows, []))
            ]  # as pandas names them
            check_names(file, header)
            yield header
            for cells in rows:
                if len(cells) != len(header):
                    raise csv.Error(f"it has {len(cells)} cells, but the header has {len(header)}")
                yield cells
        except csv.Error as error:
            hint = 'quote text as "a, b", and write "" for a quote in it'
            if dialect.delimiter == "\t":
                hint = "remove the tab from the text" if not dialect.quoted else 'write "" for a quote in a text'
            raise UserError(f"{file}: line {dialect.comments + lines.line_num}: {error}; {hint}") from error


def check_names(file: Path, names: Sequence[str]) -> None:
    """Raise UserError where two columns have one name."""
    if duplicates := [name for number, name in enumerate(names) if name in names[:number]]:
        name = " ".join(duplicates[0].split())
        raise UserError(f"{file}: there are two columns {name:.60}; rename one")


def _dialect_of(file: Path) -> Dialect:
    status = file.stat()
    return _detected(file, status.st_size, status.st_mtime_ns)


@lru_cache
def _detected(file: Path, size: int, changed: int) -> Dialect:
    """Return the dialect of a file, which is read again after a change of its size or time."""
    is_tsv = ending_of(file) == ".tsv"
    usual = "\t" if is_tsv else ","
    with open_text(file) as text:
        sample = text.read(SAMPLE)
    if directive := DIRECTIVE.match(sample):
        delimiter = directive[1].replace("\\t", "\t")
        assume(f"{file}: the first line sets the delimiter {NAMES.get(delimiter, delimiter)}, and is no row")
        return Dialect(delimiter, True, has_directive=True)
    is_whole = len(sample) < SAMPLE
    comments = _comment_lines(sample, usual, is_whole)
    sample = "".join([*StringIO(sample, newline="")][comments:])
    delimiter = _delimiter_of(sample, usual, is_whole)
    quoted = delimiter != "\t" or _is_quoted(file, comments)
    spaced = _is_spaced(sample, delimiter)
    if comments:
        lines = "the first line is a comment" if comments == 1 else f"the first {comments} lines are comments"
        assume(f"{file}: {lines}, and left out")
    if delimiter != usual or spaced or (quoted and is_tsv):
        more = " and a space" if spaced else ""
        more += ", and quotation marks enclose cells" if quoted and delimiter == "\t" else ""
        assume(f"{file}: the delimiter is {NAMES[delimiter]}{more}")
    return Dialect(delimiter, quoted, spaced=spaced, comments=comments)


def _open_rows(file: Path, comments: int) -> IO[str]:
    """Open a file after so many lines."""
    text = open_text(file)
    for _ in range(comments):
        text.readline()
    return text


def _comment_lines(sample: str, usual: str, is_whole: bool) -> int:
    """Return how many lines before the header begin with #.

    A header may begin with # too: it is the first of these lines with as many cells as all rows have.
    """
    lines = [*StringIO(sample, newline="")]
    count = next((number for number, line in enumerate(lines) if not line.startswith("#")), 0)
    rest = "".join(lines[count:])
    delimiter = _delimiter_of(rest, usual, is_whole) if count else usual
    sizes = _row_sizes(rest, delimiter, is_whole) if count else []
    if len({*sizes}) != 1:
        return 0
    is_header = (sizes[0] in _row_sizes(line, delimiter, is_whole=True) for line in lines[:count])
    return next((number for number, found in enumerate(is_header) if found), count)


def _reader(lines: Iterable[str], delimiter: str, quoted: bool = True, spaced: bool = False) -> Any:
    return csv.reader(
        lines,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=quoted,
        skipinitialspace=spaced,
    )


def _delimiter_of(sample: str, usual: str, is_whole: bool) -> str:
    """Return the delimiter by which all rows are as long as the header, the usual one first.

    Where none does that, it is the one with the longest header: its rows of other lengths are errors.
    """
    headers: dict[str, int] = {}
    for delimiter in (usual, *(each for each in DELIMITERS if each != usual)):
        sizes = _row_sizes(sample, delimiter, is_whole)
        headers[delimiter] = sizes[0] if sizes else 0
        if headers[delimiter] > 1 and len(set(sizes)) == 1:
            return delimiter
    return max(headers, key=headers.__getitem__)


def _row_sizes(sample: str, delimiter: str, is_whole: bool) -> list[int]:
    """Return the number of cells of each row of a sample, without a last row that it cuts; -1 for an invalid row."""
    sizes = []
    try:
        # a tsv may have single quotation marks, which are no quotations
        lines = StringIO(sample, newline="")
        for cells in _reader(lines, delimiter, delimiter != "\t", _is_spaced(sample, delimiter)):
            sizes += [len(cells)] if cells else []
    except csv.Error:
        sizes += [-1] if is_whole else []
        return sizes
    return sizes if is_whole else sizes[:-1] or sizes


def _is_spaced(sample: str, delimiter: str) -> bool:
    """Return whether a space follows each delimiter of the header."""
    _, *others = sample.lstrip().partition("\n")[0].split(delimiter)
    return delimiter != "\t" and bool(others) and all(cell.startswith(" ") and cell.strip() for cell in others)


def _is_quoted(file: Path, comments: int) -> bool:
    """Return whether quotation marks enclose cells of a tab-separated file, as csv files do.

    They do if the whole file can be read so, and some quotation has a purpose: around a tab, a line end or a
    doubled quotation mark, around nothing, or around each cell of the header or of a column. A text that merely begins
    and ends with a quotation mark keeps it.
    """
    with _open_rows(file, comments) as text:
        if not any('"' in part for part in iter(lambda: text.read(1 << 20), "")):
            return False
    lines: list[str] = []

    def remember(text: Iterable[str]) -> Iterator[str]:
        for line in text:
            lines.append(line)
            yield line

    needs_quotes, width, columns, row_count = False, 0, set[int](), 0
    try:
        with _open_rows(file, comments) as text:
            for cells in filter(None, _reader(remember(text), "\t")):
                raw = "".join(lines).strip("\r\n").split("\t")
                lines.clear()
                width = width or len(cells)
                if len(cells) != width:
                    return False
                if raw == cells:
                    quoted: set[int] = set()
                elif len(raw) != len(cells) or any("\n" in cell or "\r" in cell for cell in cells):
                    quoted, needs_quotes = {*range(width)}, True
                else:
                    quoted = {at for at, cell in enumerate(raw) if cell != cells[at]}
                    needs_quotes |= any('"' in cells[at] or not cells[at] for at in quoted)
                    needs_quotes |= row_count == 0 and len(quoted) == width
                columns = quoted if row_count <= 1 else columns & quoted  # the header may be bare
                row_count += 1
    except csv.Error:
        return False
    return needs_quotes or (bool(columns) and row_count > 2)
