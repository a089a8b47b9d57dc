"""A board: its entries, tests and figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.leaderboard.baselines import with_baselines
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardEntry, BoardRun, UnreadableRun
from peftkit.leaderboard.stats import board_entries
from peftkit.leaderboard.verdict import NOT_TESTED, Verdict, compare_entries, outcome

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Board:
    """Runs compared: all seeds of one method, with one set of settings, on one task are one entry."""

    runs: tuple[BoardRun | UnreadableRun, ...]

    @classmethod
    def read(cls, folders: Iterable[Path]) -> Board:
        """Return the board of all runs in and below these folders."""
        return cls(tuple(collect(folders)))

    @cached_property
    def entries(self) -> list[BoardEntry]:
        """One entry for each method, its settings, and task; after those of a task its baselines."""
        outcomes = {c.first: outcome(c) for c in self.verdict().against_baseline}
        return [
            replace(
                entry,
                interval=self.verdict().intervals.get(number),
                against_baseline=outcomes.get(
                    number, NOT_TESTED if entry.is_ranked and entry.constant_baseline else ""
                ),
            )
            for number, entry in enumerate(self._compared[0])
        ]

    @cached_property
    def _compared(self) -> tuple[list[BoardEntry], Verdict]:
        entries = with_baselines(board_entries(self.runs))
        return entries, compare_entries(entries, self.runs)

    def verdict(self) -> Verdict:
        """Return the tests of all pairs of entries: significant and minimum detectable differences."""
        return self._compared[1]

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each entry, baselines too: names, metrics, score, interval, seeds, letters of groups, costs.

        `against_baseline` is better, not better or not tested.
        """
        import pandas as pd

        names = ("board", "task", "model", "method", "settings", "is_baseline", "score", "against_baseline")
        return pd.DataFrame(
            {name: getattr(entry, name) for name in names}
            | dict(zip(("low", "high"), entry.interval or (None, None), strict=True))
            | {name: summary.mean for name, summary in entry.scores.items()}
            | {f"{name}_std": summary.spread for name, summary in entry.scores.items()}
            | {"seeds": 0 if entry.is_baseline else len(entry.seeds), "group": group, **entry.costs}
            for entry, group in zip(self.entries, self.verdict().groups, strict=True)
        )

    def plot(self) -> Figure:
        """Return the figure of scores over trained weights, of the first board that has any score.

        Raises:
            ValueError: no entry has a score.
        """
        from peftkit.leaderboard.plots import plot_pareto

        return plot_pareto(self.entries, self.verdict().groups)
