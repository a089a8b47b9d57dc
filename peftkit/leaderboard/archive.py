"""Archives: one parquet file with the recorded runs of a board, read like the run folders from which it was written.

One parquet row per run: `folder` (below the archive), `result` (text of result.json), `predictions` (Arrow IPC stream
of the columns id, split, label, prediction; null without predictions) and `log` (text of log.jsonl, null without). A
run in an archive has the path ARCHIVE.parquet/FOLDER.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from peftkit.config import UserError
from peftkit.paths import MAX_BYTES, atomic_write, is_file, read_regular

if TYPE_CHECKING:
    import pyarrow as pa

FILES = {"result.json": "result", "log.jsonl": "log"}
PREDICTION_COLUMNS = ["id", "split", "label", "prediction"]  # what the paired tests need
MAX_ROWS = 10_000_000  # of the predictions of a run, and runs of an archive
MAX_ARCHIVE_BYTES = 2**31  # of these columns, decompressed


def write_archive(folders: Sequence[Path], file: Path) -> None:
    """Write these runs, in folders or other archives, as one archive, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    places = [folder.absolute() for folder in folders]
    top = os.path.commonpath(places) if len(places) > 1 else places[0].parent
    names = [place.relative_to(top).as_posix() for place in places]
    columns = {
        "folder": [name.encode("utf-8", "backslashreplace").decode() for name in names],
        **{column: [_known(read_text, folder, name) for folder in folders] for name, column in FILES.items()},
        "predictions": pa.array([_ipc(_known(read_predictions, folder)) for folder in folders], pa.binary()),
    }
    # a page holds many runs, so that ids and labels, which runs share, compress well
    options = {"compression": "zstd", "compression_level": 19, "use_dictionary": False, "data_page_size": 1 << 26}
    with atomic_write(file) as part:
        pq.write_table(pa.table(columns), part, **options)


def archived_runs(file: Path) -> list[Path]:
    """Return the paths of the runs in an archive.

    Raises:
        UserError: the file is not an archive.
    """
    try:
        return [file / folder for folder in _load(file, file.stat().st_mtime_ns)]
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are among these
        raise UserError(
            f"results={file}: not an archive of runs, which job=leaderboard output=FILE.parquet writes"
        ) from error


def read_text(folder: Path, name: str) -> str | None:
    """Return the text of a run's result.json or log.jsonl, or None where there is none.

    Raises:
        OSError, ValueError: it cannot be read, is not a regular file, is too large, or is not UTF-8.
    """
    if (run := _archived(folder)) is not None:
        text: str | None = run[FILES[name]]
        if text is not None and len(text) > MAX_BYTES:
            raise OSError(f"it has more than {MAX_BYTES:,} bytes")
        return text
    try:
        return read_regular(folder / name).decode()
    except FileNotFoundError:
        return None


def read_predictions(folder: Path) -> pa.Table | None:
    """Return the PREDICTION_COLUMNS of a run's predictions, or None where there are none.

    Raises:
        OSError, ValueError, KeyError: they cannot be read, have other columns, or are too many.
    """
    import pyarrow as pa

    if (run := _archived(folder)) is not None:
        return None if run["predictions"] is None else pa.ipc.open_stream(run["predictions"]).read_all()
    file = folder / "predictions.parquet"
    return read_parquet(file, PREDICTION_COLUMNS) if file.exists() else None


def read_parquet(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Return columns of a regular parquet file, by default all.

    Raises:
        OSError, ValueError: it cannot be read, lacks a column, or has more than MAX_ROWS rows or too many bytes.
    """
    import pyarrow.parquet as pq

    if not is_file(file):
        raise OSError("it is not a regular file")
    with pq.ParquetFile(file) as parquet:
        metadata, names = parquet.metadata, parquet.schema_arrow.names
        if missing := [name for name in columns or () if name not in names]:
            raise ValueError(f"no column {missing[0]}")
        sizes = (metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
        if metadata.num_rows > MAX_ROWS or sum(sizes) > MAX_ARCHIVE_BYTES:
            raise ValueError(f"{metadata.num_rows:,} rows are too many")
        return parquet.read(columns=None if columns is None else list(columns), use_threads=False)


def _archived(folder: Path) -> dict[str, Any] | None:
    """Return the columns of a run in an archive, None for a run folder."""
    file = next((path for path in folder.parents if path.suffix == ".parquet" and is_file(path)), None)
    return None if file is None else _load(file, file.stat().st_mtime_ns)[folder.relative_to(file).as_posix()]


@lru_cache(maxsize=8)
def _load(file: Path, changed: int) -> dict[str, dict[str, Any]]:
    """Return an archive's runs by folder; `changed`, its modification time in nanoseconds, invalidates the cache.

    A name that is no path inside the archive, or occurs twice, is replaced by its number.
    """
    rows = read_parquet(file, ["folder", *FILES.values(), "predictions"]).to_pylist()
    runs: dict[str, dict[str, Any]] = {}
    for number, run in enumerate(rows):
        name = PurePosixPath(str(run["folder"]))
        is_path = name.parts and not name.is_absolute() and ".." not in name.parts and str(name).isprintable()
        runs[str(name) if is_path and str(name) not in runs else f"{number}"] = run
    return runs


def _known(read: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function reads, None where it cannot be read: the board has a note on such a run."""
    try:
        return read(*arguments)
    except (OSError, ValueError, KeyError):
        return None


def _ipc(table: pa.Table | None) -> bytes | None:
    import pyarrow as pa

    if table is None:
        return None
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, table.schema) as out:
        out.write_table(table.combine_chunks())
    return stream.getvalue().to_pybytes()
