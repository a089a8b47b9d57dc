"""The parts of a command that cost little: the validation of overrides, the reading of a data file or of a run folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from omegaconf import OmegaConf

from peftkit import api, paths
from peftkit.cli.compose import open_composer
from peftkit.cli.overrides import read_command
from peftkit.cli.validate import command_errors
from peftkit.config import UserError
from peftkit.config.run import TaskConfig
from peftkit.data.datasets import load_task_dataset


def read(words: Sequence[str]) -> None:
    """Read the file that the words task=KIND task.KEY=VALUE name; exit as a command does."""
    values = dict(word.removeprefix("task.").partition("=")[::2] for word in words)
    folder = paths.conf_folder() / "task"
    task = OmegaConf.merge(
        *(OmegaConf.load(folder / f"{name}.yaml") for name in ("classification", values.pop("task"))),
        OmegaConf.from_dotlist([f"{key}={value}" for key, value in values.items()]),
    )
    task.pop("defaults", None)
    try:
        load_task_dataset(TaskConfig(**OmegaConf.to_container(task)), None, "offline")  # type: ignore[arg-type]
    except UserError as error:
        print(f"peftkit: {error}", file=sys.stderr)
        sys.exit(2)


def open_runs(words: Sequence[str]) -> None:
    """Load the run that the words name, or read all runs; a command that trains another model is validated."""
    run = next((word.removeprefix("run=") for word in words if word.startswith("run=")), None)
    if run is None and "job=plan" in words:
        validate(words)
        return
    try:
        api.leaderboard() if run is None else api.load(run)
    except UserError as error:
        print(f"peftkit: {error}", file=sys.stderr)
        sys.exit(2)


def validate(words: Sequence[str]) -> None:
    """Validate a command without running it; exit with 2 where it is refused."""
    try:
        command = read_command(list(words))
    except UserError as error:
        messages = [str(error)]
    else:
        with open_composer(command.extra) as composer:
            messages = command_errors(command.overrides, composer, command.extra, command.multirun)
    if messages:
        print("\n".join(messages), file=sys.stderr)
        sys.exit(2)
