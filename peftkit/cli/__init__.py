"""The command line: overrides are validated before torch loads, then the runs start."""

import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from peftkit import paths
from peftkit.cli.compose import Composer, build_run, open_composer, plan_sweep, without_hydra
from peftkit.cli.files import register_files
from peftkit.cli.help import help_text
from peftkit.cli.overrides import CommandLine, read_command
from peftkit.cli.runner import SweepRunner
from peftkit.cli.start import with_start
from peftkit.cli.streams import discard_output, prepare_streams
from peftkit.cli.sweep_status import open_status_folder
from peftkit.cli.validate import command_errors, distinct_runs
from peftkit.compat.hydra import composed_at_launch
from peftkit.config import UserError, error_summary, is_text
from peftkit.config.console import is_main_process, log
from peftkit.config.imports import start_imports
from peftkit.config.shared import sharing
from peftkit.config.signals import exit_code, interruptible
from peftkit.config.write_failures import unwritable
from peftkit.jobs.sequential import SequentialSeeds
from peftkit.jobs.workers import number_of_workers

__all__ = ["main"]

SIZES = {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"}  # of torchrun, and of MPI
REFUSAL_DELAY = 5.0  # seconds


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command, and exit with 0, with 2 where it is refused, or with 1 where a run failed and left its result.

    A signal exits with 128 plus its number.
    """
    start_imports()  # which the runner ends
    prepare_streams()
    try:
        with interruptible():
            code = _run_command(list(sys.argv[1:] if arguments is None else arguments))
            sys.stdout.flush()
    except KeyboardInterrupt as error:
        code = exit_code(error)
    except Exception as error:
        if "PEFTKIT_DEBUG" in os.environ:
            raise
        discard_output(error)
        _print_errors([f"{error_summary(error)} (PEFTKIT_DEBUG=1 shows the traceback)"])
        code = 2
    sys.exit(code)


def _run_command(arguments: list[str]) -> int:
    """Validate every run of the command, then run them one after the other; return the exit code."""
    try:
        _check_process(arguments)
        if "--version" in arguments:
            from peftkit import __version__

            print(f"peftkit {__version__}")
            return 0
        if {"-sc", "--shell-completion", "--hydra-help"} & {*arguments}:
            register_files()
            completed = ["-sc", *(each for each in arguments if "=" in each and not each.startswith("-"))]
            _run_hydra(["--hydra-help"] if "--hydra-help" in arguments else completed, SweepRunner([]))
            return 0
        command = read_command([argument for argument in arguments if argument not in ("-h", "--help")])
        if not arguments or {"-h", "--help"} & {*arguments}:
            print(help_text(command.overrides, command.extra))
            return 0
        runner = SweepRunner(["-cd", str(command.extra)] if command.extra else [])
        runner.command = list(arguments)
        with open_composer(command.extra) as composer:
            overrides = with_start(command.overrides, composer, command.extra)
            if (found := overrides[: len(overrides) - len(command.overrides)]) and not command.shows_config:
                log(f"from start=: {shlex.join(each.lstrip('+') for each in found)}")
            command = replace(command, overrides=overrides)
            if messages := command_errors(command.overrides, composer, command.extra, command.multirun):
                return _print_errors(messages)
            hydra_arguments = _hydra_arguments(command, composer, runner)
    except UserError as error:
        return _print_errors([str(error)])
    try:
        if "hydra.mode=MULTIRUN" in hydra_arguments:  # Hydra's sweeper shows a traceback where it cannot make it
            Path(runner.out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _print_errors([str(unwritable(runner.out, error))])
        return 1
    try:
        with sharing():
            _run_hydra(hydra_arguments, runner)
            runner.wait()
    except (SystemExit, KeyboardInterrupt) as stopped:  # a launcher that aborts prints the reason itself
        if runner.status_folder is None and stopped.args == (1,):  # an error of Hydra's own, which it printed
            return 2
        if runner.status_folder is None:
            raise
        runner.exit_code = exit_code(stopped) if isinstance(stopped, KeyboardInterrupt) else 1
    return runner.finish()


def _check_process(arguments: Sequence[str]) -> None:
    """Check what every command needs.

    Raises:
        UserError: the working folder was deleted, an argument is not UTF-8, or accelerate started one of the processes
            that were requested.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise UserError("the working folder does not exist any more; change to another one") from error
    if "MASTER_PORT" in os.environ and "ACCELERATE_MIXED_PRECISION" in os.environ and not os.environ.keys() & SIZES:
        typed = shlex.join(arguments)
        raise UserError(
            "accelerate launch started a single process, although several were requested; use torchrun "
            f"--nproc_per_node 2 -m peftkit {typed}, or for a single one python -m peftkit {typed}"
        )
    for number, argument in enumerate(arguments, start=1):
        if not is_text(argument):
            raise UserError(f"argument {number}, {argument!r}, is not UTF-8; rename the file or retype the text")


def _print_errors(messages: list[str]) -> int:
    """Print why a command is refused; under torchrun, a process other than the first only if that one is not."""
    if not is_main_process():
        time.sleep(REFUSAL_DELAY)  # torchrun ends it meanwhile where the command is refused in the first one, too
        messages = [f"process {os.environ['RANK']}: {message}" for message in messages]
    print("\n".join(f"peftkit: {message}" for message in messages), file=sys.stderr)
    return 2


def _hydra_arguments(command: CommandLine, composer: Composer, runner: SweepRunner) -> list[str]:
    """Return Hydra's arguments, which show the first run, start the only run, or sweep."""
    sweep = plan_sweep(command.overrides, composer, command.multirun)
    hydra_overrides = [override for override in command.overrides if override.startswith("hydra")]
    first = composer([*sweep.runs[0], *hydra_overrides])
    runner.out = str(first.out)
    if "BasicSweeper" in first.hydra.sweeper._target_:  # others choose the number of runs themselves
        runner.number_of_runs = len(sweep.runs)
    if first.sequential_seeds:
        seeds = dict.fromkeys(text for run in sweep.runs for text in run if text.startswith("seed="))
        runner.sequential = SequentialSeeds(len(seeds))
    if command.shows_config:
        if len(sweep.runs) > 1:
            print(f"# the first of {len(sweep.runs)} runs: {' '.join(sweep.runs[0])}")
        return [*command.flags, *sweep.runs[0], *hydra_overrides]
    if "hydra.mode=RUN" not in sweep.overrides and "BasicLauncher" not in first.hydra.launcher._target_:
        runner.status_folder, runner.claim = open_status_folder(Path(first.out)), first.claim
    if first.workers == "auto":
        configs = [build_run(without_hydra(composer(run)), None, run) for run in distinct_runs(sweep.runs)]
        runner.auto_workers = number_of_workers(configs, len(sweep.runs), can_fork=True)
    return [*command.flags, *sweep.overrides]


def _run_hydra(arguments: Sequence[str], runner: SweepRunner) -> None:
    import hydra

    sys.argv = ["peftkit", *arguments]
    with composed_at_launch():
        hydra.main(config_path=str(paths.conf_folder()), config_name="config", version_base="1.3")(runner.run)()
