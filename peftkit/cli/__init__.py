"""The command line: overrides are validated before torch loads, then the runs start."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from peftkit import paths
from peftkit.cli.compose import Composer, open_composer, plan_sweep
from peftkit.cli.files import register_files
from peftkit.cli.help import help_text
from peftkit.cli.overrides import CommandLine, read_command
from peftkit.cli.runner import SweepRunner
from peftkit.cli.sweep_status import open_status_folder
from peftkit.cli.validate import command_errors
from peftkit.config import UserError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Validate every run of the command, then run them one after the other."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--version" in arguments:
        from peftkit import __version__

        _print_and_exit(f"peftkit {__version__}")
    if {"-sc", "--shell-completion", "--hydra-help"} & {*arguments}:
        register_files()
        _run_hydra([argument for argument in arguments if not argument.startswith(("-c", "--config"))], SweepRunner([]))
        sys.exit(0)
    try:
        command = read_command([argument for argument in arguments if argument not in ("-h", "--help")])
        if not arguments or {"-h", "--help"} & {*arguments}:
            _print_and_exit(help_text(command.overrides, command.extra))
    except UserError as error:
        _exit_with_errors([str(error)])
    runner = SweepRunner(["-cd", str(command.extra)] if command.extra else [])
    with open_composer(command.extra) as composer:
        if messages := command_errors(command.overrides, composer, command.extra, command.multirun):
            _exit_with_errors(messages)
        hydra_arguments = _hydra_arguments(command, composer, runner)
    try:
        _run_hydra(hydra_arguments, runner)
    except (SystemExit, KeyboardInterrupt) as stopped:  # a launcher that aborts prints the reason itself
        if runner.status_folder is None:
            raise
        runner.exit_code = 130 if isinstance(stopped, KeyboardInterrupt) else 1
    runner.finish()


def _print_and_exit(text: str) -> NoReturn:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` closed the pipe; the interpreter's flush at exit must not fail on it either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _exit_with_errors(messages: list[str]) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":  # under torchrun only one process prints
        print("\n".join(f"peftkit: {message}" for message in messages), file=sys.stderr)
    sys.exit(2)


def _hydra_arguments(command: CommandLine, composer: Composer, runner: SweepRunner) -> list[str]:
    """Return Hydra's arguments, which show the first run, start the only run, or sweep."""
    sweep = plan_sweep(command.overrides, composer, command.multirun)
    hydra_overrides = [override for override in command.overrides if override.startswith("hydra")]
    first = composer([*sweep.runs[0], *hydra_overrides])
    if command.shows_config:
        if len(sweep.runs) > 1:
            print(f"# the first of {len(sweep.runs)} runs: {' '.join(sweep.runs[0])}")
        return [*command.flags, *sweep.runs[0], *hydra_overrides]
    if "hydra.mode=RUN" not in sweep.overrides and "BasicLauncher" not in first.hydra.launcher._target_:
        runner.status_folder, runner.claim = open_status_folder(Path(first.out)), first.claim
    return [*command.flags, *sweep.overrides]


def _run_hydra(arguments: Sequence[str], runner: SweepRunner) -> None:
    import hydra

    sys.argv = ["peftkit", *arguments]
    hydra.main(config_path=str(paths.conf_folder()), config_name="config", version_base="1.3")(runner.run)()
