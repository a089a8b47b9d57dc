"""Columns of texts, numbers and booleans, read and parsed as Arrow arrays instead of cell by cell."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Value

T = TypeVar("T")
Cells: TypeAlias = pa.ChunkedArray | list[Any]  # of a column; a list where they are lists or objects
TEXTS = frozenset({"string", "large_string"})
INTEGERS = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"})  # those that int64 holds
FLOATS = {"float32": pa.int32(), "float64": pa.int64()}  # and the integers of their bits
MAX_BYTES = 1 << 31  # of a column of texts with 32-bit offsets


def arrow_column(table: Dataset, name: str) -> pa.ChunkedArray:
    """Return a column in the order of the examples."""
    return table.with_format("arrow")[name][:]


def plain_column(table: Dataset, name: str) -> pa.ChunkedArray | None:
    """Return a column of texts or whole numbers; None where it has other values."""
    dtype = dtype_of(table, name)
    column = arrow_column(table, name) if dtype in TEXTS | INTEGERS else None
    return None if column is None or column.nbytes >= MAX_BYTES else column


def texts_of(table: Dataset, name: str) -> pa.ChunkedArray | None:
    """Return the texts of a plain column as `cells.text_of` does: empty where a cell is missing or blank."""
    if (column := plain_column(table, name)) is None:
        return None
    texts = column.cast(pa.string()).fill_null("")
    try:
        return pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), "", texts)
    except pa.ArrowInvalid:  # bytes that are not UTF-8
        return None


def parse_distinct(table: Dataset, name: str, parse: Callable[[Any], T]) -> list[T] | None:
    """Return the parsed cells of a column, each distinct value parsed once; None where it has lists or objects.

    Raises:
        CellError: that of the first cell that `parse` refuses.
    """
    dtype = dtype_of(table, name)
    if dtype not in TEXTS | INTEGERS | {"bool", *FLOATS} or (column := arrow_column(table, name)).nbytes >= MAX_BYTES:
        return None
    cells = column.combine_chunks()
    if dtype in FLOATS:  # 0.0 and -0.0 are equal, and differ in their bits
        cells = cells.view(FLOATS[dtype])
    encoded = cells.dictionary_encode(null_encoding="encode")
    values = encoded.dictionary.view(column.type) if dtype in FLOATS else encoded.dictionary
    parsed = [parse(value) for value in values.to_pylist()]
    return [parsed[index] for index in encoded.indices.to_pylist()]


def is_complete(texts: Sequence[Cells], labels: Sequence[Any] | None) -> np.ndarray:
    """Return which examples (examples,) have every text, and a label; without `labels`, they need none."""
    kept = [
        pc.not_equal(column, "").to_numpy() if isinstance(column, pa.ChunkedArray) else np.array([*map(bool, column)])
        for column in texts
    ]
    kept += [] if labels is None else [np.array([label is not None for label in labels])]
    return np.logical_and.reduce(kept)  # type: ignore[no-any-return]


def select(column: Cells, kept: np.ndarray) -> Cells:
    """Return the cells for which `kept` (examples,) is true."""
    if kept.all():
        return column
    if isinstance(column, pa.ChunkedArray):
        return column.filter(pa.array(kept))
    return [column[index] for index in np.flatnonzero(kept)]


def inferred(column: pa.ChunkedArray) -> Cells:
    """Return a column of ids with the type that `datasets` infers from their values."""
    is_usual = column.type in (pa.int64(), pa.string()) and column.null_count < len(column)
    return column if is_usual else column.to_pylist()


def list_lengths(column: pa.ChunkedArray) -> list[int]:
    """Return the length of each list of a column."""
    return pc.list_value_length(column).to_pylist()  # type: ignore[no-any-return]


def unhashed(table: pa.Table) -> Dataset:
    """Return a table without a hash of its content, which takes longer than encoding a few examples."""
    return Dataset(table.replace_schema_metadata(), fingerprint=uuid4().hex)


def cells_of(column: Cells) -> Iterable[Any]:
    """Return the values of a column, one after the other."""
    return (cell.as_py() for cell in column) if isinstance(column, pa.ChunkedArray) else column


def dtype_of(table: Dataset, name: str) -> str | None:
    """Return the type of the values of a column; None where they are lists or objects."""
    feature = table.features[name]
    return feature.dtype if isinstance(feature, Value | ClassLabel) else None
