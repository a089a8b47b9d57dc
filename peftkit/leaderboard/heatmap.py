"""A heat map of methods by tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peftkit.leaderboard.figures import COLORS, INK, marked, new_figure, titled
from peftkit.leaderboard.letters import shades
from peftkit.leaderboard.rendering import FLAG, figure, wrapped
from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.verdict import NOT_BETTER, Ranking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LINES, MAX_TASKS = 40, 20


def heatmap_figure(rankings: Sequence[Ranking], entries: Sequence[BoardEntry]) -> Figure:
    """Draw the scores of methods on tasks, baselines last.

    Frames mark those without a significant difference from the best; different shades differ significantly.
    """
    from matplotlib.patches import Rectangle

    tasks, rankings = len(rankings), rankings[:MAX_TASKS]
    table, names = _heat_lines(rankings, entries)
    left_out = f" (the best {len(names)} of {len(table)} entries)" if len(table) > len(names) else ""
    left_out += f" ({len(rankings)} of {tasks} tasks)" if tasks > len(rankings) else ""
    labels = [wrapped(name, 48) for name in names]
    height = len(names) * max(0.26, 0.15 * max(1 + label.count("\n") for label in labels))
    picture = new_figure(3.2 + 0.95 * len(rankings), 1.7 + height, f"{rankings[0].board}{left_out}")
    panel = picture.subplots()
    shade = {
        number: value
        for ranking in rankings
        for number, value in zip(
            ranking.ranked,
            shades([ranking.letters[n] for n in ranking.ranked], [entries[n].score or 0.0 for n in ranking.ranked]),
            strict=True,
        )
    }
    for line, name in enumerate(names):
        for column, number in table[name].items():
            corner, alpha = (column - 0.48, line - 0.46), 0.45 * shade.get(number, 0.0)
            # not add_patch, which computes limits that are set below
            panel.add_artist(Rectangle(corner, 0.96, 0.92, color=COLORS[0], alpha=alpha, lw=0))
            is_top, entry = number in rankings[column].top, entries[number]
            text = marked(figure(entry, entry.score or 0.0), entry)
            style: Any = {
                "fontweight": "bold" if is_top else "normal",
                "style": "italic" if entry.is_baseline else "normal",
            }
            panel.text(column, line, text, ha="center", va="center", fontsize=7.5, **style)
            if is_top:
                panel.add_artist(Rectangle((column - 0.46, line - 0.44), 0.92, 0.88, fill=False, lw=1.3, ec=INK))
    panel.set(xlim=(-0.5, len(rankings) - 0.5), ylim=(len(names) - 0.5, -0.5))
    panel.set_xticks(range(len(rankings)), [wrapped(titled(ranking, entries), 14) for ranking in rankings])
    panel.set_yticks(range(len(names)), labels)
    panel.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False, labelcolor=INK)
    panel.spines[:].set_visible(False)
    picture.supxlabel(wrapped(_heat_caption(rankings, entries), int(15 * picture.get_figwidth())), fontsize=8)
    return picture


def _heat_lines(
    rankings: Sequence[Ranking], entries: Sequence[BoardEntry]
) -> tuple[dict[str, dict[int, int]], list[str]]:
    """Return the entry of each line and column (task), and the names of the lines to draw, best first."""
    table: dict[str, dict[int, int]] = {}
    scaled: dict[int, float] = {}
    for column, ranking in enumerate(rankings):
        scores = {number: entries[number].score or 0.0 for number in ranking.ranked}
        low, high = min(scores.values()), max(scores.values())
        scaled |= {number: (score - low) / (high - low) if high > low else 1.0 for number, score in scores.items()}
        for number in [*ranking.ranked, *ranking.baselines]:
            table.setdefault(entries[number].label, {})[column] = number
    methods = {name: cells for name, cells in table.items() if not entries[next(iter(cells.values()))].is_baseline}
    rank_score = {
        name: sum(scaled[n] for n in cells.values()) / len(cells) + len(cells) for name, cells in methods.items()
    }
    names = sorted(methods, key=lambda name: -rank_score[name])[:MAX_LINES]
    return table, [*names, *(name for name in table if name not in methods)]


def _heat_caption(rankings: Sequence[Ranking], entries: Sequence[BoardEntry]) -> str:
    if not any(ranking.is_tested for ranking in rankings):
        return "Framed: the best mean of the task; differences were not tested"
    caption = (
        "Framed: no significant difference from the best of the task. Deeper shades are significantly better; entries "
        "of one shade do not differ significantly, directly or through others."
    )
    ranked = [entries[number] for ranking in rankings for number in ranking.ranked]
    return caption + (f" †: {FLAG}." if any(entry.against_baseline == NOT_BETTER for entry in ranked) else "")
