"""Incremental writing of vectors to one parquet or npy file."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


class VectorFileWriter:
    """Writer of a parquet or npy file in parts; the file appears when it is complete.

    A .parquet has the columns id, text and vector: lists of one length in fp32, null for a text without a vector. A
    .npy is an fp32 array (texts, width), with zeros for a text without a vector.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.part = file, file.with_name(f".{file.name}.part")
        self.count, self.width = 0, 0
        self._writer: Any = None  # of parquet
        self._out: Any = None  # of npy

    def __enter__(self) -> VectorFileWriter:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, ids: list[Any], texts: list[str], vectors: np.ndarray, known: np.ndarray) -> None:
        """Append vectors (texts, width); those that are not `known` (texts,) are written as null or zeros."""
        self.width = vectors.shape[1]
        vectors = np.where(known[:, None], vectors, 0).astype("<f4")
        if self.file.suffix == ".npy":
            self._add_array(vectors)
        else:
            self._add_table(ids, texts, vectors, known)
        self.count += len(vectors)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._out is not None:
            self._out.seek(0)
            self._write_header(self.count)
            self._out.close()
        if kind is None:
            self.part.replace(self.file)
        else:
            self.part.unlink(missing_ok=True)

    def _add_table(self, ids: list[Any], texts: list[str], vectors: np.ndarray, known: np.ndarray) -> None:
        flat = pa.array(vectors.ravel(), pa.float32())
        lists = pa.FixedSizeListArray.from_arrays(flat, self.width, mask=pa.array(~known))
        if self._writer is None:
            kind = pa.int64() if isinstance(ids[0], int) else pa.string()
            fields = [("id", kind), ("text", pa.string()), ("vector", lists.type)]
            self._writer = pq.ParquetWriter(self.part, pa.schema(fields))
        kinds = self._writer.schema
        self._writer.write_table(
            pa.table([pa.array(ids, kinds.field("id").type), pa.array(texts), lists], schema=kinds)
        )

    def _add_array(self, vectors: np.ndarray) -> None:
        if self._out is None:
            self._out = self.part.open("wb+")
            self._write_header(0)
        self._out.write(vectors.tobytes())

    def _write_header(self, count: int) -> None:
        """Write the header of a .npy; numpy pads it, so that a larger count fits later."""
        shape = {"descr": "<f4", "fortran_order": False, "shape": (count, self.width)}
        np.lib.format.write_array_header_1_0(self._out, shape)
