"""Sequential seeds: the runs of a command that the verdict does not need are recorded as skipped instead of trained."""

from dataclasses import replace
from pathlib import Path

from peftkit.config import RunConfig, UserError, refusal
from peftkit.config.console import log
from peftkit.leaderboard.sequential import FIRST_LOOK, settled_runs


class SequentialSeeds:
    """Decides before each run of a command whether its seed is still needed; all runs of a seed precede the next seed.

    A decision depends on the runs of earlier seeds alone and is recorded in the folder of the run, so that a command
    that was interrupted goes on with the same decisions.

    Args:
        planned: the number of seeds of the command.

    Raises:
        UserError: they end before the first look.
    """

    def __init__(self, planned: int) -> None:
        if planned <= FIRST_LOOK:
            wrong = f"sequential_seeds=true decides after {FIRST_LOOK} seeds, of {planned}"
            raise UserError(refusal(wrong, "seed=range(5)", "~sequential_seeds"))
        self.planned = planned
        self.begun: list[int] = []  # seeds
        self.ended: dict[Path, RunConfig] = {}  # the entry of each run, by folder
        self.settled: list[RunConfig] = []  # entries
        self.reasons: list[str] = []  # of these

    def begin(self, config: RunConfig) -> str | None:
        """Return why a run is not needed, None if it is; the first run of a seed looks at those of the earlier ones."""
        if config.seed not in self.begun:
            if len(self.begun) >= FIRST_LOOK:
                self._look()
            self.begun.append(config.seed)
        entry = _entry_of(config)
        return self.reasons[self.settled.index(entry)] if entry in self.settled else None

    def skip(self, config: RunConfig, reason: str | None) -> Path | None:
        """Return the folder of a run that is not needed, with a record of that; None for a run that is needed."""
        from peftkit.jobs.finetune import skipped_run

        return None if len(self.begun) <= FIRST_LOOK else skipped_run(config, reason)

    def add(self, config: RunConfig, folder: Path) -> None:
        """Add a run that has ended, or was skipped."""
        self.ended[folder] = _entry_of(config)

    def _look(self) -> None:
        """Add the entries that are settled by the seeds so far."""
        count = len(self.begun)
        for folder in settled_runs([*self.ended], count):
            if (entry := self.ended[folder]) not in self.settled:
                self.settled.append(entry)
                self.reasons.append(f"stopped after {count} of {self.planned} seeds: significantly below the best")
        log(f"after {count} of {self.planned} seeds: entries that need no further one: {len(self.settled)}")


def _entry_of(config: RunConfig) -> RunConfig:
    """Return what the seeds of an entry share."""
    return replace(config, seed=0, overrides=())
