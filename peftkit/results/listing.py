"""The run folders below a folder: what each is, its size on disk, and its deletion."""

import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peftkit.config.checks.values import RUN_STATUSES, value_of
from peftkit.config.errors import UserError, error_summary
from peftkit.config.jobs import WITHOUT_SCORES
from peftkit.config.record_schema import check_record, check_size
from peftkit.paths import UNLISTED, read_regular, walk
from peftkit.results import run_folder
from peftkit.results.locks import LOCK, is_locked, locked_folder

RUN_NAME = re.compile(r"(fold-\d+-)?(seed|trial)-\d+-[0-9a-f]{8}")
INSIDE_A_RUN = {"adapter", "model", "checkpoints", "merged", "tensorboard"}  # folders in which no run is
QUIET_SECONDS = 3600  # an unfinished run without a lock, of an earlier version, is running if a file is newer


@dataclass(frozen=True)
class ListedRun:
    """One folder of a run, or of another job with a result, whose task is then `job=NAME`."""

    folder: Path
    status: str  # finished, running, interrupted, failed, broken
    reason: str | None  # why it failed, or what is broken
    task: str | None  # None where nothing is recorded
    model: str | None  # the trained checkpoint
    method: str | None
    seed: int | None
    is_trial: bool
    metric: str | None  # the first of the task
    score: float | None
    bytes: int
    checkpoint_bytes: int
    started: datetime
    bases: tuple[str, ...]  # folders from which it loads weights or tokens
    keep: str | None  # why it is never deleted

    @property
    def models(self) -> tuple[str, ...]:
        """The names by which a filter finds the model."""
        return () if self.model is None else (self.model, Path(self.model).name)


def list_runs(top: Path) -> list[ListedRun]:
    """Return every run below a folder, by path and seed, unfinished and broken ones and trials of a search included.

    Links to folders are not followed.
    """
    found: dict[Path, list[str]] = {}
    for folder, names, below in walk(top):
        if "result.json" in names or ("config.yaml" in names and RUN_NAME.fullmatch(folder.name)):
            found[folder] = names
            below[:] = [name for name in below if name not in INSIDE_A_RUN]
    found = {folder: names for folder, names in found.items() if not (folder.parent in found and _is_task(folder))}
    outer = {parent for folder in found for parent in folder.parents}
    runs = [_listed(folder, names, has_runs=folder in outer) for folder, names in found.items()]
    return sorted(runs, key=lambda run: (run.folder.parent, run.seed is None, run.seed or 0, run.folder))


def delete_run(run: ListedRun, top: Path, checkpoints_only: bool = False) -> int:
    """Delete a run, or only its checkpoints, and return the bytes; parents below `top` that are then empty go too.

    Raises:
        UserError: a process trains it, or has finished it since it was listed.
        OSError: it is outside of `top`, or cannot be deleted.
    """
    folder = run.folder
    place, inside = Path(os.path.realpath(folder)), Path(os.path.realpath(top))
    if run.keep is not None or folder.is_symlink() or not place.is_relative_to(inside):
        raise OSError(0, run.keep or f"it is not inside of {top}")
    with locked_folder(folder, waits=False):
        record, _ = _record(folder)
        if run.status != "finished" and record is not None and record["meta"].get("status") == "finished":
            raise UserError("it has finished since it was listed")
        shutil.rmtree(folder / "checkpoints" if checkpoints_only else folder)
    if checkpoints_only:
        return run.checkpoint_bytes
    for parent in place.parents:
        if not parent.is_relative_to(inside) or parent == inside:
            break
        with suppress(OSError):  # it is not empty
            parent.rmdir()
    return run.bytes


def _listed(folder: Path, names: list[str], has_runs: bool) -> ListedRun:
    total, checkpoints, newest = _sizes(folder)
    record, problem = _record(folder) if "result.json" in names else (None, None)
    config, meta = (record["run"]["config"], record["meta"]) if record is not None else ({}, {})
    status, reason = _status(folder, names, "broken" if problem else meta.get("status"), newest), meta.get("reason")
    keep = None
    if status == "running":
        keep = "it is running"
    elif has_runs:
        keep = "it contains other runs"
    elif record is None and not RUN_NAME.fullmatch(folder.name):
        keep = "its result.json is not of peftkit"
    job, scores = value_of(config, "job"), (record or {}).get("scores") or {}
    metric = next(iter(scores), None)
    bases = (value_of(config, key) for key in ("model.checkpoint", "vocab", "start", "distill.teacher", "task.dataset"))
    return ListedRun(
        folder=folder,
        status=status,
        reason=problem if status == "broken" else str(reason) if reason and status == "failed" else None,
        task=f"job={job}" if job in WITHOUT_SCORES else value_of(config, "task.name"),
        model=_model(record),
        method=None if job in WITHOUT_SCORES else value_of(config, "method.name"),
        seed=meta.get("seed"),
        is_trial=value_of(config, "trial") is True,
        metric=metric,
        score=None if metric is None else float(scores[metric]["value"]),
        bytes=total,
        checkpoint_bytes=checkpoints,
        started=_started(meta.get("started"), newest),
        bases=tuple(base for base in bases if isinstance(base, str)),
        keep=keep,
    )


def _is_task(folder: Path) -> bool:
    """Return whether the folder around this one is the run of several tasks, of which this one is a part."""
    config = value_of(_record(folder.parent)[0] or {}, "run.config")
    return value_of(config, "job") == "finetune" and isinstance(value_of(config, "tasks"), list)


def _record(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Return the content of result.json, or what is wrong with it."""
    try:
        record = json.loads(read_regular(folder / "result.json"))
        check_size(record)
        if value_of(record, "run.config.job") in WITHOUT_SCORES and isinstance(record.get("meta"), dict):
            return record, None
        check_record(record)
    except Exception as error:  # whatever is wrong in a file concerns its run only
        missing = " is missing" if isinstance(error, KeyError) else ""
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error_summary(error)
        return None, f"result.json: {reason}{missing}"
    return record, None


def _status(folder: Path, names: list[str], recorded: Any, newest: float) -> str:
    """Return the status of a run; one that is recorded as running may have been killed."""
    if LOCK in names and is_locked(folder):
        return "running"
    if recorded in (None, "running"):
        is_recent = LOCK not in names and time.time() - newest < QUIET_SECONDS
        return "running" if is_recent else "interrupted"
    return recorded if recorded in RUN_STATUSES else "broken"


def _model(record: Mapping[str, Any] | None) -> str | None:
    source = value_of(record or {}, "audit.sources.model")
    if not isinstance(source, Mapping) or not isinstance(source.get("name"), str):
        return None
    return run_folder.checkpoint_name({"kind": "hub", **source})


def _sizes(folder: Path) -> tuple[int, int, float]:
    """Return the bytes of the files in a folder, those of its checkpoints, and the time of the latest change."""
    total = checkpoints = 0
    newest = 0.0
    for inner, names, _ in walk(folder):
        is_checkpoint = "checkpoints" in inner.relative_to(folder).parts[:1]
        for name in names if names != UNLISTED else ():
            with suppress(OSError):  # deleted meanwhile
                entry = (inner / name).lstat()
                newest = max(newest, entry.st_mtime)
                size = 0 if (inner / name).is_dir() else entry.st_size
                total += size
                checkpoints += size * is_checkpoint
    return total, checkpoints, newest


def _started(recorded: Any, changed: float) -> datetime:
    """Return when a run started, or the time of its latest change where that is not recorded."""
    try:
        started = datetime.fromisoformat(str(recorded))
        return (started if started.tzinfo else started.replace(tzinfo=UTC)).astimezone()
    except (ValueError, OverflowError):
        return datetime.fromtimestamp(changed).astimezone()
