"""Upload the adapter or the merged model of a finished run to the Hub."""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from peftkit.config import RunConfig, UserError, refusal
from peftkit.config.console import log
from peftkit.leaderboard.costs import amount
from peftkit.pipeline.hub_repository import check_login, check_repository, compared_base, find_repository, upload
from peftkit.pipeline.release import hub_base, left_behind, write_release
from peftkit.results.run_result import RunResult

DATA, PATHS = "texts of the data", "paths of this machine"
REASONS = {  # why a file of a run stays
    "predictions.parquet": DATA, "calibration.parquet": DATA, "other_domains.parquet": DATA, "report.html": DATA,
    "taught.jsonl": DATA, "result.json": PATHS, "config.yaml": PATHS, "README.md": "the repository has its own",
}  # fmt: skip


def push(config: RunConfig) -> Path:
    """Upload the chosen part of a run in one commit, or list it, and return the run folder.

    Raises:
        UserError: the run, the token or the repository does not fit.
        WriteError: the Hub does not answer as it should; repeating the command is safe.
    """
    run = RunResult.finished(config.run)
    (_list_files if config.push.dry_run else upload_run)(config)
    return run.folder


def upload_run(config: RunConfig) -> str:
    """Upload the chosen part of a run in one commit, and return its URL.

    Raises:
        UserError, WriteError: as of `push`.
    """
    if config.push.dry_run:
        raise UserError(
            refusal("push.dry_run=true lists the files, which only the command job=push does", "~push.dry_run")
        )
    run = RunResult.finished(config.run)
    settings, repo, base = config.push, str(config.repo), hub_base(run, config.push)
    check_login()
    found = find_repository(repo, settings.revision or "main")
    check_repository(found, run.folder.name, settings.private, config.force)
    if base is not None and base.weights:
        base = compared_base(base)
    if found.private and not settings.private:
        log(f"!! {repo} is private and stays so; its settings on the Hub make it public")
    trained = f"{run.config.method.name} of {run.source.name} on {run.config.task.name}"
    with tempfile.TemporaryDirectory() as scratch, _progress_bars():
        write_release(run, settings, repo, base, Path(scratch))
        url, is_new = upload(found, Path(scratch), settings.private, settings.commit_message or trained)
    log(f"{repo} has this already; nothing changed" if not is_new else f"pushed -> {url}")
    return url


def _list_files(config: RunConfig) -> None:
    """Print what would go and what stays; nothing is sent."""
    run, settings = RunResult.finished(config.run), config.push
    with tempfile.TemporaryDirectory() as scratch:
        write_release(run, settings, str(config.repo), hub_base(run, settings), Path(scratch))
        found = {each.relative_to(scratch): each for each in Path(scratch).rglob("*") if each.is_file()}
        files = {name.as_posix(): each.stat().st_size for name, each in found.items()}
    visibility = "private" if settings.private else "public"
    print(f"{config.repo}, {visibility}, branch {settings.revision or 'main'}: {amount(sum(files.values()), 'B')}")
    print(*(f"{amount(size, 'B'):>9}  {name}" for name, size in sorted(files.items())), "stays here", sep="\n")
    print("\n".join(_stay_lines(left_behind(run, settings.what))))
    log("nothing was sent: push.dry_run=true")


def _stay_lines(files: Mapping[str, int]) -> Iterator[str]:
    for name, size in files.items():
        reason = REASONS.get(name)
        yield f"{amount(size, 'B'):>9}  {name}{f'  ({reason})' if reason else ''}"


@contextmanager
def _progress_bars() -> Iterator[None]:
    """Show the progress of uploads on terminals only."""
    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
