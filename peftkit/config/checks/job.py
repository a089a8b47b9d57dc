"""Checks of what a job needs, of settings that it would ignore, and of the runs that job=judge compares."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.run_folders import readable_config
from peftkit.config.checks.values import RUN_STATUSES
from peftkit.config.console import number_of_processes
from peftkit.config.endings import FILES
from peftkit.config.errors import refusal
from peftkit.config.files import names_file
from peftkit.config.job_record import Job
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import generates_text
from peftkit.config.run import RunConfig
from peftkit.config.suggestions import nearest, with_hint
from peftkit.paths import is_file

AGE = re.compile(r"(\d{1,6}(?:\.\d+)?)([mhdw])")  # filter.older_than
AGE_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}  # seconds
UNFILTERED = refusal("delete= needs a filter, or out= of a single run", "filter.status=failed", "filter.task='*'")
PATH_KEYS = ("run", "runs", "input", "output")  # checked by the job's record, with a message of their own


def job_errors(run: RunConfig) -> list[str]:
    """Return a message for each setting that the job lacks, or would ignore."""
    job = JOBS[run.job]
    others = {key.partition(".")[0] for key in job_specific_keys()} - {"generate", *job.keys, *job.reads_without_run}
    return [
        *_run_errors(run),
        *messages_of(
            (
                number_of_processes() > 1 and not job.several_processes,
                f"job={job.name} runs in one process; start it without torchrun and accelerate launch",
            ),
            (job.input == "required" and run.input is None, f"job={job.name} needs input=FILE or input='a text'"),
            (
                job.input == "no" and run.input is not None,
                _only("input", "input", job.name),
            ),
        ),
        *_output_errors(run),
        *_filter_errors(run),
        *(unused_key_message(name, job) for key in sorted(others) for name in _given(key, getattr(run, key))),
    ]


def ignored_errors(job_name: str, typed: Mapping[str, str]) -> list[str]:
    """Return a message for each typed override, by key, that a job does not read."""
    job, of_jobs = JOBS[job_name], job_specific_keys() - {"generate"}
    return [
        unused_key_message(key, job)  # as `job_errors` does
        if job.reads is None or is_in_section(key, of_jobs)
        else refusal(f"job={job.name} ignores {typed[key]}: {job.ignores}", f"~{key}")
        for key in ignored(job, list(typed))
    ]


def ignored(job: Job, keys: Sequence[str]) -> list[str]:
    """Return the keys that a job does not read."""
    shared = {key for key in keys if not is_in_section(key, job_specific_keys())}  # what a training run reads
    known = {*(shared if job.reads is None else job.reads), *job.keys, *PATH_KEYS, "job", "hydra", "allow_code"}
    if "run" not in keys:
        known.update(job.reads_without_run)
    if job.loads_model:
        known.add("threads")
    if "job" not in keys:  # the recipe chose it
        known.add("recipe")
    return [key for key in keys if not is_in_section(key, known)]


def unused_key_message(key: str, job: Job) -> str:
    """Return the message about a key that only other jobs read."""
    others = [other.name for other in JOBS.values() if is_in_section(key, {*other.keys, *other.reads_without_run})]
    return refusal(f"{key}= is not for job={job.name}, only for {_listed(others)}", f"~{key}")


def job_specific_keys() -> set[str]:
    """Return the keys that only some jobs read."""
    return {key for job in JOBS.values() for key in job.keys}


def is_in_section(key: str, sections: set[str]) -> bool:
    """Return whether a key is one of the keys, or is in one of the sections."""
    return any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in sections)


def _given(key: str, value: Any) -> list[str]:
    """Return the keys that are set: a top-level key, or the keys of a section that are null by default."""
    if not dataclasses.is_dataclass(value):
        return [key] if value else []
    nullable = (field.name for field in dataclasses.fields(value) if "None" in str(field.type))
    return [f"{key}.{name}" for name in nullable if getattr(value, name) is not None]


def _only(key: str, field: str, job: str) -> str:
    allowed = [other.name for other in JOBS.values() if getattr(other, field) not in ("no", None)]
    return refusal(f"{key}= is not for job={job}, only for {_listed(allowed)}", f"~{key}")


def _listed(jobs: Sequence[str]) -> str:
    return ", ".join(f"job={name}" for name in jobs)


def _run_errors(run: RunConfig) -> Iterator[str]:
    job, runs = JOBS[run.job], run.runs
    mixes = runs is not None and job.name == "predict"
    is_single = run.run is not None or len(runs or ()) < 2
    is_set = {"trial": run.trial, "task.folds": run.task.folds, "domains.leave_out": run.domains.leaves_each_out}
    without_weights = [f"~{key}" for key, value in is_set.items() if value]
    return messages_of(
        (runs is not None and job.runs == "no", _only("runs", "runs", job.name)),
        (mixes and is_single, refusal("runs= takes two run folders or more, in place of run=", "runs=[DIR,DIR]")),
        (
            mixes and not is_single and run.input is not None and not names_file(run.input, FILES),
            "runs= needs a file with a column task; use input=FILE, or run=DIR for one text",
        ),
        (
            job.run == "required" and run.run is None and runs is None,
            refusal(f"job={job.name} needs a run folder", "run=outputs/.../seed-0-...", verb="set"),
        ),
        (
            job.runs == "required" and len({os.path.realpath(each) for each in runs or ()}) != 2,
            refusal(f"job={job.name} compares two run folders", "runs=[DIR,DIR]", verb="set"),
        ),
        (job.run == "no" and run.run is not None, _only("run", "run", job.name)),
        (
            job.name == "continual" and run.tasks is None,
            refusal("job=continual trains several tasks, in their order", "tasks=[mrpc,rte,stsb]", verb="set"),
        ),
        (
            job.name == "continual" and without_weights,
            refusal("job=continual needs the weights of each run", " ".join(without_weights)),
        ),
        (
            job.name == "downstream" and run.task.kind == "language_modeling",
            refusal("job=downstream compares a task with and without language modeling", "task=sst2"),
        ),
        (
            job.name == "prune" and run.prune.heads is None,
            refusal("job=prune needs the share of heads to remove", "prune.heads=0.3", verb="set"),
        ),
        (
            job.name == "downstream" and run.trial,
            refusal("trial=true does not work with job=downstream, which scores other examples", "~trial"),
        ),
    )


def _output_errors(run: RunConfig) -> Iterator[str]:
    job, output = JOBS[run.job], run.output
    if output is None:
        return iter(())
    endings = job.writes if isinstance(job.writes, tuple) else ()
    return messages_of(
        (job.writes is None, _only("output", "writes", job.name)),
        (
            job.writes == "folder" and is_file(output),
            f"output={output} is a file; job={job.name} writes a folder: use output=FOLDER",
        ),
        (
            endings and Path(output).suffix not in endings,
            f"output={output}: expected a file that ends in {' or '.join(endings)}",
        ),
    )


def _filter_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for a filter of job=runs that matches nothing, or a deletion without one."""
    if run.job != "runs":
        return
    age, names = run.filter.older_than, run.filter.status
    for status in names if isinstance(names, list) else ():
        if status not in RUN_STATUSES:
            yield with_hint(f"filter.status: unknown status {status}", nearest(str(status), RUN_STATUSES))
    if age is not None and AGE.fullmatch(str(age)) is None:
        days = f"filter.older_than={age if str(age).isdecimal() else 7}d"
        yield refusal(f"filter.older_than={age}: expected a number with m, h, d or w, as minutes to weeks", days)
    if run.delete and not has_filter(run) and not is_file(Path(run.out, "result.json")):
        yield UNFILTERED


def has_filter(run: RunConfig) -> bool:
    """Return whether job=runs lists chosen runs only."""
    return any(getattr(run.filter, each.name) is not None for each in dataclasses.fields(run.filter))


def judging_errors(run: RunConfig) -> list[str]:
    """Return a message for each run folder whose answers cannot be judged."""
    folders = [run.run] if run.run is not None else run.runs or []
    if run.job != "judge":
        return []
    if run.run is not None and run.runs is not None:
        return [refusal("run= is compared with its references, runs= with each other", "~run", "~runs")]
    if len(folders) != (1 if run.run is not None else 2):
        return ["job=judge needs answers; set run=DIR to compare with its references, or runs=[A,B] with each other"]
    if len({os.path.realpath(folder) for folder in folders}) < len(folders):
        return [refusal(f"runs= names {folders[0]} twice", f"run={folders[0]} ~runs")]
    return [message for folder in folders for message in _answer_errors(Path(folder))]


def _answer_errors(folder: Path) -> Iterator[str]:
    """Yield a message for a run without generated answers; unfinished runs have a message already."""
    config = readable_config(folder)
    if config is None:
        return iter(())
    task, is_trial = config.task, config.trial
    kind = f"{task.kind} without a label" if task.kind == "causal_lm" else task.kind
    has_answers = is_trial or generates_text(task)
    return messages_of(
        (is_trial, f"{folder} is a trial, scored on training examples; name a run"),
        (
            not has_answers,
            f"{folder} is a run of {kind}, which generates no answers; "
            "name one of task=seq2seq, or of another text-generation task",
        ),
        (
            has_answers and not is_trial and not is_file(folder / "predictions.parquet"),
            f"{folder} contains no predictions.parquet with its answers; train it again with force=true",
        ),
    )
