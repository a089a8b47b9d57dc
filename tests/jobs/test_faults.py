"""A killed command, repeated, ends like one that was not; tests/benchmarks/faults.py tries every file operation."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from helpers.fork_server import ForkServer
from helpers.unbroken import healed, record

SAMPLE = {"lora": 5, "early_stopping": 5, "full": 3, "search": 4, "sweep": 3}  # of what kills leave, twenty in all


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAMPLE)
def test_a_killed_command_ends_as_one_that_was_not(
    checkpoints: dict[str, Path], fork_server: ForkServer, tmp_path: Path, kind: str
) -> None:
    images, expected = record(fork_server, kind, checkpoints["bert"], tmp_path)
    assert {run["status"] for run in expected.values()} == {"finished"}
    assert not any(run["left"] for run in expected.values())
    for image in random.Random(0).sample(images, SAMPLE[kind]):
        image.write(tmp_path / "out")
        _, wrong = healed(fork_server, kind, checkpoints["bert"], tmp_path, expected)
        assert not wrong, image.operation
