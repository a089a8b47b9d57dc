"""Cells of a table as texts and ids; values of other types are refused by column, row and type."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from peftkit.config import Refusal, UserError

if TYPE_CHECKING:
    from datasets import Column, Dataset  # takes half a second, which generation does not need

T = TypeVar("T")
MAX_NAMED = 5  # rows, or fields of an object, that a message names


def is_formula(text: str) -> bool:
    """Return whether a spreadsheet computes a cell with this text instead of showing it, also as a signed number."""
    return text.lstrip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))


class CellError(ValueError):
    """A value of a type that a task does not read; `parse_cells` adds the column and the row.

    Args:
        fields: of an object, those that are texts.
        fix: an override that corrects it.
    """

    def __init__(self, message: str, fields: Sequence[str] = (), fix: str | None = None) -> None:
        super().__init__(message)
        self.fields, self.fix = tuple(fields), fix


def parse_cells(
    cells: Iterable[Any],
    parse: Callable[[Any], T],
    place: str,
    rows: "Column | Sequence[int] | None" = None,
    hint: Callable[[str], str] | None = None,
) -> list[T]:
    """Return the parsed cells of a column.

    Args:
        place: of the column, for messages.
        rows: the number of each cell's row in its file; by default they are counted from 1.
        hint: returns what to set to read a field of the objects of the column.

    Raises:
        UserError: `parse` raises a `CellError`.
    """
    parsed: list[T] = []
    failed: list[int] = []
    first: CellError | None = None
    for index, cell in enumerate(cells):
        try:
            parsed.append(parse(cell))
        except CellError as error:
            first = first or error
            failed.append(index + 1 if rows is None else rows[index])
    if first is not None:
        fix = [hint(first.fields[0])] if hint is not None and first.fields else []
        fix += [first.fix] if first.fix is not None else []
        shown = ", ".join(map(str, sorted(failed)[:MAX_NAMED]))
        more = ", ..." if len(failed) > MAX_NAMED else ""
        wrong = f"{place}, row{'s' if len(failed) > 1 else ''} {shown}{more}: {first}"
        raise UserError(Refusal(f"{wrong}{''.join(f', or set {each}' for each in fix)}", *fix))
    return parsed


def text_of(cell: Any) -> str:
    """Return the text of a cell, unchanged; bytes are decoded from UTF-8. It is empty where it is missing or blank.

    Raises:
        CellError: the cell is neither a text nor a whole number, or its bytes are not UTF-8.
    """
    if isinstance(cell, bytes | bytearray):
        try:
            cell = cell.decode()
        except UnicodeDecodeError as error:
            raise CellError(f"the bytes are not UTF-8 ({error.reason} at byte {error.start}); convert them") from None
    elif is_missing(cell):
        return ""
    elif isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    elif not isinstance(cell, str):
        raise CellError(f"{describe(cell)}, not a text; write one text", text_fields(cell))
    return cell if cell.strip() else ""


def is_missing(cell: Any) -> bool:
    """Return whether a cell is None, or the NaN or NaT of pandas."""
    is_nan = isinstance(cell, float | Decimal) and math.isnan(cell)
    return cell is None or is_nan or type(cell).__name__ == "NaTType"


def id_of(cell: Any) -> Any:
    """Return the id of an example: an integer, a text, or None; dates in ISO 8601, other numbers as text.

    Raises:
        CellError: the cell is a list or an object.
    """
    if is_missing(cell):
        return None
    if isinstance(cell, bytes | bytearray):
        try:
            return cell.decode()
        except UnicodeDecodeError:
            return cell.hex()  # a binary UUID
    if isinstance(cell, str) or (isinstance(cell, int) and not isinstance(cell, bool)):
        return cell
    if isinstance(cell, date | time):  # which datetime is, too
        return cell.isoformat()
    if isinstance(cell, Mapping | list | tuple):
        raise CellError(f"{describe(cell)}, not an id; rename the column, or write a text or a number")
    return str(cell)


def ids_of(cells: Iterable[Any], place: str) -> list[Any]:
    """Return the ids of a column in one type: integers, else texts; None where an id is missing."""
    ids = parse_cells(cells, id_of, place)
    is_mixed = len({type(name) for name in ids if name is not None}) > 1
    return [str(name) if is_mixed and name is not None else name for name in ids]


def table_of(columns: Mapping[str, list[Any]], place: str) -> "Dataset":
    """Return columns of cells as a table.

    Raises:
        UserError: a column has values of different types.
    """
    from datasets import Dataset

    try:
        return Dataset.from_dict(dict(columns))
    except (pa.ArrowException, TypeError, OverflowError) as error:
        for name, cells in columns.items():
            kinds = {describe(cell): row for row, cell in reversed([*enumerate(cells, start=1)]) if cell is not None}
            try:
                pa.array(cells)
            except (pa.ArrowException, TypeError, OverflowError) as cause:
                shown = [f"{kind} in row {row}" for kind, row in [*kinds.items()][::-1]]
                found = " and ".join(shown[:2]) if len(shown) > 1 else str(cause).splitlines()[0]
                raise UserError(f"{place}: column {name} has values of different types: {found}; use one") from error
        raise


def plain_types(table: pa.Table) -> pa.Table:
    """Return a table with UUIDs as texts, and maps as lists of {key, value}: `datasets` has no such types."""
    for number, column in enumerate(table.schema):
        if isinstance(column.type, pa.BaseExtensionType):
            cells = table[number].to_pylist()
            texts = [None if cell is None else str(cell) for cell in cells]
            is_uuid = column.type.extension_name == "arrow.uuid"
            plain = pa.array(texts) if is_uuid else pa.array(cells, column.type.storage_type)
            table = table.set_column(number, column.name, plain)
        elif pa.types.is_map(column.type):
            pairs = pa.struct([("key", column.type.key_type), ("value", column.type.item_type)])
            cells = [
                cell and [{"key": key, "value": value} for key, value in cell] for cell in table[number].to_pylist()
            ]
            table = table.set_column(number, column.name, pa.array(cells, pa.list_(pairs)))
    return table


def describe(cell: Any) -> str:
    """Return the type of a cell with an article, in terms of files rather than of Python."""
    if isinstance(cell, Mapping):
        names = [str(name) for name in cell]
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        return f"an object with the fields {', '.join(names[:MAX_NAMED]) or '(none)'}{more}"
    if isinstance(cell, list | tuple):
        kinds = {type(item) for item in cell}
        items = " of texts" if kinds == {str} else " of numbers" if kinds and kinds <= {int, float} else ""
        return f"a list{items}"
    names_of = {
        str: "a text",
        bool: "true or false",
        int: "a whole number",
        float: "a number with a fraction",
        Decimal: "a decimal number",
    }
    for kind, name in names_of.items():
        if isinstance(cell, kind):
            return name
    return "a date or time" if isinstance(cell, date | time) else f"a value of type {type(cell).__name__}"


def text_fields(cell: Any) -> list[str]:
    """Return the fields of an object that are texts, the longest text first."""
    texts = {name: text for name, text in cell.items() if isinstance(text, str)} if isinstance(cell, Mapping) else {}
    return sorted(texts, key=lambda name: -len(texts[name]))
