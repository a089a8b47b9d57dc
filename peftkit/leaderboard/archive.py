"""Archives: one parquet file with the recorded runs of a board, read like the run folders from which it was written.

One parquet row per run: `folder` (below the archive), `result` (text of result.json), `predictions` (Arrow IPC stream
of the columns id, split, label, prediction; null without predictions) and `log` (text of log.jsonl, null without). A
run in an archive has the path ARCHIVE.parquet/FOLDER.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.config import UserError
from peftkit.paths import atomic_write

if TYPE_CHECKING:
    import pyarrow as pa

FILES = {"result.json": "result", "log.jsonl": "log"}
PREDICTION_COLUMNS = ["id", "split", "label", "prediction"]  # what the paired tests need


def write_archive(folders: Sequence[Path], file: Path) -> None:
    """Write these runs, in folders or other archives, as one archive, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    top = os.path.commonpath(folders) if len(folders) > 1 else folders[0].parent
    columns = {
        "folder": [folder.relative_to(top).as_posix() for folder in folders],
        **{column: [read_text(folder, name) for folder in folders] for name, column in FILES.items()},
        "predictions": pa.array([_ipc(read_predictions(folder)) for folder in folders], pa.binary()),
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
    """Return the text of a run's result.json or log.jsonl, or None where there is none."""
    if (run := _archived(folder)) is not None:
        return run[FILES[name]]
    file = folder / name
    return file.read_text(encoding="utf-8") if file.is_file() else None


def read_predictions(folder: Path) -> pa.Table | None:
    """Return the PREDICTION_COLUMNS of a run's predictions, or None where there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (run := _archived(folder)) is not None:
        return None if run["predictions"] is None else pa.ipc.open_stream(run["predictions"]).read_all()
    file = folder / "predictions.parquet"
    return pq.ParquetFile(file).read(columns=PREDICTION_COLUMNS, use_threads=False) if file.is_file() else None


def _archived(folder: Path) -> dict[str, Any] | None:
    """Return the columns of a run in an archive, None for a run folder."""
    file = next((path for path in folder.parents if path.suffix == ".parquet" and path.is_file()), None)
    return None if file is None else _load(file, file.stat().st_mtime_ns)[folder.relative_to(file).as_posix()]


@lru_cache(maxsize=8)
def _load(file: Path, changed: int) -> dict[str, dict[str, Any]]:
    """Return an archive's runs by folder; `changed`, its modification time in nanoseconds, invalidates the cache."""
    import pyarrow.parquet as pq

    columns = ["folder", *FILES.values(), "predictions"]
    return {run["folder"]: run for run in pq.ParquetFile(file).read(columns=columns).to_pylist()}


def _ipc(table: pa.Table | None) -> bytes | None:
    import pyarrow as pa

    if table is None:
        return None
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, table.schema) as out:
        out.write_table(table.combine_chunks())
    return stream.getvalue().to_pybytes()
