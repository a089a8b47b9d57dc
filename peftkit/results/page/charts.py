"""Small charts as inline SVG: lines, points with a diagonal, and reliability bars."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peftkit.results.page import Html, element

WIDTH, HEIGHT = 420, 280  # of the drawing; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 44  # margins
Point = tuple[float, float]
Limits = tuple[float, float]


@dataclass(frozen=True)
class Axes:
    """The area of a chart, from values to positions."""

    x: Limits
    y: Limits
    x_label: str
    y_label: str

    def at(self, x: float, y: float) -> Point:
        """Return the position of a value, rounded to a tenth of a pixel."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return round(LEFT + across * (WIDTH - LEFT - RIGHT), 1), round(
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1
        )

    def draw(self, title: str, caption: str, *marks: Html) -> Html:
        """Return the chart as a figure; the title describes it to a screen reader."""
        low, high = self.at(self.x[0], self.y[0]), self.at(self.x[1], self.y[1])
        lines = [_line((low[0], y), (high[0], y)) for y in (self.at(self.x[0], tick)[1] for tick in ticks(self.y))]
        lines.append(_line(low, (low[0], high[1])))
        texts = [_text(self.at(tick, 0)[0], low[1] + 16, _number(tick), "middle") for tick in ticks(self.x)]
        texts += [_text(low[0] - 6, self.at(0, tick)[1] + 4, _number(tick), "end") for tick in ticks(self.y)]
        texts.append(_text((low[0] + high[0]) / 2, HEIGHT - 8, self.x_label, "middle"))
        center = (low[1] + high[1]) / 2
        texts.append(_text(12, center, self.y_label, "middle", f"rotate(-90 12 {center:.1f})"))
        drawing = element("svg", *lines, *marks, *texts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
        return element("figure", drawing, element("figcaption", caption))


def line_chart(title: str, caption: str, x_label: str, y_label: str, lines: Mapping[str, Sequence[Point]]) -> Html:
    """Return up to two lines through their points, by name; of a single line the name is not shown."""
    points = [point for line in lines.values() for point in line]
    axes = Axes(_around([x for x, _ in points], 0), _around([y for _, y in points]), x_label, y_label)
    marks = []
    for number, (name, line) in enumerate(lines.items()):
        kind = " b" if number else ""
        places = [axes.at(*point) for point in line]
        marks.append(element("polyline", points=" ".join(f"{x},{y}" for x, y in places), class_=f"line{kind}"))
        if len(lines) > 1:
            y = TOP + 12 + 18 * number
            marks.append(element("line", x1=LEFT + 210, x2=LEFT + 240, y1=y - 4, y2=y - 4, class_=f"line{kind}"))
            marks.append(_text(LEFT + 246, y, name, "start"))
    return axes.draw(title, caption, *marks)


def scatter_chart(title: str, caption: str, x_label: str, y_label: str, points: Sequence[Point]) -> Html:
    """Return points, and the line on which both values are equal."""
    limits = _around([value for point in points for value in point])
    axes = Axes(limits, limits, x_label, y_label)
    dots = [element("circle", cx=x, cy=y, r=2.5, class_="dot") for x, y in (axes.at(*point) for point in points)]
    return axes.draw(title, caption, _line(axes.at(*[limits[0]] * 2), axes.at(*[limits[1]] * 2), "ideal"), *dots)


def bar_chart(
    title: str, caption: str, x_label: str, y_label: str, bars: Sequence[tuple[Limits, float, Limits, Point]]
) -> Html:
    """Return bars between 0 and 1 with the line on which both values are equal.

    Args:
        bars: of each the limits on the x axis, its height, the interval of the height, and a point.
    """
    axes = Axes((0.0, 1.0), (0.0, 1.0), x_label, y_label)
    marks = []
    for (left, right), height, (low, high), point in bars:
        x, y = axes.at(left, height)
        end, base = axes.at(right, 0)
        marks.append(element("rect", x=x + 1, y=y, width=end - x - 2, height=base - y, class_="bar"))
        middle = (x + end) / 2
        marks.append(_line((middle, axes.at(0, low)[1]), (middle, axes.at(0, high)[1]), "error"))
        cx, cy = axes.at(*point)
        marks.append(element("circle", cx=cx, cy=cy, r=3, class_="dot b"))
    return axes.draw(title, caption, *marks, _line(axes.at(0, 0), axes.at(1, 1), "ideal"))


def ranked_bars(title: str, caption: str, bars: Mapping[str, tuple[float, float, float]], unit: str) -> Html:
    """Return horizontal bars from zero, by name.

    Args:
        bars: of each the value, and the lowest and the highest of its repetitions.
    """
    row, top = 30, max(high for _, _, high in bars.values()) or 1.0
    scale = (WIDTH - RIGHT - 60) / top
    marks = []
    for number, (name, (value, low, high)) in enumerate(bars.items()):
        y = number * row
        marks.append(_text(0, y + 11, name, "start"))
        marks.append(element("rect", x=0, y=y + 15, width=round(value * scale, 1), height=9, class_="bar"))
        marks.append(_line((round(low * scale, 1), y + 19.5), (round(high * scale, 1), y + 19.5), "error"))
        number_text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        marks.append(_text(high * scale + 6, y + 24, f"{number_text} {unit}", "start"))
    drawing = element("svg", *marks, viewBox=f"0 0 {WIDTH} {row * len(bars)}", role="img", aria_label=title)
    return element("figure", drawing, element("figcaption", caption))


def ticks(limits: Limits) -> list[float]:
    """Return four to eight round numbers between two limits."""
    span = limits[1] - limits[0]
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 7)
    first, last = math.ceil(limits[0] / step - 1e-9), math.floor(limits[1] / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _around(values: Sequence[float], start: float | None = None) -> Limits:
    """Return limits with a margin; `start` is the lower one where no value is below it."""
    low, high = min(values), max(values)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return (start if start is not None and low >= start else low - margin), high + margin


def _line(start: Point, end: Point, kind: str = "axis") -> Html:
    return element("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=kind)


def _text(x: float, y: float, text: str, anchor: str, transform: str | None = None) -> Html:
    return element("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor, transform=transform)


def _number(value: float) -> str:
    return f"{value:g}"
