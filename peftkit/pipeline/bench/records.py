"""The records of job=bench: what is compared, and what each process took."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peftkit.config.json_files import read_json
from peftkit.results.run_folder import write_text

FILE = "bench.json"


@dataclass(frozen=True)
class Probe:
    """What was measured of the machine and the model before the variants.

    Args:
        attention: of the bare loop, the faster one.
        attention_seconds: of the same training steps with each.
        flops: of all training steps, forward and backward: of each batch, padded to its longest example.
        peaks: FLOP per second of a product of large square matrices, by precision.
    """

    threads: int
    attention: str
    attention_seconds: dict[str, float]
    flops: float
    peaks: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """What all variants of a bench share: data, model, method, training, machine and versions."""

    id: str
    task: str
    data: str
    model: str
    method: str
    metric: str
    examples: int
    validation_examples: int
    epochs: float
    batch_size: int
    precision: str
    device: str
    git: str | None
    versions: dict[str, str | None]
    date: str  # of the first measurement


@dataclass(frozen=True)
class Measurement:
    """One process: its seconds and those of its processors, those of training, and the score of its model."""

    variant: str
    seed: int
    seconds: float  # from the start of the process to its end
    cpu_seconds: float
    first_step_seconds: float  # from the start of the process to the end of the first optimizer step
    train_seconds: float
    score: float


@dataclass
class BenchResults:
    """A comparison, what was measured before it, and its measurements so far.

    Args:
        baseline: the variant with which peftkit is compared.
    """

    comparison: Comparison
    probe: Probe
    baseline: str
    measurements: list[Measurement] = field(default_factory=list)

    def find(self, variant: str, seed: int) -> Measurement | None:
        return next((each for each in self.measurements if (each.variant, each.seed) == (variant, seed)), None)

    def of(self, variant: str) -> dict[int, Measurement]:
        """Return the measurements of a variant by seed."""
        return {each.seed: each for each in self.measurements if each.variant == variant}

    def add(self, measurement: Measurement) -> None:
        """Add a measurement; one of the same variant and seed is replaced."""
        key = (measurement.variant, measurement.seed)
        others = [each for each in self.measurements if (each.variant, each.seed) != key]
        self.measurements = [*others, measurement]


def write_bench(folder: Path, bench: BenchResults, summary: dict[str, Any]) -> None:
    write_text(folder / FILE, json.dumps({"schema": 1, **asdict(bench), "summary": summary}, indent=1) + "\n")


def read_bench(folder: Path) -> BenchResults | None:
    """Return the bench of a folder, None if there is none.

    Raises:
        UserError: its file is damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    values = read_json(file, "delete it, and measure again")
    measurements = [Measurement(**each) for each in values["measurements"]]
    return BenchResults(Comparison(**values["comparison"]), Probe(**values["probe"]), values["baseline"], measurements)


def read_benches(folder: Path) -> Sequence[BenchResults]:
    """Return all benches below a folder, the latest first."""
    found = [bench for file in sorted(folder.glob(f"*/{FILE}")) if (bench := read_bench(file.parent)) is not None]
    return sorted(found, key=lambda bench: bench.comparison.date, reverse=True)
