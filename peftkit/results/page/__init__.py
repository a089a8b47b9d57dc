"""Pages as one HTML file without scripts or external resources: elements, tables, charts and the whole page."""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path

from peftkit.paths import atomic_write

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # not in HTML, or not in UTF-8
DIRECTIONS = re.compile(r"[\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # would reverse the rest of a line
VOID = ("meta", "col", "line", "rect", "circle", "polyline", "path")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class Html(str):
    """Markup. Any other text is escaped where it becomes part of a page."""


def element(tag: str, *children: object, **attributes: object) -> Html:
    """Return an element; `class_` and `aria_label` become class and aria-label, and attributes of None are omitted."""
    named = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None)
    opened = "".join(f' {name}="{_escaped(str(value))}"' for name, value in named)
    if tag in VOID:
        return Html(f"<{tag}{opened}>" if tag in ("meta", "col") else f"<{tag}{opened}/>")
    return Html(f"<{tag}{opened}>{joined(children)}</{tag}>")


def joined(children: Iterable[object]) -> Html:
    """Return elements and escaped texts in their order; None is left out."""
    return Html(
        "".join(each if isinstance(each, Html) else _escaped(str(each)) for each in children if each is not None)
    )


def paragraph(*children: object) -> Html:
    return element("p", *children)


def list_of(items: Iterable[object]) -> Html:
    return element("ul", *(element("li", each) for each in items))


def table(
    caption: str, headings: Sequence[str], rows: Iterable[Sequence[object]], numeric: Collection[str] = ()
) -> Html:
    """Return a table that scrolls by itself where it is wider than the page.

    Args:
        rows: texts and elements; the first of each is the heading of its row.
        numeric: headings of the columns with numbers, which are aligned to the right.
    """
    classes = ["num" if name in numeric else None for name in headings]
    head = (element("th", name, scope="col", class_=kind) for name, kind in zip(headings, classes, strict=True))
    body = (
        element(
            "tr",
            element("th", element("span", row[0], class_="key"), scope="row", class_=classes[0]),
            *(element("td", cell, class_=kind) for cell, kind in zip(row[1:], classes[1:], strict=True)),
        )
        for row in rows
    )
    whole = element(
        "table", element("caption", caption), element("thead", element("tr", *head)), element("tbody", *body)
    )
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def details(summary: str, *children: object) -> Html:
    """Return content that is shown on a click."""
    return element("details", element("summary", summary), *children)


def section(title: str, *children: object) -> Html:
    return element("section", element("h2", title), *children)


def page(title: str, *children: object) -> str:
    """Return a page with the title as its heading."""
    head = joined(
        [
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", http_equiv="Content-Security-Policy", content=POLICY),
            element("title", title),
            element("style", Html(_style())),
        ]
    )
    body = element("main", element("h1", title), *children)
    return f'<!doctype html>\n<html lang="en">{element("head", head)}{element("body", body)}</html>\n'


def write_page(text: str, file: Path) -> None:
    """Write a page atomically."""
    with atomic_write(file) as part:
        part.write_text(text, encoding="utf-8")


@cache
def _style() -> str:
    return (Path(__file__).parent / "style.css").read_text(encoding="utf-8")


def _escaped(text: str) -> str:
    return escape(DIRECTIONS.sub("", CONTROL.sub("\ufffd", text)))
