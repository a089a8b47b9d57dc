"""The leaderboard as one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from peftkit.leaderboard.page.facts import facts

__all__ = ["facts", "render", "write_page"]

HERE = Path(__file__).parent
SCRIPTS = ("elements", "state", "table", "charts", "heatmap", "details", "main")  # each may use those before it
# escaped, so that text of a run can neither close its element nor open another
UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def write_page(content: Mapping[str, Any], file: Path) -> None:
    """Write what `facts` returns as a page, atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_text(render(content), encoding="utf-8")
    part.replace(file)


def render(content: Mapping[str, Any]) -> str:
    """Return the page: markup, style, scripts and data in one text without external resources."""
    scripts = [_read("vendor/d3.min.js"), _read("vendor/plot.min.js"), _app()]
    parts = {
        "policy": _policy(scripts),
        "style": _read("assets/style.css"),
        "licences": _read("vendor/LICENSES.txt").replace("&", "&amp;").replace("<", "&lt;"),
        "data": _embedded(content),
        "d3": scripts[0],
        "plot": scripts[1],
        "app": scripts[2],
    }
    # in one pass, so that inserted text is not substituted again
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _read("assets/page.html"))


@cache
def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _app() -> str:
    return "".join(_read(f"assets/{name}.js") for name in SCRIPTS)


def _policy(scripts: list[str]) -> str:
    """Return a content security policy under which these scripts run and nothing else does."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _embedded(content: Mapping[str, Any]) -> str:
    text = json.dumps(_finite(content), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(UNSAFE).encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be encoded


def _finite(value: Any) -> Any:
    """Return the value with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
