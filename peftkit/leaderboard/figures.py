"""Style, titles and labels of the plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peftkit.leaderboard.rendering import score_name, wrapped
from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.verdict import NOT_BETTER, Ranking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito (2008), darkest first; distinguishable with every kind of color vision
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A900")
INK, MUTED = "#1c1b18", "#65625a"
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # text of a run may contain a dollar sign
    "svg.hashsalt": "peftkit",  # equal entries give equal files
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return an empty figure with a title, colored where it is of offline substitutes."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(width, height), layout="constrained")
    color = "#a63d00" if title.startswith("OFFLINE") else INK
    picture.suptitle(wrapped(title, int(13 * width)), x=0.01, ha="left", fontsize=9, color=color)
    return picture


def titled(ranking: Ranking, entries: Sequence[BoardEntry]) -> str:
    """Return the task, with what its score is where it is the mean of several metrics."""
    of = score_name(entries[ranking.ranked[0]])
    return f"{ranking.task} ({of})" if of.startswith("mean of ") else ranking.task


def marked(text: str, entry: BoardEntry) -> str:
    """Return a text with a dagger where the entry is not better than its baseline."""
    return f"{text} †" if entry.against_baseline == NOT_BETTER else text
