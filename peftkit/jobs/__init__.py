"""The jobs: one module a verb, run by the entry point of its record in `config.jobs`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig
from peftkit.config.jobs import JOBS


def run(config: RunConfig, begin: Callable[[Path], None] | None = None) -> Any:
    """Run the job that a config names, and return what its entry point returns: a run folder where it has one.

    Args:
        begin: called with the folder of each training run before it starts; a failed one is never returned.

    Raises:
        UserError: the input is wrong in a way that only loading could show.
    """
    job = JOBS[config.job]
    with ExitStack() as stack:
        if job.loads_model:
            from peftkit.pipeline.libraries import library_settings

            stack.enter_context(library_settings(config.source))
        if config.generates_data:
            from peftkit.jobs.generated_data import with_generated_data

            config = with_generated_data(config)
        module, _, name = job.entry.partition(":")
        function = getattr(import_module(module), name)
        arguments = {"begin": begin} if "begin" in inspect.signature(function).parameters else {}
        return function(config, **arguments)


def finish(folders: Sequence[Path], claim: str | None = None) -> None:
    """Show one table of the runs of this command, what was substituted in them, and the verdict on the claim."""
    from peftkit.jobs.leaderboard import show_runs

    show_runs(folders, claim)
