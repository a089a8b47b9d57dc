"""A plot of score against trained parameters, a panel for each task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, cycle, product
from typing import TYPE_CHECKING

from peftkit.leaderboard.costs import amount
from peftkit.leaderboard.figures import COLORS, INK, MUTED, marked, new_figure, titled
from peftkit.leaderboard.rendering import FLAG, wrapped
from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.verdict import NOT_BETTER, Ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "D", "^", "s", "P", "*")
COST = "trainable_params"
MAX_PANELS, MAX_POINTS = 9, 30  # tasks, entries per panel
MIN_GAP = 0.06  # between the names of two lines, as a share of the panel
LINE_STYLES = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)))  # of baselines
LABEL_OFFSETS = [(side * 0.02, dy, "left" if side > 0 else "right") for dy in (-0.02, 0.025, -0.08) for side in (1, -1)]


def pareto_figure(rankings: Sequence[Ranking], entries: Sequence[BoardEntry]) -> Figure:
    """Draw a panel for each task: scores with their 95 % intervals, the Pareto front, and the baselines."""
    shown = rankings[:MAX_PANELS]
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    left_out = f" ({len(shown)} of {len(rankings)} tasks)" if len(rankings) > len(shown) else ""
    picture = new_figure(0.6 + 3.3 * columns, 0.6 + 2.6 * lines, f"{rankings[0].board}{left_out}")
    panels = picture.subplots(lines, columns, squeeze=False).ravel()
    methods = sorted({entries[number].method for ranking in shown for number in ranking.ranked})
    styles = dict(zip(methods, cycle(product(MARKERS, COLORS)), strict=False))
    for panel, ranking in zip(panels, shown, strict=False):
        _panel(panel, ranking, entries, styles)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    picture.supylabel("Score", fontsize=8)
    ranked = [entries[number] for ranking in shown for number in ranking.ranked]
    caption = "Trained parameters; filled and connected: Pareto-optimal means; bars: 95 % intervals; broken: baselines"
    caption += f"; †: {FLAG}" if any(entry.against_baseline == NOT_BETTER for entry in ranked) else ""
    picture.supxlabel(wrapped(caption, int(15 * picture.get_figwidth())), fontsize=8)
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
    panel.set_title(wrapped(f"{titled(ranking, entries)}{rest}", 46), loc="left", fontsize=9)
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
        if entry.interval is not None:
            ends = [(100 if entry.greater_is_better else -1) * end for end in entry.interval]
            panel.plot([cost, cost], ends, color=color, alpha=0.5, lw=1.2)
        filled = color if number in front else "white"
        panel.plot(cost, score, marker, color=color, markerfacecolor=filled, markersize=4.5)
    _draw_baselines(panel, [entries[number] for number in ranking.baselines])
    panel.step(*zip(*(points[number] for number in front), strict=True), where="post", color=INK, lw=0.8)
    if not entries[ranking.ranked[0]].greater_is_better:
        panel.invert_yaxis()  # so that better is up for an error too
    names = {number: marked(entries[number].label, entries[number]) for number in points}
    _label_points(panel, points, names, front)


def _draw_baselines(panel: Axes, baselines: Sequence[BoardEntry]) -> None:
    """Draw a line for the best baseline of each kind; at its right end its name, with those of lines just below."""
    best = {entry.method: entry for entry in sorted(baselines, key=lambda entry: entry.score or 0.0)}
    lines = {name: (100 if each.greater_is_better else -1) * (each.score or 0.0) for name, each in best.items()}
    for score, style in zip(lines.values(), cycle(LINE_STYLES), strict=False):
        panel.axhline(score, color=MUTED, lw=0.9, linestyle=style)
    low, high = panel.get_ylim()
    named: dict[float, list[str]] = {}
    for name, score in sorted(lines.items(), key=lambda line: -line[1]):
        near = next((each for each in named if abs(each - score) < MIN_GAP * abs(high - low)), score)
        named.setdefault(near, []).append(name)
    for score, names in named.items():
        panel.annotate(
            ", ".join(names), (1, score), xycoords=("axes fraction", "data"), xytext=(-2, 2),
            textcoords="offset points", ha="right", fontsize=6.5, color=MUTED, style="italic",
        )  # fmt: skip


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
