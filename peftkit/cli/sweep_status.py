"""Turn what runs in processes of a launcher's own have to tell into what the command that waits for them knows."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunStatus:
    """What one run tells: its folder once it is known, or why it came to nothing and with what exit code."""

    folder: str | None = None
    status: int = 0
    sentence: str = ""


def open_status_folder(out: Path) -> Path:
    """Return a folder under `out`, which all processes of a sweep share, on whatever machine they are."""
    out.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=".sweep-", dir=out.resolve()))


def write_status(note: RunStatus, notes: Path) -> None:
    """Write a note; where the command has not waited for it there is nobody to read it."""
    with suppress(FileNotFoundError), tempfile.NamedTemporaryFile("w", dir=notes, delete=False) as file:
        file.write(json.dumps(asdict(note)))
        file.flush()
        Path(file.name).rename(f"{file.name}.json")  # whole, or not there


def collect_statuses(notes: Path) -> list[RunStatus]:
    """Return every note, the first first, and remove the folder."""
    files = sorted(notes.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    found = [RunStatus(**json.loads(file.read_text())) for file in files]
    shutil.rmtree(notes, ignore_errors=True)
    return found
