"""An inspection as one HTML file."""

from typing import Any

from peftkit.pipeline.inspection.sections import Inspection, Section, Share, cell_text
from peftkit.results.page import Html, element, list_of, page, paragraph, section, table


def render_page(found: Inspection) -> str:
    """Return the page; all text is escaped."""
    links = (element("a", each.title, href=f"#{_anchor(each)}") for each in found.sections)
    return page(
        f"Data of {found.name}",
        element("p", "Written by ", element("code", found.command), class_="muted"),
        element("nav", *links, aria_label="On this page"),
        *_summary(found),
        *map(_section, found.sections),
        None if found.refusal is not None else section("Next", paragraph(element("code", found.next_command))),
    )


def _summary(found: Inspection) -> list[Html]:
    parts = []
    if found.refusal is not None:
        wrong = element("strong", "A training run refuses this data.")
        parts.append(element("div", paragraph(wrong, f" {found.refusal}"), class_="warnings"))
    if found.warnings:
        warnings = (element("h2", "What to look at"), list_of(found.warnings))
        parts.append(element("section", *warnings, class_="warnings", aria_label="Warnings"))
    return parts if found.warnings else [*parts, paragraph("Nothing in this data needs a warning.")]


def _section(found: Section) -> Html:
    return element(
        "section",
        element("h2", found.title),
        *(element("p", warning, class_="warn") for warning in found.warnings),
        *map(paragraph, found.lines),
        _table(found) if found.rows else None,
        *(element("p", note, class_="muted") for note in found.notes),
        id=_anchor(found),
    )


def _table(found: Section) -> Html:
    headings = [name.removesuffix(" text") or name for name in found.columns]
    numeric = [name for at, name in enumerate(headings) if all(isinstance(row[at], int | float) for row in found.rows)]
    return table(found.title, headings, ([*map(_cell, found.columns, row)] for row in found.rows), numeric)


def _cell(name: str, value: Any) -> Html | str:
    if isinstance(value, Share):
        width = f"background-size: {100 * min(max(value, 0.0), 1.0):.1f}% 100%"
        return element("span", cell_text(value), element("span", class_="share", style=width))
    is_text = name.endswith("text") and not isinstance(value, int | float)
    return element("span", cell_text(value), class_="text") if is_text else cell_text(value)


def _anchor(found: Section) -> str:
    return found.title.lower().replace(" ", "-")
