"""job=runs: the list of all runs below a folder, and the deletion of chosen ones."""

import os
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path

from peftkit.config import RunConfig, UserError, refusal
from peftkit.config.checks.job import AGE, AGE_UNITS, UNFILTERED, has_filter
from peftkit.config.console import log
from peftkit.config.run import Filter
from peftkit.leaderboard.costs import amount
from peftkit.leaderboard.rendering import plain
from peftkit.results.listing import ListedRun, delete_run, list_runs

COLUMNS = ("", "status", "score", "size", "started")


def show_runs(config: RunConfig) -> None:
    """Print the runs below `out` that match `filter`; with `delete`, delete them after a question.

    Raises:
        UserError: there is no run, several would be deleted without a filter, or nobody can answer the question.
    """
    top = Path(config.out)
    found = list_runs(top)
    if not found:
        raise UserError(f"out={top}: no runs; use the folder of other runs: out=DIR")
    if config.delete and len(found) > 1 and not has_filter(config):
        raise UserError(UNFILTERED)
    chosen = matching(found, config.filter)
    _print(chosen)
    sys.stdout.flush()  # before the messages on stderr
    log(_summary(chosen) + (f" ({len(found):,} runs below {top})" if len(chosen) < len(found) else ""))
    if config.delete:
        _delete(chosen, found, config)
    elif any(run.status == "failed" for run in chosen):
        kept = [each for each in config.overrides if each.partition("=")[0] != "filter.status"]
        log(f"next: python -m peftkit {shlex.join(kept)} filter.status=failed delete=true")


def matching(runs: Sequence[ListedRun], filters: Filter) -> list[ListedRun]:
    """Return the runs that match every part of a filter."""
    oldest = None
    if filters.older_than is not None and (match := AGE.fullmatch(str(filters.older_than))):
        oldest = datetime.now(UTC) - timedelta(seconds=float(match[1]) * AGE_UNITS[match[2]])
    return [
        run
        for run in runs
        if _is_among((run.status,), filters.status)
        and _is_among((run.task,), filters.task)
        and _is_among(run.models, filters.model)
        and _is_among((run.method,), filters.method)
        and (oldest is None or run.started < oldest)
    ]


def _is_among(names: Sequence[str | None], patterns: str | list[str] | None) -> bool:
    if patterns is None:
        return True
    listed = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatchcase((name or "").lower(), pattern.lower()) for name in names for pattern in listed)


def _print(runs: Sequence[ListedRun]) -> None:
    """Print a table of the runs, under the folder they share; a reason is on the line below its run."""
    from rich.cells import set_cell_size

    lines = [(run, _cells(run)) for run in runs]
    widths = [max([len(name), *(len(cells[n]) for _, cells in lines)]) for n, name in enumerate(COLUMNS)]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def row(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), cells[1].ljust(widths[1]), *map(str.rjust, cells[2:], widths[2:])]
        return "  " + "  ".join(padded).rstrip()

    for number, (parent, members) in enumerate(groupby(lines, key=lambda line: line[0].folder.parent)):
        if number == 0:
            print(row(COLUMNS))
        print(plain(f"{parent}/"))
        for run, cells in members:
            print(plain(row(cells)))
            for text in filter(None, [_names(run), run.reason]):
                line = plain(f"    {text}")
                print(line if limit is None or len(line) <= limit else f"{set_cell_size(line, limit - 3).rstrip()}...")


def _cells(run: ListedRun) -> tuple[str, ...]:
    score = "" if run.score is None else f"{run.metric} {run.score:.3f}"
    return run.folder.name, run.status, score, amount(run.bytes, "B"), f"{run.started:%Y-%m-%d %H:%M}"


def _names(run: ListedRun) -> str | None:
    """Return task, model, method and seed where the path does not show them, as of a run that was moved."""
    names = [name for name in (run.task, run.model, run.method) if name is not None]
    is_shown = all(name.removeprefix("job=") in run.folder.parts for name in names)
    return None if is_shown or not names else ", ".join([*names, f"seed {run.seed}"])


def _summary(runs: Sequence[ListedRun]) -> str:
    counts = Counter(run.status for run in runs)
    statuses = ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
    size = amount(sum(run.bytes for run in runs), "B")
    return f"{_count(runs)}, {size}{': ' if statuses else ''}{statuses}"


def _delete(chosen: Sequence[ListedRun], found: Sequence[ListedRun], config: RunConfig) -> None:
    """Delete what can be deleted, after a question on a terminal.

    Raises:
        UserError: there is no terminal and no force=true, or something could not be deleted.
    """
    top, only_checkpoints = Path(config.out), config.delete == "checkpoints"
    kept = [run for run in chosen if run.keep is not None]
    for run in kept:
        log(plain(f"kept: {run.folder}: {run.keep}"))
    doomed = [run for run in chosen if run.keep is None and (run.checkpoint_bytes or not only_checkpoints)]
    if not doomed:
        log("nothing to delete")
        return
    for run, base in _broken_bases(doomed, found) if not only_checkpoints else ():
        log(plain(f"!! {run.folder} loads from {base}, which would be deleted"))
    size = amount(sum(run.checkpoint_bytes if only_checkpoints else run.bytes for run in doomed), "B")
    what = f"{'the checkpoints of ' * only_checkpoints}{_count(doomed)}, {size}, below {top}"
    if not config.force and not _confirmed(what):
        log("nothing was deleted")
        return
    deleted, errors = 0, []
    for run in doomed:
        try:
            deleted += delete_run(run, top, only_checkpoints)
            log(plain(f"deleted: {run.folder / ('checkpoints' if only_checkpoints else '')}"))
        except (OSError, UserError) as error:
            errors.append(plain(f"{run.folder}: {getattr(error, 'strerror', None) or error}"))
    log(f"deleted {_count(doomed[len(errors) :])}, {amount(deleted, 'B')}")
    if errors:
        raise UserError(f"{len(errors)} of {_count(doomed)} could not be deleted: {'; '.join(errors[:5])}")


def _broken_bases(doomed: Sequence[ListedRun], found: Sequence[ListedRun]) -> list[tuple[ListedRun, Path]]:
    """Return the runs that remain and load weights, tokens or data from a folder that is deleted."""
    places = {os.path.realpath(run.folder): run.folder for run in doomed}
    links = [(run, Path(os.path.realpath(base))) for run in found for base in run.bases]
    return [
        (run, places[str(place)])
        for run, base in links
        for place in (base, *base.parents)
        if str(place) in places and os.path.realpath(run.folder) not in places
    ]


def _confirmed(what: str) -> bool:
    """Return whether the user confirms the deletion.

    Raises:
        UserError: there is no terminal.
    """
    if not sys.stdin.isatty():
        raise UserError(refusal(f"deleting {what} needs a confirmation, and there is no terminal", "force=true"))
    print(f"delete {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return re.fullmatch(r"\s*y(es)?\s*", sys.stdin.readline(), re.IGNORECASE) is not None


def _count(runs: Sequence[ListedRun]) -> str:
    return f"{len(runs):,} run{'' if len(runs) == 1 else 's'}"
