"""Checks of what a job needs, and of settings that it would ignore."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftkit.config.checks.rules import broken
from peftkit.config.endings import FILES
from peftkit.config.jobs import JOBS, Job
from peftkit.config.run import RunConfig

PLACES = ("run", "runs", "input", "output")  # checked by the job's record, with a message of their own


def job_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each setting that the job lacks, or would ignore."""
    job = JOBS[run.job]
    yield from _run_errors(run)
    yield from broken(
        (job.input == "required" and run.input is None, f"job={job.name} needs input=FILE or input='a text'"),
        (
            job.input == "no" and run.input is not None,
            f"input= {_only('input', job.name)}; to train on a file, set task.dataset=FILE",
        ),
    )
    yield from _output_errors(run)
    for key in sorted({key.partition(".")[0] for key in own_keys()} - {"generate", *job.keys, *job.reads_without_run}):
        yield from (not_for(name, job) for name in _given(key, getattr(run, key)))


def ignored_errors(job_name: str, typed: Mapping[str, str]) -> Iterator[str]:
    """Yield a message for each typed override, by key, that a job does not read."""
    job = JOBS[job_name]
    for key in ignored(job, list(typed)):
        if job.reads is None:
            yield not_for(key, job)
        else:
            yield f"job={job.name} ignores {typed[key]}: {job.ignores}; drop it"


def ignored(job: Job, keys: Sequence[str]) -> list[str]:
    """Return the keys that a job does not read."""
    shared = {key for key in keys if not is_below(key, own_keys())}  # what a training run reads
    known = {*(shared if job.reads is None else job.reads), *job.keys, *PLACES, "job", "hydra"}
    if "run" not in keys:
        known.update(job.reads_without_run)
    if "job" not in keys:  # the recipe chose it
        known.add("recipe")
    return [key for key in keys if not is_below(key, known)]


def not_for(key: str, job: Job) -> str:
    """Return the message about a key that only other jobs read."""
    others = [other.name for other in JOBS.values() if is_below(key, {*other.keys, *other.reads_without_run})]
    return f"{key}= is not for job={job.name}, only for {_listed(others)}; drop it"


def own_keys() -> set[str]:
    """Return the keys that only some jobs read."""
    return {key for job in JOBS.values() for key in job.keys}


def is_below(key: str, sections: set[str]) -> bool:
    """Return whether a key is one of the keys, or lies in one of the sections."""
    return any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in sections)


def _given(key: str, value: Any) -> list[str]:
    """Return the keys that are set: a top-level key, or the keys of a section that are null by default."""
    if not dataclasses.is_dataclass(value):
        return [key] if value else []
    nullable = [field.name for field in dataclasses.fields(value) if "None" in str(field.type)]
    return [f"{key}.{name}" for name in nullable if getattr(value, name) is not None]


def _only(key: str, job: str) -> str:
    allowed = [other.name for other in JOBS.values() if getattr(other, key) not in ("no", None)]
    return f"is not for job={job}, only for {_listed(allowed)}; drop it"


def _listed(jobs: Sequence[str]) -> str:
    return ", ".join(f"job={name}" for name in jobs)


def _run_errors(run: RunConfig) -> Iterator[str]:
    job, runs = JOBS[run.job], run.runs
    mixes = runs is not None and job.name == "predict"
    is_alone = run.run is not None or len(runs or ()) < 2
    return broken(
        (runs is not None and job.runs == "no", f"runs= {_only('runs', job.name)}"),
        (mixes and is_alone, "runs= takes two run folders or more, in place of run=; use runs=[DIR,DIR]"),
        (
            mixes and not is_alone and run.input is not None and Path(run.input).suffix not in FILES,
            "runs= needs a file with a column task; use input=FILE, or run=DIR for one text",
        ),
        (
            job.run == "required" and run.run is None and runs is None,
            f"job={job.name} needs a run folder; set run=outputs/.../seed-0-...",
        ),
        (job.run == "no" and run.run is not None, f"run= {_only('run', job.name)}"),
        (
            job.name == "downstream" and run.task.kind == "language_modeling",
            "job=downstream compares a task with and without language modeling; use task=sst2, or another task",
        ),
        (
            job.name == "downstream" and run.trial,
            "trial=true does not work with job=downstream, which scores other examples; drop it",
        ),
    )


def _output_errors(run: RunConfig) -> Iterator[str]:
    job, output = JOBS[run.job], run.output
    if output is None:
        return
    if job.writes is None:
        yield f"output= {_only('writes', job.name)}; run folders are written below out=FOLDER"
    elif job.writes == "folder" and Path(output).is_file():
        yield f"output={output} is a file; job={job.name} writes a folder: use output=FOLDER"
    elif job.writes != "folder" and Path(output).suffix not in job.writes:
        yield f"output={output}: expected a file that ends in {' or '.join(job.writes)}"
    elif output == run.input:
        yield f"output={output} is the input; name another file"
