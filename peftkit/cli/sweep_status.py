"""Status files of a sweep, by which runs in other processes report to the command that waits for them."""

import json
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunStatus:
    """The folder of one run, or the message and exit code of its failure."""

    folder: str | None = None
    exit_code: int = 0
    message: str = ""


def open_status_folder(out: Path) -> Path:
    """Return a new folder below `out`, which all processes of a sweep share, on any machine."""
    out.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=".sweep-", dir=out.resolve()))


def write_status(status: RunStatus, folder: Path) -> None:
    """Write a status file atomically; nothing where the command has stopped waiting and removed the folder."""
    with (
        suppress(FileNotFoundError),
        tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file,
    ):
        file.write(json.dumps(asdict(status)))
        file.flush()
        Path(file.name).rename(f"{file.name}.json")


def collect_statuses(folder: Path) -> list[RunStatus]:
    """Return every status in the order of writing, and remove the folder."""
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    statuses = [RunStatus(**json.loads(file.read_text(encoding="utf-8"))) for file in files]
    shutil.rmtree(folder, ignore_errors=True)
    return statuses
