"""A killed command, repeated, ends like one that was not; tests/benchmarks/faults.py tries every file operation."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from helpers.fork_server import ForkServer
from helpers.unbroken import Unbroken

SAMPLE = {
    "lora": 4,
    "early_stopping": 4,
    "full": 3,
    "search": 3,
    "sweep": 3,
    "torchrun": 3,
}  # of what kills leave, twenty in all


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAMPLE)
def test_a_killed_command_ends_as_one_that_was_not(
    checkpoints: dict[str, Path], fork_server: ForkServer, tmp_path: Path, kind: str
) -> None:
    command = Unbroken.record(fork_server, kind, checkpoints["bert"], tmp_path)
    assert {run["status"] for run in command.expected.values()} == {"finished"}
    assert not any(run["left"] for run in command.expected.values())
    for image in random.Random(0).sample(command.images, SAMPLE[kind]):
        image.write(command.out)
        _, wrong = command.healed()
        assert not wrong, image.operation
