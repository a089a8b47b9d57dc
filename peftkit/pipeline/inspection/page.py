"""An inspection as one HTML file without scripts and external resources."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from peftkit.paths import atomic_write
from peftkit.pipeline.inspection.sections import Inspection, Section, Share, cell_text

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1c1b18, #e9e6de); --back: light-dark(#fdfcf9, #171715);
  --muted: light-dark(#65625a, #a8a499); --rule: light-dark(#dedad0, #37352f); --bar: light-dark(#7fb5d8, #2d6d99);
  --warn: light-dark(#a63d00, #ff9d66); --accent: light-dark(#005f96, #7cc4f2); }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem clamp(.75rem, 3vw, 3rem) 3rem; max-width: 80rem; background: var(--back);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1, h2 { line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.25rem 0 .5rem; }
p, ul, ol { max-width: 80ch; overflow-wrap: anywhere; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
.muted, caption { color: var(--muted); font-size: .9rem; }
.warn { color: var(--warn); }
.box { border-left: 4px solid var(--warn); padding: .1rem 1rem; margin: 1rem 0; }
.wide { overflow-x: auto; max-width: 100%; }
.wide:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--rule); }
td.number, th.number { text-align: right; white-space: nowrap; }
td.text { min-width: 14rem; max-width: 38rem; overflow-wrap: anywhere; }
td .bar { display: block; height: .35rem; min-width: 6rem;
  background: linear-gradient(var(--bar), var(--bar)) no-repeat; }
code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .9em; overflow-wrap: anywhere; }
"""


def write_page(found: Inspection, file: Path) -> None:
    """Write an inspection as a page, atomically."""
    with atomic_write(file) as part:
        part.write_text(render_page(found).encode("utf-8", "replace").decode("utf-8"), encoding="utf-8")


def render_page(found: Inspection) -> str:
    """Return the page; all text is escaped."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Inspection) -> Iterator[str]:
    title = f"Data of {found.name}"
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
    yield f"<header><h1>{escape(title)}</h1>"
    yield f'<p class="muted">Written by <code>{escape(found.command)}</code></p></header>'
    yield '<nav aria-label="On this page">'
    yield from (f'<a href="#{_anchor(each)}">{escape(each.title)}</a>' for each in found.sections)
    yield "</nav><main>"
    if found.refusal is not None:
        refusal = f"<strong>A training run refuses this data.</strong> {escape(found.refusal)}"
        yield f'<div class="box"><p>{refusal}</p></div>'
    if found.warnings:
        yield '<section class="box" aria-label="Warnings"><h2>What to look at</h2><ul>'
        yield from (f"<li>{escape(warning)}</li>" for warning in found.warnings)
        yield "</ul></section>"
    else:
        yield "<p>Nothing in this data needs a warning.</p>"
    for section in found.sections:
        yield from _section(section)
    if found.refusal is None:
        yield f"<section><h2>Next</h2><p><code>{escape(found.next_command)}</code></p></section>"
    yield "</main></body></html>"


def _section(section: Section) -> Iterator[str]:
    yield f'<section id="{_anchor(section)}"><h2>{escape(section.title)}</h2>'
    yield from (f'<p class="warn">{escape(warning)}</p>' for warning in section.warnings)
    yield from (f"<p>{escape(line)}</p>" for line in section.lines)
    if section.rows:
        yield f'<div class="wide" tabindex="0" role="region" aria-label="{escape(section.title)}"><table>'
        yield f"<caption>{escape(section.title)}</caption><thead><tr>"
        numbers = [all(isinstance(row[at], int | float) for row in section.rows) for at in range(len(section.columns))]
        for name, is_number in zip(section.columns, numbers, strict=True):
            yield f'<th scope="col"{" class=number" if is_number else ""}>{escape(_heading(name))}</th>'
        yield "</tr></thead><tbody>"
        yield from (f"<tr>{_cells(section.columns, row)}</tr>" for row in section.rows)
        yield "</tbody></table></div>"
    yield from (f'<p class="muted">{escape(note)}</p>' for note in section.notes)
    yield "</section>"


def _cells(columns: Sequence[str], row: Sequence[Any]) -> str:
    return "".join(_cell(name, value) for name, value in zip(columns, row, strict=True))


def _cell(name: str, value: Any) -> str:
    text = escape(cell_text(value))
    if isinstance(value, Share):
        bar = f'<span class="bar" style="background-size: {100 * min(max(value, 0.0), 1.0):.1f}% 100%"></span>'
        return f'<td class="number">{text}{bar}</td>'
    kind = "number" if isinstance(value, int | float) else "text" if name.endswith("text") else ""
    return f'<td class="{kind}">{text}</td>' if kind else f"<td>{text}</td>"


def _heading(name: str) -> str:
    return name.removesuffix(" text") or name


def _anchor(section: Section) -> str:
    return section.title.lower().replace(" ", "-")
