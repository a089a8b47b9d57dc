"""Two plots of the first board: score against trained parameters, and a heat map of methods by tasks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import accumulate, cycle, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.leaderboard.costs import amount
from peftkit.leaderboard.rendering import figure, plain
from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.verdict import Ranking, rank_tasks
from peftkit.paths import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), darkest first; distinguishable with every kind of color vision
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A900")
MARKERS = ("o", "D", "^", "s", "P", "*")
COST = "trainable_params"
MAX_PANELS, MAX_POINTS, MAX_LINES, MAX_TITLE = 9, 30, 40, 28  # tasks, entries per panel, heat map lines, letters
LABEL_OFFSETS = [(side * 0.02, dy, "left" if side > 0 else "right") for dy in (-0.02, 0.025, -0.08) for side in (1, -1)]
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
        for name, picture in (("pareto", _pareto(rankings, entries)), ("heatmap", _heatmap(rankings, entries))):
            with atomic_write(folder / f"{name}.png") as part:
                picture.savefig(part, format="png", dpi=160)
            picture.set_layout_engine("none")  # keep the layout; computing it again takes a second
            with atomic_write(folder / f"{name}.svg") as part:
                picture.savefig(part, format="svg", metadata={"Date": None})


def pareto_figure(entries: Sequence[BoardEntry], groups: Sequence[str]) -> Figure:
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
        return _pareto(rankings, entries)


def _figure(width: float, height: float, title: str) -> Figure:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(width, height), layout="constrained")
    color = "#a63d00" if title.startswith("OFFLINE") else INK
    picture.suptitle(_short(title, 110), x=0.01, ha="left", fontsize=9, color=color)
    return picture


def _pareto(rankings: Sequence[Ranking], entries: Sequence[BoardEntry]) -> Figure:
    """Draw a panel for each task: scores with their spread over seeds, and the Pareto front."""
    shown = rankings[:MAX_PANELS]
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    left_out = f" ({len(shown)} of {len(rankings)} tasks)" if len(rankings) > len(shown) else ""
    picture = _figure(0.6 + 3.3 * columns, 0.6 + 2.6 * lines, f"{rankings[0].board}{left_out}")
    panels = picture.subplots(lines, columns, squeeze=False).ravel()
    methods = sorted({entries[number].method for ranking in shown for number in ranking.ranked})
    styles = dict(zip(methods, cycle(product(MARKERS, COLORS)), strict=False))
    for panel, ranking in zip(panels, shown, strict=False):
        _panel(panel, ranking, entries, styles)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    picture.supylabel("Score", fontsize=8)
    caption = "Trained parameters; filled and connected: Pareto-optimal means; bars: standard deviation"
    picture.supxlabel(caption, fontsize=8)
    return picture


def _panel(panel: Axes, ranking: Ranking, entries: Sequence[BoardEntry], styles: Mapping[str, tuple[str, str]]) -> None:
    """Draw the Pareto front and the best other entries, MAX_POINTS at most; `styles` has marker and color."""
    from matplotlib.ticker import NullLocator

    known = [number for number in ranking.ranked if entries[number].costs.get(COST, 0) > 0]
    front = _front(known, entries)
    chosen = [*front, *(number for number in known if number not in front)][: max(MAX_POINTS, len(front))]
    points = {  # cost and score
        number: (
            entries[number].costs[COST],
            (100 if entries[number].greater_is_better else -1) * (entries[number].score or 0.0),
        )
        for number in chosen
    }
    rest = f", {len(points)} of {len(ranking.ranked)} entries" if len(points) < len(ranking.ranked) else ""
    panel.set_title(f"{_short(ranking.task, MAX_TITLE)}{rest}", loc="left", fontsize=9)
    if not points:
        panel.set_axis_off()
        return
    least, most = min(cost for cost, _ in points.values()), max(cost for cost, _ in points.values())
    margin = (most / least) ** 0.16 if most > least else 3.0  # for labels, and where all costs are equal
    panel.set(xscale="log", axisbelow=True, xlim=(least / margin, most * margin))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(lambda value, _: amount(value))
    panel.grid(color="#dedad0", linewidth=0.5)
    panel.margins(y=0.12)
    for number, (cost, score) in reversed(points.items()):
        entry = entries[number]
        marker, color = styles[entry.method]
        spread = (100 if entry.greater_is_better else 1) * (entry.spread or 0.0)
        panel.plot([cost, cost], [score - spread, score + spread], color=color, alpha=0.5, lw=1.2)
        filled = color if number in front else "white"
        panel.plot(cost, score, marker, color=color, markerfacecolor=filled, markersize=4.5)
    panel.step(*zip(*(points[number] for number in front), strict=True), where="post", color=INK, lw=0.8)
    if not entries[ranking.ranked[0]].greater_is_better:
        panel.invert_yaxis()  # so that better is up for an error too
    _label_points(panel, points, {number: _short(entries[number].method, 16) for number in points}, front)


def _front(known: Sequence[int], entries: Sequence[BoardEntry]) -> list[int]:
    """Return the positions of the Pareto-optimal entries, cheapest first."""
    scores = {number: entries[number].score or 0.0 for number in known}
    order = sorted(known, key=lambda number: (entries[number].costs[COST], -scores[number]))
    best = accumulate((scores[number] for number in order), max, initial=-math.inf)
    return [number for number, before in zip(order, best, strict=False) if scores[number] > before]


def _label_points(
    panel: Axes, points: Mapping[int, tuple[float, float]], names: Mapping[int, str], front: Sequence[int]
) -> None:
    """Label the points, those of the front first, each at a position without points and other labels."""
    from matplotlib.patheffects import withStroke

    # positions as shares of the panel; a letter is about 0.022 wide, a line 0.06 high
    (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
    positions = {
        number: (math.log(cost / left) / math.log(right / left), (score - low) / (high - low))
        for number, (cost, score) in points.items()
    }
    # the outside of the panel, and the points
    occupied = [(-9.0, -9.0, 0.0, 9.0), (1.05, -9.0, 9.0, 9.0), (-9.0, -9.0, 9.0, 0.0), (-9.0, 1.02, 9.0, 9.0)]
    occupied += [(x - 0.015, y - 0.02, x + 0.015, y + 0.02) for x, y in positions.values()]
    for number, (x, y) in positions.items():
        width = 0.022 * len(names[number])
        for dx, dy, side in LABEL_OFFSETS:
            start = x + dx if side == "left" else x + dx - width
            area = (start, y + dy, start + width, y + dy + 0.06)
            if any(t[0] < area[2] and area[0] < t[2] and t[1] < area[3] and area[1] < t[3] for t in occupied):
                continue
            occupied.append(area)
            panel.text(
                x + dx, y + dy + 0.005, names[number], transform=panel.transAxes, ha=side, fontsize=6.5,
                color=INK if number in front else MUTED, path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
            break


def _heatmap(rankings: Sequence[Ranking], entries: Sequence[BoardEntry]) -> Figure:
    """Draw the scores of methods on tasks; frames mark those without a significant difference from the best."""
    from matplotlib.patches import Rectangle

    table: dict[str, dict[int, int]] = {}
    shades: dict[int, float] = {}
    for column, ranking in enumerate(rankings):
        scores = {number: entries[number].score or 0.0 for number in ranking.ranked}
        low, high = min(scores.values()), max(scores.values())
        for number, score in scores.items():
            shades[number] = (score - low) / (high - low) if high > low else 1.0
            table.setdefault(entries[number].label, {})[column] = number
    rank_score = {
        name: sum(shades[n] for n in cells.values()) / len(cells) + len(cells) for name, cells in table.items()
    }
    names = sorted(table, key=lambda name: -rank_score[name])[:MAX_LINES]
    left_out = f" (the best {len(names)} of {len(table)} entries)" if len(table) > len(names) else ""
    picture = _figure(2.6 + 0.75 * len(rankings), 1.2 + 0.26 * len(names), f"{rankings[0].board}{left_out}")
    panel = picture.subplots()
    for line, name in enumerate(names):
        for column, number in table[name].items():
            corner, alpha = (column - 0.48, line - 0.46), 0.45 * shades[number]
            panel.add_patch(Rectangle(corner, 0.96, 0.92, color=COLORS[0], alpha=alpha, lw=0))
            is_top = number in rankings[column].top
            weight: Any = "bold" if is_top else "normal"
            text = figure(entries[number], entries[number].score or 0.0)
            panel.text(column, line, text, ha="center", va="center", fontsize=7.5, fontweight=weight)
            if is_top:
                panel.add_patch(Rectangle((column - 0.46, line - 0.44), 0.92, 0.88, fill=False, lw=1.3, ec=INK))
    panel.set(xlim=(-0.5, len(rankings) - 0.5), ylim=(len(names) - 0.5, -0.5))
    panel.set_xticks(range(len(rankings)), [_short(ranking.task, 12) for ranking in rankings])
    panel.set_yticks(range(len(names)), [_short(name, 36) for name in names])
    panel.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False, labelcolor=INK)
    panel.spines[:].set_visible(False)
    framed = "the best mean of the task; differences were not tested"
    if any(ranking.is_tested for ranking in rankings):
        framed = "no significant difference from the best of the task"
    picture.supxlabel(f"Framed: {framed}", fontsize=8)
    return picture


def _short(text: str, most: int) -> str:
    return plain(text) if len(text) <= most else f"{plain(text)[: most - 1]}…"
