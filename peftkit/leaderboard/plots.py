"""Two plots of the first board: score against trained parameters, and a heat map of methods by tasks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.leaderboard.figures import STYLE
from peftkit.leaderboard.heatmap import heatmap_figure
from peftkit.leaderboard.pareto import pareto_figure
from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.verdict import rank_tasks
from peftkit.paths import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_plots(entries: Sequence[BoardEntry], groups: Sequence[str], folder: Path) -> None:
    """Write pareto.png, pareto.svg, heatmap.png and heatmap.svg of the first board; boards of real data come first.

    If no entry has a score, the plots of an earlier board are removed.
    """
    rankings = [
        ranking for ranking in rank_tasks(entries, groups) if ranking.board == entries[0].board and ranking.ranked
    ]
    if not rankings:
        for name in ("pareto.png", "pareto.svg", "heatmap.png", "heatmap.svg"):
            (folder / name).unlink(missing_ok=True)
        return
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names in other scripts become boxes
        for name, picture in (
            ("pareto", pareto_figure(rankings, entries)),
            ("heatmap", heatmap_figure(rankings, entries)),
        ):
            with atomic_write(folder / f"{name}.png") as part:
                picture.savefig(part, format="png", dpi=160)
            picture.set_layout_engine(None)  # keep the layout; with "none" the figure would be drawn twice
            with atomic_write(folder / f"{name}.svg") as part:
                picture.savefig(part, format="svg", metadata={"Date": None})


def plot_pareto(entries: Sequence[BoardEntry], groups: Sequence[str]) -> Figure:
    """Return the figure of scores over trained weights, of the first board.

    Raises:
        ValueError: no entry has a score.
    """
    import matplotlib

    rankings = [
        ranking for ranking in rank_tasks(entries, groups) if ranking.board == entries[0].board and ranking.ranked
    ]
    if not rankings:
        raise ValueError("no entry has a score, so there is nothing to plot")
    with matplotlib.rc_context(STYLE):
        return pareto_figure(rankings, entries)
