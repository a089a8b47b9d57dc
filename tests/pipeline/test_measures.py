"""A run tells what one row costs, as trained and merged into its base."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from helpers import commands

Words = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("method", "merges"), [("lora", True), ("adapter", False), pytest.param("full", False, marks=pytest.mark.slow)]
)
def test_latency_is_there_merged_where_there_is_something_to_merge(tiny: Words, method: str, merges: bool) -> None:
    (folder,) = commands.finetune(*tiny("bert", f"method={method}"))
    costs = json.loads((folder / "result.json").read_text())["costs"]
    assert costs["latency_ms"] > 0
    assert (costs["merged_latency_ms"] or 0) > 0 if merges else costs["merged_latency_ms"] is None
