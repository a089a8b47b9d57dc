"""The page on security names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_of_the_page_on_security_exists() -> None:
    text = (ROOT / "docs" / "explanation" / "security.md").read_text(encoding="utf-8")
    named = {*re.findall(r"`(tests/[\w/]+\.py)`", text)}
    assert len(named) > 15
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
