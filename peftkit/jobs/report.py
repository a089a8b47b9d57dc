"""job=report: the report of a finished run, from its folder."""

from collections.abc import Sequence
from pathlib import Path

from peftkit.config import RunConfig
from peftkit.config.console import is_main_process, log
from peftkit.leaderboard.rendering import plain
from peftkit.pipeline.report import FILE, Report, make_report, try_report
from peftkit.results.locks import locked_folder


def report(config: RunConfig) -> Path:
    """Write report.html of a finished run, print the short report, and return the run folder.

    Raises:
        UserError: the run is not finished, or a file of it cannot be read.
    """
    folder = Path(str(config.run))
    with locked_folder(folder):
        found = make_report(folder)
        log_warnings(found.warnings)
        file = found.write()
    _print_lines(found)
    log(f"-> {file}")
    return folder


def log_warnings(warnings: Sequence[str]) -> None:
    """Log what a reader should see first."""
    for warning in warnings:
        log(f"!! {plain(warning)}")


def show_report(folder: Path) -> None:
    """Print the short report of a run that just ended, if it finished."""
    if is_main_process() and (folder / FILE).is_file() and (found := try_report(folder, writes=False)) is not None:
        _print_lines(found)
        log(f"report: {folder / FILE}")


def _print_lines(found: Report) -> None:
    if found.lines:
        print(*map(plain, found.lines), "", sep="\n", flush=True)  # before the next message on stderr
