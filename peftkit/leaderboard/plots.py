"""Two plots of the first board: score against trained parameters, and a heat map of methods by tasks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.leaderboard.cells import figure
from peftkit.leaderboard.costs import amount
from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.verdict import Ranking, rank_tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), darkest first; distinguishable with every kind of color vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A900")
MARKERS = ("o", "D", "^", "s", "P", "*")
COST = "trainable_params"
PANELS, DOTS, LINES, NAMED = 9, 30, 40, 28  # tasks of a figure, entries of a panel, lines of the heat map, letters
PLACES = [(side * 0.02, rise, "left" if side > 0 else "right") for rise in (-0.02, 0.025, -0.08) for side in (1, -1)]
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
    rankings = [cell for cell in rank_tasks(entries, groups) if cell.board == entries[0].board and cell.ranked]
    names = ("pareto", "heatmap")
    if not rankings:
        for name in names:
            for ending in ("png", "svg"):
                (folder / f"{name}.{ending}").unlink(missing_ok=True)
        return
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names in other scripts become boxes
        for name, picture in zip(names, (_pareto(rankings, entries), _heatmap(rankings, entries)), strict=True):
            picture.savefig(folder / f"{name}.png", dpi=160)
            picture.set_layout_engine("none")  # keep the layout; computing it again takes a second
            picture.savefig(folder / f"{name}.svg", metadata={"Date": None})


def pareto_figure(entries: Sequence[BoardEntry], groups: Sequence[str]) -> Figure:
    """Return the figure of scores over trained weights, of the first board.

    Raises:
        ValueError: no entry has a score.
    """
    import matplotlib

    rankings = [cell for cell in rank_tasks(entries, groups) if cell.board == entries[0].board and cell.ranked]
    if not rankings:
        raise ValueError("no entry has a score, so there is nothing to plot")
    with matplotlib.rc_context(STYLE):
        return _pareto(rankings, entries)


def _figure(width: float, height: float, title: str) -> Figure:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(width, height), layout="constrained")
    picture.suptitle(_short(title, 110), x=0.01, ha="left", fontsize=9, color="#a63d00" if _is_offline(title) else INK)
    return picture


def _is_offline(title: str) -> bool:
    return title.startswith("OFFLINE")


def _pareto(rankings: Sequence[Ranking], entries: Sequence[BoardEntry]) -> Figure:
    """Draw a panel for each task: scores with their spread over seeds, and the Pareto front."""
    shown = rankings[:PANELS]
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    left_out = f" ({len(shown)} of {len(rankings)} tasks)" if len(rankings) > len(shown) else ""
    picture = _figure(0.6 + 3.3 * columns, 0.6 + 2.6 * lines, f"{rankings[0].board}{left_out}")
    panels = picture.subplots(lines, columns, squeeze=False).ravel()
    methods = sorted({entries[number].method for cell in shown for number in cell.ranked})
    for panel, cell in zip(panels, shown, strict=False):
        _panel(panel, cell, entries, methods)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    picture.supylabel("Score", fontsize=8)
    picture.supxlabel(
        "Trained parameters; filled and connected: Pareto-optimal means; bars: standard deviation", fontsize=8
    )
    return picture


@dataclass(frozen=True)
class Dot:
    """An entry in a plot: its cost, its score with the spread over seeds, and its color and marker."""

    cost: float
    score: float
    spread: float
    name: str
    colour: str
    marker: str
    is_front: bool


def _dots(cell: Ranking, entries: Sequence[BoardEntry], methods: Sequence[str]) -> list[Dot]:
    """Return the Pareto front and then the best of the other entries, DOTS at most."""
    known = [number for number in cell.ranked if entries[number].costs.get(COST, 0) > 0]
    front = _front(known, entries)
    chosen = front + [number for number in known if number not in front][: max(0, DOTS - len(front))]
    dots = []
    for number in chosen:
        entry, place = entries[number], methods.index(entries[number].method)
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place // len(COLOURS) % len(MARKERS)]
        name = _short(entry.method, 16)
        dots.append(Dot(entry.costs[COST], _shown(entry), _spread(entry), name, colour, marker, number in front))
    return dots


def _front(known: Sequence[int], entries: Sequence[BoardEntry]) -> list[int]:
    """Return the positions of the Pareto-optimal entries, cheapest first."""
    front: list[int] = []
    best = -math.inf
    for number in sorted(known, key=lambda number: (entries[number].costs[COST], -(entries[number].score or 0))):
        score = entries[number].score or 0
        if score > best:
            front.append(number)
            best = score
    return front


def _panel(panel: Axes, cell: Ranking, entries: Sequence[BoardEntry], methods: Sequence[str]) -> None:
    from matplotlib.ticker import NullLocator

    dots = _dots(cell, entries, methods)
    rest = f", {len(dots)} of {len(cell.ranked)} entries" if len(dots) < len(cell.ranked) else ""
    panel.set_title(f"{_short(cell.task, NAMED)}{rest}", loc="left", fontsize=9)
    if not dots:
        panel.set_axis_off()
        return
    panel.set_xscale("log")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(lambda value, _: amount(value))
    panel.grid(color="#dedad0", linewidth=0.5)
    panel.set_axisbelow(True)
    panel.margins(y=0.12)
    least, most = min(dot.cost for dot in dots), max(dot.cost for dot in dots)
    room = (most / least) ** 0.16 if most > least else 3.0  # for names, and where all costs are equal
    panel.set_xlim(least / room, most * room)
    for dot in reversed(dots):
        ends = dot.score - dot.spread, dot.score + dot.spread
        panel.plot([dot.cost, dot.cost], ends, color=dot.colour, alpha=0.5, lw=1.2)
        filled = dot.colour if dot.is_front else "white"
        panel.plot(dot.cost, dot.score, dot.marker, color=dot.colour, markerfacecolor=filled, markersize=4.5)
    front = [dot for dot in dots if dot.is_front]
    panel.step([dot.cost for dot in front], [dot.score for dot in front], where="post", color=INK, lw=0.8)
    if not entries[cell.ranked[0]].is_up:
        panel.invert_yaxis()  # so that better is up for an error too
    _name_dots(panel, dots)


def _name_dots(panel: Axes, dots: Sequence[Dot]) -> None:
    """Label the dots, those of the front first, each where it covers no dot and no other label."""
    from matplotlib.patheffects import withStroke

    # positions as shares of the panel; a letter is about 0.022 wide, a line 0.06 high
    (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
    places = [(math.log(dot.cost / left) / math.log(right / left), (dot.score - low) / (high - low)) for dot in dots]
    taken = [(x - 0.015, y - 0.02, x + 0.015, y + 0.02) for x, y in places]
    for dot, (x, y) in zip(dots, places, strict=True):
        width = 0.022 * len(dot.name)
        for move, rise, side in PLACES:
            start = x + move if side == "left" else x + move - width
            area = (start, y + rise, start + width, y + rise + 0.06)
            is_out = area[0] < 0 or area[2] > 1.05 or area[1] < 0 or area[3] > 1.02
            if is_out or any(t[0] < area[2] and area[0] < t[2] and t[1] < area[3] and area[1] < t[3] for t in taken):
                continue
            taken.append(area)
            panel.text(
                x + move, y + rise + 0.005, dot.name, transform=panel.transAxes, ha=side, fontsize=6.5,
                color=INK if dot.is_front else MUTED, path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
            break


def _heatmap(rankings: Sequence[Ranking], entries: Sequence[BoardEntry]) -> Figure:
    """Draw the scores of methods on tasks; frames mark those without a significant difference from the best."""
    from matplotlib.patches import Rectangle

    table: dict[str, dict[int, int]] = {}
    shades: list[dict[int, float]] = []
    for column, cell in enumerate(rankings):
        scores = [entries[number].score or 0 for number in cell.ranked]
        low, high = min(scores), max(scores)
        shades.append({n: ((entries[n].score or 0) - low) / (high - low) if high > low else 1.0 for n in cell.ranked})
        for number in cell.ranked:
            table.setdefault(entries[number].label, {})[column] = number
    standing = {n: sum(shades[c][i] for c, i in here.items()) / len(here) + len(here) for n, here in table.items()}
    order = sorted(table, key=lambda name: -standing[name])
    names = order[:LINES]
    left_out = f" (the best {len(names)} of {len(order)} entries)" if len(order) > len(names) else ""
    picture = _figure(2.6 + 0.75 * len(rankings), 1.2 + 0.26 * len(names), f"{rankings[0].board}{left_out}")
    panel = picture.subplots()
    tested = any(cell.is_tested for cell in rankings)
    for line, name in enumerate(names):
        for column, number in table[name].items():
            _tile(panel, column, line, shades[column][number])
            is_top = number in rankings[column].top
            weight: Any = "bold" if is_top else "normal"
            text = figure(entries[number], entries[number].score or 0.0)
            panel.text(column, line, text, ha="center", va="center", fontsize=7.5, fontweight=weight)
            if is_top:
                panel.add_patch(Rectangle((column - 0.46, line - 0.44), 0.92, 0.88, fill=False, lw=1.3, ec=INK))
    panel.set_xlim(-0.5, len(rankings) - 0.5)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_xticks(range(len(rankings)), [_short(cell.task, 12) for cell in rankings])
    panel.set_yticks(range(len(names)), [_short(name, 36) for name in names])
    panel.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False, labelcolor=INK)
    panel.spines[:].set_visible(False)
    framed = (
        "no significant difference from the best of the task"
        if tested
        else "the best mean of the task; differences were not tested"
    )
    picture.supxlabel(f"Framed: {framed}", fontsize=8)
    return picture


def _tile(panel: Axes, column: int, line: int, shade: float) -> None:
    from matplotlib.patches import Rectangle

    panel.add_patch(Rectangle((column - 0.48, line - 0.46), 0.96, 0.92, color=COLOURS[0], alpha=0.45 * shade, lw=0))


def _shown(entry: BoardEntry) -> float:
    score = entry.score or 0.0
    return 100 * score if entry.is_up else -score


def _spread(entry: BoardEntry) -> float:
    """Return the standard deviation over seeds in the units of the plot; 0 for a single seed."""
    return (100 if entry.is_up else 1) * (entry.spread or 0.0)


def _short(text: str, most: int) -> str:
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"
