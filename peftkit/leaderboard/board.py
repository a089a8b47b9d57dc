"""A board: its entries, tests and figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardEntry, BoardRun, UnreadableRun
from peftkit.leaderboard.stats import board_entries
from peftkit.leaderboard.verdict import Verdict, compare_entries

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
        """One entry for each method, its settings, and task."""
        return board_entries(self.runs)

    @cached_property
    def _verdict(self) -> Verdict:
        return compare_entries(self.entries, self.runs)

    def verdict(self) -> Verdict:
        """Return the tests of all pairs of entries: significant and minimum detectable differences."""
        return self._verdict

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each entry: names, mean and spread of each metric, seeds, letters of groups, costs."""
        import pandas as pd

        return pd.DataFrame(
            {name: getattr(entry, name) for name in ("board", "task", "model", "method", "settings")}
            | {name: summary.mean for name, summary in entry.scores.items()}
            | {f"{name}_std": summary.spread for name, summary in entry.scores.items()}
            | {"seeds": len(entry.seeds), "group": group, **entry.costs}
            for entry, group in zip(self.entries, self.verdict().groups, strict=True)
        )

    def plot(self) -> Figure:
        """Return the figure of scores over trained weights, of the first board that has any score.

        Raises:
            ValueError: no entry has a score.
        """
        from peftkit.leaderboard.plots import pareto_figure

        return pareto_figure(self.entries, self.verdict().groups)
