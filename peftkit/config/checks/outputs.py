"""Checks of what a job writes."""

import os
from collections.abc import Iterator
from pathlib import Path

from peftkit.config.checks.rules import messages_of
from peftkit.config.errors import refusal
from peftkit.config.jobs import JOBS
from peftkit.config.run import RunConfig
from peftkit.paths import is_file, is_folder

NAME_BYTES = 255  # of a file's name, in nearly all file systems
ADDED_BYTES = len(".vectors.parquet.json")  # the longest ending that is added to the name of the input
RUN_FILES = ("predictions.parquet", "log.jsonl")


def output_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for a file that cannot be written, or that would replace the input or a file of a run."""
    job = JOBS[run.job]
    if not isinstance(job.writes, tuple):
        return iter(())
    if run.output is None:
        size = len(os.fsencode(Path(run.input or "").name)) if is_file(run.input or "") else 0
        message = f"input={run.input}: its name is too long to add an ending; set output=FILE"
        return messages_of((size > NAME_BYTES - ADDED_BYTES, message))
    path, ending = Path(run.output), next(filter(None, job.writes))
    is_input = run.input is not None and os.path.realpath(run.input) == os.path.realpath(path)
    size = len(os.fsencode(path.name)) + (len(".json") if job.name == "embed" else 0)
    return messages_of(
        (
            path.suffix in job.writes and path.suffix and is_folder(path),
            f"output={path} is a folder; name a file: output={path / f'{job.name}{ending}'}",
        ),
        (size > NAME_BYTES, f"output={path}: the file name has more than {NAME_BYTES} bytes; use a shorter one"),
        (is_input, f"output={path} is the input; name another file: output={_beside(path)}"),
        (
            path.name in RUN_FILES and is_file(path.parent / "result.json"),
            f"output={path} is a file of a run; name another file: output={_beside(path)}",
        ),
    )


def base_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message where there is no adapter beside which the base could be stored."""
    job, stores, drop = JOBS[run.job], "export.with_base=true stores the base beside an adapter", "~export.with_base"
    is_set = run.export.with_base
    return messages_of(
        (is_set and "export" in job.keys, refusal(f"{stores} in training, not in job={job.name}", drop)),
        (
            is_set and job.trains and not run.method.traits.adapter,
            refusal(f"{stores}, method={run.method.name} saves none", drop),
        ),
        (is_set and job.trains and not run.keeps_model, refusal(f"{stores}, and this run keeps no model", drop)),
    )


def _beside(path: Path) -> Path:
    return path.parent / f"{path.stem}-new{path.suffix}"  # with_name refuses "." and "/"
