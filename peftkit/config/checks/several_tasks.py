"""Checks of a run of several tasks, each of which is valid alone."""

from collections.abc import Iterator

from peftkit.config.checks.job import job_errors
from peftkit.config.checks.start import start_errors
from peftkit.config.errors import refusal
from peftkit.config.run import RunConfig


def several_task_errors(run: RunConfig) -> list[str]:
    """Return a message for each reason why the tasks of a run do not go together."""
    return [*job_errors(run), *_name_errors(run), *_training_errors(run), *start_errors(run)]


def _name_errors(run: RunConfig) -> Iterator[str]:
    names = [task.name for task in run.tasks or []]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield refusal(f"tasks=: {names.count(name)} tasks have the name {name}", "~task.name")


def _training_errors(run: RunConfig) -> Iterator[str]:
    if run.job in ("finetune", "plan"):
        names = ",".join(task.name for task in run.tasks or [])
        yield refusal(f"job={run.job} does not train one model on several tasks yet", f"-m task={names} ~tasks")
