"""Turn the words that a user types into checked runs; light, so that a typo is answered before torch loads."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from peftkit import paths
from peftkit.cli.compose import (
    Composer,
    build_run,
    compose_config,
    expand_sweep,
    open_composer,
    plan_sweep,
    register_recipes,
    without_hydra,
)
from peftkit.cli.help import help_text
from peftkit.cli.overrides import CommandLine, normalize, read_command
from peftkit.cli.sweep_status import RunStatus, collect_statuses, open_status_folder, write_status
from peftkit.cli.validate import check, complaints_about
from peftkit.config import RunConfig, UserError, error_summary

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["check", "choose", "compose_config", "expand_sweep", "main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Check every run of the command, then do them one after the other."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or {"-h", "--help"} & {*arguments}:
        _show(help_text())
    if "--version" in arguments:
        from peftkit import __version__

        _show(f"peftkit {__version__}")
    if {"-sc", "--shell-completion", "--hydra-help"} & {*arguments}:
        register_recipes()
        _hydra(arguments, _Outcome([]))
        sys.exit(0)
    try:
        words = read_command(arguments)
    except UserError as error:
        _refuse([str(error)])
    outcome = _Outcome(["-cd", str(words.more)] if words.more else [])
    with open_composer(words.more) as composer:
        if found := complaints_about(words.overrides, composer, words.more, words.multirun):
            _refuse(found)
        hydra_arguments = _arguments(words, composer, outcome)
    try:
        _hydra(hydra_arguments, outcome)
    except (SystemExit, KeyboardInterrupt) as stopped:  # a launcher that gives up says why itself
        if outcome.notes is None:
            raise
        outcome.status = 130 if isinstance(stopped, KeyboardInterrupt) else 1
    outcome.end()


def choose(words: Sequence[str]) -> list[RunConfig]:
    """Return the config of each run of these overrides.

    Raises:
        UserError: every complaint about them.
    """
    words = [normalize(word) for word in words]
    with open_composer(None) as composer:
        if found := complaints_about(words, composer, None, multirun=True):
            raise UserError("; ".join(found))
        return [
            build_run(without_hydra(cfg), cfg.hydra.runtime.choices.get("recipe"), run)
            for run in plan_sweep(words, composer).runs
            for cfg in (composer(run),)
        ]


class _Outcome:
    """What became of the runs of this command."""

    def __init__(self, flags: list[str]) -> None:
        self.flags = flags  # without which the words cannot be typed again
        self.folders: list[Path] = []
        self.status = 0
        self.notes: Path | None = None  # what runs in processes of a launcher's own tell
        self.claim: str | None = None

    def run(self, cfg: DictConfig) -> None:
        """Do one run; a failed one does not stop the others."""
        from hydra.core.hydra_config import HydraConfig

        from peftkit import jobs

        hydra = HydraConfig.get()
        self.claim = cfg.claim
        # without Hydra's + they can be typed again
        overrides = [word.lstrip("+") for word in hydra.overrides.task]
        try:
            jobs.run(build_run(cfg, hydra.runtime.choices.get("recipe"), [*self.flags, *overrides]), self.begin)
        except UserError as error:
            self.fail(2, str(error))
        except KeyboardInterrupt:
            self.fail(130, "interrupted; the same command trains on from the last checkpoint")
            if self.notes is None:
                self.end()
        except Exception as error:
            if "PEFTKIT_DEBUG" in os.environ:
                traceback.print_exc()
            self.fail(
                1, f"{error_summary(error)} (PEFTKIT_DEBUG=1 shows the traceback; a run folder keeps it in log.jsonl)"
            )

    def begin(self, folder: Path) -> None:
        """Remember the folder of a run, whatever becomes of it."""
        self.folders.append(folder)
        if self.notes is not None:
            write_status(RunStatus(folder=str(folder.resolve())), self.notes)

    def fail(self, status: int, sentence: str) -> None:
        """Say why a run came to nothing; the first exit code is the command's."""
        print(f"peftkit: {sentence}", file=sys.stderr)
        self.status = self.status or status
        if self.notes is not None:
            write_status(RunStatus(status=status, sentence=sentence), self.notes)

    def end(self) -> NoReturn:
        """Show one table of all runs, of those finished before, failed or still going too, and leave."""
        told, self.notes = [] if self.notes is None else collect_statuses(self.notes), None
        for note in told:
            if note.folder is not None:
                self.folders.append(Path(note.folder))
            else:
                self.fail(note.status, note.sentence)
        if len(self.folders) > 1 or (self.folders and not self.status):  # of one that failed all is said
            from peftkit import jobs

            jobs.finish(self.folders, self.claim)
        sys.exit(self.status)


def _show(text: str) -> NoReturn:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has read enough; the interpreter's own flush at exit must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _refuse(sentences: list[str]) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks for all
        print("\n".join(f"peftkit: {sentence}" for sentence in sentences), file=sys.stderr)
    sys.exit(2)


def _arguments(words: CommandLine, composer: Composer, outcome: _Outcome) -> list[str]:
    """Return what Hydra is to do: show the first run, do the only run, or sweep."""
    sweep = plan_sweep(words.overrides, composer, words.multirun)
    hydra_words = [word for word in words.overrides if word.startswith("hydra")]
    chosen = composer([*sweep.runs[0], *hydra_words])
    if words.shows:
        if len(sweep.runs) > 1:
            print(f"# the first of {len(sweep.runs)} runs: {' '.join(sweep.runs[0])}")
        return [*words.flags, *sweep.runs[0], *hydra_words]
    if "hydra.mode=RUN" not in sweep.words and "BasicLauncher" not in chosen.hydra.launcher._target_:
        outcome.notes, outcome.claim = open_status_folder(Path(chosen.out)), chosen.claim
    return [*words.flags, *sweep.words]


def _hydra(arguments: Sequence[str], outcome: _Outcome) -> None:
    import hydra

    sys.argv = ["peftkit", *arguments]
    hydra.main(config_path=str(paths.conf_folder()), config_name="config", version_base="1.3")(outcome.run)()
