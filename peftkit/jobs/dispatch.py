"""The job of a run, called with what its libraries and the packages of the user need."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from peftkit.config import JOBS, RunConfig, UserError, refusal
from peftkit.config.console import number_of_processes
from peftkit.config.own_code import open_code
from peftkit.jobs.sequential import SequentialSeeds


def run_job(
    config: RunConfig,
    on_start: Callable[[Path], None] | None = None,
    sequential: SequentialSeeds | None = None,
    waits: bool = True,
) -> Any:
    """Run the job that a config names, and return what its entry point returns: a run folder where it has one.

    The command line calls this for each run of a command, and the Python API for jobs that write a folder.

    Args:
        on_start: called with the folder of each training run before it starts; a failed one is never returned.
        sequential: of a command with sequential seeds: skips a run that is not needed.
        waits: whether a training run waits for a process that trains the same run.

    Raises:
        BusyError: another process trains the run, and `waits` is False.
        UserError: the input is wrong in a way that only loading could show.
    """
    job = JOBS[config.job]
    if config.sequential_seeds and config.job == "finetune" and sequential is None:
        raise UserError(refusal("sequential_seeds=true needs the seeds of a sweep", "~sequential_seeds"))
    given, reason = config, None if sequential is None else sequential.begin(config)
    with ExitStack() as stack:
        stack.enter_context(open_code(config.allow_code or ()))
        if number_of_processes() > 1:
            from peftkit.pipeline.processes import one_outcome

            stack.enter_context(one_outcome())
        if job.loads_model:
            from peftkit.pipeline.libraries import library_settings

            stack.enter_context(library_settings(config.source, config.threads))
        if config.generates_data and job.generates:
            from peftkit.jobs.generate import with_generated_data

            config = with_generated_data(config)
        module, _, name = job.entry.partition(":")
        function = getattr(import_module(module), name)
        known = inspect.signature(function).parameters
        arguments = {name: each for name, each in (("on_start", on_start), ("waits", waits)) if name in known}
        folder = None if sequential is None else sequential.skip(config, reason)
        if folder is not None and on_start is not None:
            on_start(folder)
        found = function(config, **arguments) if folder is None else folder
        if sequential is not None:
            sequential.add(given, found)
        return found
