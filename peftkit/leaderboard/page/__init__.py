"""The leaderboard as one self-contained HTML file."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from peftkit.leaderboard.page.data import page_data
from peftkit.paths import atomic_write

__all__ = ["page_data", "render_page", "write_page"]

HERE = Path(__file__).parent
# in this order: later ones use earlier ones
SCRIPTS = ("elements", "state", "table", "charts", "heatmap", "details", "main")
# escaped, so that text of a run can neither close its element nor open another
UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def write_page(content: Mapping[str, Any], file: Path) -> None:
    """Write what `page_data` returns as a page, atomically."""
    with atomic_write(file) as part:
        part.write_text(render_page(content), encoding="utf-8")


def render_page(content: Mapping[str, Any]) -> str:
    """Return the page: markup, style, scripts and data in one text without external resources."""
    app = "".join(_read(f"assets/{name}.js") for name in SCRIPTS)
    scripts = [_read("vendor/d3.min.js"), _read("vendor/plot.min.js"), app]
    parts = {
        "policy": _policy(scripts),
        "style": _read("assets/style.css"),
        "licenses": _read("vendor/LICENSES.txt").replace("&", "&amp;").replace("<", "&lt;"),
        "data": _as_json(content),
        "d3": scripts[0],
        "plot": scripts[1],
        "app": app,
    }
    # in one pass, so that inserted text is not substituted again
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read("assets/page.html"))


@cache
def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """Return a content security policy under which these scripts run and nothing else does."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _as_json(content: Mapping[str, Any]) -> str:
    finite = json.loads(json.dumps(content), parse_constant=lambda _: None)  # JSON lacks NaN and infinity
    text = json.dumps(finite, ensure_ascii=False, separators=(",", ":")).translate(UNSAFE)
    return text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be encoded
