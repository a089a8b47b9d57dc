"""What a sweep logs of its runs, and the files by which those of other processes report to the waiting command."""

import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from peftkit.config import RunConfig, UserError
from peftkit.config.json_files import read_json
from peftkit.config.progress import duration

CHECK_SECONDS, CHECKS = 1.0, 3  # how often and how often in a row a folder is missing before a run ends


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


@contextmanager
def ended_with_command(folder: Path | None) -> Iterator[None]:
    """Interrupt this process, one of a launcher's, in this block once the command that waits for it has ended.

    A command that is interrupted removes `folder`; one that is killed leaves it, and its runs go on.
    """
    is_over = threading.Event()

    def watch(folder: Path) -> None:
        misses = 0  # network file systems have short ones
        while not is_over.wait(CHECK_SECONDS):
            misses = 0 if folder.is_dir() else misses + 1
            if misses == CHECKS:
                os.kill(os.getpid(), signal.SIGTERM)

    if folder is not None:
        threading.Thread(target=watch, args=(folder,), daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def describe_start(config: RunConfig, number: int, total: int, left: float) -> str:
    """Return the line of a run that starts; `left` are the seconds until all have ended, 0 where it is not known."""
    words = [config.task.name, config.method.name, f"seed {config.seed}"]
    words += [f"about {duration(left)} left"] if left else []
    return f"[{number}/{total}] {' · '.join(words)}"


def time_left(seconds: Sequence[float], runs: float) -> float:
    """Return the seconds of further runs if they are like those before; 0 without any."""
    trained = [each for each in seconds if each > 1]  # the others were finished already
    return runs * sum(trained) / len(trained) if trained else 0.0


def failure(error: str, folder: Path | None) -> tuple[int, str]:
    """Return the exit code and the message of an error that is not the user's; 1 where the run's folder records it."""
    is_recorded = folder is not None and _is_failed(folder)
    kept = "; the run folder keeps it in log.jsonl" if is_recorded else ""
    return 1 if is_recorded else 2, f"{error} (PEFTKIT_DEBUG=1 shows the traceback{kept})"


def _is_failed(folder: Path) -> bool:
    """Return whether a run folder has the result of a failed run."""
    try:
        return bool(read_json(folder / "result.json", "")["meta"]["status"] == "failed")
    except (UserError, KeyError, TypeError):
        return False
