"""A plot of a combination of runs: the score of each task, and the general loss, against the scale of the change."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.leaderboard.figures import COLORS, MUTED, STYLE, new_figure
from peftkit.paths import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "D", "^", "s", "P", "X")


def write_scale_plot(measured: Mapping[str, Mapping[str, Any]], title: str, file: Path) -> None:
    """Write the curves of `forgetting` of result.json, by the name of a task, as a PNG."""
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names in other scripts become boxes
        with atomic_write(file) as part:
            scale_figure(measured, title).savefig(part, format="png", dpi=160)


def scale_figure(measured: Mapping[str, Mapping[str, Any]], title: str) -> Figure:
    """Draw the scores of all tasks, and below them their general losses, over one axis of scales."""
    picture = new_figure(5.4, 5.0, title)
    above, below = picture.subplots(2, 1, sharex=True)
    first = next(iter(measured.values()))
    loss = "drift of states" if first["reason"] else "general loss"  # of a base without a language modeling head
    for panel, key, label in ((above, "score", "score"), (below, "loss", f"{loss} ({first['unit']})")):
        _draw(panel, measured, key)
        panel.set_ylabel(label)
    above.legend(frameon=False, fontsize=7.5)
    below.set_xlabel("scale of the change (0: the base, 1: the combination)")
    return picture


def _draw(panel: Axes, measured: Mapping[str, Mapping[str, Any]], key: str) -> None:
    """Draw one line for each task over vertical lines at the base and at the combination."""
    panel.set_axisbelow(True)
    panel.grid(color="#dedad0", linewidth=0.5)
    for scale in (0, 1):
        panel.axvline(scale, color=MUTED, lw=0.9, linestyle=(0, (4, 2)))
    for (name, found), color, marker in zip(measured.items(), cycle(COLORS), cycle(MARKERS), strict=False):
        scales, values = zip(*((point["scale"], point[key]) for point in found["curve"]), strict=True)
        panel.plot(scales, values, color=color, marker=marker, markersize=4, lw=1.4, label=name)
    panel.margins(x=0.04, y=0.12)
