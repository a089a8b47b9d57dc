"""The runs of one command: each run's job, its failures, and the table and exit code at the end."""

from __future__ import annotations

import os
import shlex
import sys
import time
import traceback
from dataclasses import replace
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.cli.compose import build_run
from peftkit.cli.side_runs import SideRuns
from peftkit.cli.sweep_status import (
    RunStatus,
    collect_statuses,
    describe_start,
    ended_with_command,
    failure,
    time_left,
    write_status,
)
from peftkit.config import UserError, error_summary
from peftkit.config.console import is_main_process, log, log_assumptions, number_of_processes
from peftkit.config.errors import BusyError, ExportError
from peftkit.config.imports import end_imports
from peftkit.config.jobs import JOBS
from peftkit.config.json_files import read_json
from peftkit.config.progress import shown_progress, stage
from peftkit.config.quoting import as_override
from peftkit.config.sections import EACH
from peftkit.config.shared import drop_shared
from peftkit.config.signals import exit_code, interruptible
from peftkit.config.write_failures import write_failure
from peftkit.jobs.sequential import SequentialSeeds
from peftkit.jobs.workers import with_workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from omegaconf import DictConfig

    from peftkit.config import RunConfig
    from peftkit.jobs.plan_record import Plan

WITHOUT_MODEL = ("trial", "task.folds", "task.fold", "domains.leave_out")  # keys of runs that keep no model


class SweepRunner:
    """Runs the jobs of one command and collects their folders and failures.

    A launcher pickles it and calls `run` in processes of its own, which report by files in `status_folder`.
    """

    def __init__(self, flags: list[str]) -> None:
        self.flags = flags  # -cd DIR, without which the overrides are not complete
        self.command: list[str] = []  # as typed
        self.folders: list[Path] = []
        self.exit_code = 0
        self.status_folder: Path | None = None
        self.claim: str | None = None
        self.out, self.number_of_runs = "outputs", 1
        self.auto_workers = 1  # the number of workers=auto
        self.started = 0  # runs, in this process
        self.seconds: list[float] = []  # of each run that ended
        self.plans: list[tuple[RunConfig, Plan]] = []  # of job=plan
        self.side_runs: SideRuns | None = None
        self.postponed: list[RunConfig] = []  # runs that another command trains
        self.sequential: SequentialSeeds | None = None

    def run(self, cfg: DictConfig) -> float:
        """Run one job and return its score for a sweeper that optimizes it; a failed one does not stop the others.

        A run of a sweep that another command trains comes last.
        """
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        self.claim = cfg.claim
        # without Hydra's + the overrides can be typed again
        overrides = [*self.flags, *(override.lstrip("+") for override in hydra.overrides.task)]
        config_dir = self.flags[1] if self.flags else None

        def start() -> float:
            config = build_run(cfg, hydra.runtime.choices.get("recipe"), overrides, config_dir)
            config = with_workers(config, self.number_of_runs, self.auto_workers)
            if config.workers is None:
                return self._run_job(config, waits=not self._may_postpone)
            self.side_runs = self.side_runs or SideRuns(
                self.number_of_runs, self.record_folder, self.fail, self.sequential
            )
            self.side_runs.submit(config)
            return float("-inf")

        with interruptible(), ended_with_command(self.status_folder):
            return self._run(start)

    @property
    def _may_postpone(self) -> bool:
        is_sweep = self.number_of_runs > 1 and self.status_folder is None and self.sequential is None
        return is_sweep and number_of_processes() == 1

    def _run(self, start: Callable[[], float]) -> float:
        """Return the score of a run that is started, -inf where it fails."""
        try:
            return start()
        except UserError as error:
            self.fail(2, str(error))
        except KeyboardInterrupt as error:
            self._interrupt(error)
            if self.status_folder is None:
                sys.exit(self.finish())
        except Exception as error:
            if "PEFTKIT_DEBUG" in os.environ:
                traceback.print_exc()
            failed = error if isinstance(error, ExportError) else write_failure(error, Path(self.out))
            folder = self.folders[-1] if self.folders else None
            self.fail(*((1, str(failed)) if failed is not None else failure(error_summary(error), folder)))
        return float("-inf")

    def _run_job(self, config: RunConfig, waits: bool) -> float:
        from peftkit import api

        with shown_progress(not config.train.get("disable_tqdm", False)):
            _import_job(config.job)
            self._announce(config)
            started, found = time.monotonic(), None
            if config.job == "plan":
                self._plan(config)
            else:
                try:
                    found = api.run_job(config, self.record_folder, self.sequential, waits)
                except BusyError as error:
                    log(f"{error.args[0].partition(';')[0]}; this run comes last")
                    self.postponed.append(config)
                    return float("-inf")
            log_assumptions()
            self.seconds.append(time.monotonic() - started)
        from peftkit.jobs.leaderboard import selection_score

        return selection_score(found)

    def wait(self) -> None:
        """Wait for the runs that train side by side, and for those that other commands train."""
        try:
            if self.side_runs is not None:
                self.side_runs.wait()
        except KeyboardInterrupt as error:
            self._interrupt(error)
            return
        for config in self.postponed:
            self._run(partial(self._run_job, config, waits=True))

    def _interrupt(self, error: KeyboardInterrupt) -> None:
        number = 0 if self.side_runs is None else self.side_runs.running
        runs = f"; the {number} runs that are training end" if number else ""
        self.fail(exit_code(error), f"interrupted{runs}; the same command resumes from the last checkpoint")
        self.exit_code = exit_code(error)  # also where a run failed before
        if self.side_runs is not None:
            self.side_runs.stop()

    def _announce(self, config: RunConfig) -> None:
        """Log which run of a sweep starts, and how long the remaining ones take if they are like those before.

        A launcher's processes do not know each other's runs.
        """
        self.started += 1
        if self.number_of_runs == 1 or self.status_folder is not None:
            return
        left = time_left(self.seconds, self.number_of_runs - self.started + 1)
        log(describe_start(config, self.started, self.number_of_runs, left))

    def _plan(self, config: RunConfig) -> None:
        """Plan a run; runs that differ in the seed only are planned once."""
        from peftkit import api
        from peftkit.jobs.plan_record import of_other_seed
        from peftkit.jobs.plan_table import show_plans

        same = (replace(config, seed=other.seed, overrides=other.overrides) == other for other, _ in self.plans)
        known = next((plan for (_, plan), is_same in zip(self.plans, same, strict=True) if is_same), None)
        drop_shared()  # each run is planned as if it were alone
        plan = api.run_job(config) if known is None else of_other_seed(known, config.seed)
        self.plans.append((config, plan))
        if self.status_folder is not None:  # a launcher's process does not know the others
            show_plans([plan])

    def record_folder(self, folder: Path) -> None:
        """Record the folder of a run that starts, so that a failed run is shown too."""
        self.folders.append(folder)
        if self.status_folder is not None:
            write_status(RunStatus(folder=str(folder.resolve())), self.status_folder)

    def fail(self, exit_code: int, message: str) -> None:
        """Print why a run failed; the first exit code is the command's."""
        if is_main_process():
            print(f"peftkit: {message}", file=sys.stderr)
        self.exit_code = self.exit_code or exit_code
        if self.status_folder is not None:
            write_status(RunStatus(exit_code=exit_code, message=message), self.status_folder)

    def finish(self) -> int:
        """Print one table of all runs, skipped, failed and unfinished ones included; return the exit code."""
        statuses, self.status_folder = [] if self.status_folder is None else collect_statuses(self.status_folder), None
        for status in statuses:
            if status.folder is not None:
                self.folders.append(Path(status.folder))
            else:
                self.fail(status.exit_code, status.message)
        if self.plans:
            from peftkit.jobs.plan_table import show_plans

            show_plans([plan for _, plan in self.plans])
        if len(self.folders) > 1 or (self.folders and not self.exit_code):  # the failure of a single run is printed
            from peftkit.jobs.leaderboard import show_runs

            show_runs(self.folders, self.claim)
            if len(self.folders) == 1:
                from peftkit.jobs.report import show_report

                show_report(self.folders[0])
            if not self.exit_code:
                log(f"next: python -m peftkit {shlex.join(self._extended_search() or self._next_overrides())}")
        return self.exit_code

    def _extended_search(self) -> list[str]:
        """Return the command with the grids of a search extended, where the best value of a run is at an end of one."""
        files = (folder / "result.json" for folder in self.folders)
        results = [read_json(file, "") for file in files if file.is_file()]
        grids: dict[str, set] = {}
        for result in results:
            for key, values in ((result.get("search") or {}).get("extended") or {}).items():
                grids.setdefault(key, set()).update(values)
        kept = [each for each in self.command if each.lstrip("+").partition("=")[0] not in grids]
        return [*kept, *(f"{key}={as_override(sorted(values))}" for key, values in grids.items())] if grids else []

    def _next_overrides(self) -> list[str]:
        """Return the command that most users type after this one; a run without a model is trained on all examples."""
        code = [each for each in self.command if each.lstrip("+").startswith("allow_code=")]  # typed with every command
        if len(self.folders) > 1:
            return ["job=leaderboard", f"out={as_override(self.out)}", *code]
        file = self.folders[0] / "result.json"
        result = read_json(file, "") if file.is_file() else {}
        config = result["run"]["config"] if result else {}
        folds = (config.get("task") or {}).get("folds")
        leaves_each_out = (config.get("domains") or {}).get("leave_out") == EACH
        if config.get("trial") or folds is not None or leaves_each_out:
            typed = {each.lstrip("+").partition("=")[0]: each for each in self.command}
            is_of_recipe = folds is not None and "task.folds" not in typed
            kept = [each for key, each in typed.items() if key not in WITHOUT_MODEL]
            return [*kept, "task.folds=null"] if is_of_recipe else kept
        parts = [each["folder"] for each in (result.get("tasks") or {}).values()]  # of several tasks
        folder = self.folders[0].joinpath(*parts[:1])
        answers_messages = (config.get("task") or {}).get("kind") == "instructions"
        use = ["job=chat"] if answers_messages else ["job=predict", "input=FILE"]
        return [use[0], f"run={as_override(folder)}", *use[1:], *code]


@lru_cache(maxsize=1)
def _import_job(job: str) -> None:
    """Import what a job needs, and fork the process that verifies saved models before any of it is used."""
    is_new_process = "torch" not in sys.modules
    with stage("importing the libraries"):
        import_module(JOBS[job].entry.partition(":")[0])
    end_imports()
    if is_new_process and "peftkit.jobs.finetune" in sys.modules:
        from peftkit.jobs.finetune import fork_verifier

        fork_verifier()
