"""The processes of job=bench: a probe of the machine, plain scripts, and peftkit's command."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from peftkit.config import RunConfig
from peftkit.config.bench_variants import LADDER, PEFTKIT, VARIANTS, Variant
from peftkit.config.imports import inherited_environment
from peftkit.config.quoting import as_override
from peftkit.metrics import score
from peftkit.pipeline.bench import plain_script
from peftkit.pipeline.bench.records import Measurement, Probe
from peftkit.results.run_folder import read_result, write_text

SET_HERE = ("job", "out", "seed", "force", "output")  # overrides that the bench sets itself


@dataclass(frozen=True)
class Work:
    """What the processes of a bench need.

    Args:
        spec: of the plain scripts, without what differs between them.
        labels: of the validation examples.
        precision: of peftkit.
    """

    config: RunConfig
    folder: Path
    spec: dict[str, Any]
    label_names: list[str] | None
    labels: list[Any]
    precision: str

    @property
    def metric(self) -> str:
        return self.config.task.metrics[0]


def schedule(config: RunConfig) -> Iterator[tuple[Variant, int]]:
    """Yield the variants with their seeds: all that have a seed in turn, then those that have the next one."""
    bench = config.bench
    chosen = [VARIANTS[name] for name in VARIANTS if name in bench.variants]
    counts = [(variant, bench.slow_seeds if variant.is_slow else bench.seeds) for variant in chosen]
    if PEFTKIT in bench.variants:
        counts += [(means.variant, bench.ladder_seeds) for means in LADDER]
    for number in range(max(count for _, count in counts)):
        for variant, count in counts:
            if number < count:
                yield variant, config.seed + number


def run_probe(work: Work) -> Probe:
    """Measure the machine and the model."""
    with _scratch(work) as folder:
        output = folder / "output.json"
        spec = work.spec | VARIANTS["loop"].spec(work.precision)
        _run_with_spec(["-m", "peftkit.pipeline.bench.probe"], spec | {"seed": work.config.seed}, folder)
        return Probe(**json.loads(output.read_text(encoding="utf-8")))


def measure(work: Work, variant: Variant, seed: int, attention: str) -> Measurement:
    """Run a variant in a new process.

    Raises:
        RuntimeError: the process failed.
    """
    with _scratch(work) as folder:
        clock = _Clock()
        if variant.is_plain:
            spec = work.spec | variant.spec(work.precision, attention) | {"seed": seed}
            _run_with_spec(["-P", str(plain_script.__file__)], spec, folder)
        else:
            out = folder / "out"
            _run(["-m", "peftkit", *training_command(work.config, variant, seed, out)], folder)
        seconds, cpu_seconds = clock.elapsed()
        first_step, train_seconds, found = _plain_output(work, folder) if variant.is_plain else _result(work, out)
    return Measurement(
        variant.name, seed, seconds, cpu_seconds, first_step - clock.started, train_seconds, round(found, 6)
    )


def training_command(config: RunConfig, variant: Variant, seed: int, out: Path) -> list[str]:
    """Return peftkit's arguments that train what a bench measures; of its recipe, without the job and the sweep."""
    typed = [each for each in config.overrides if not _is_set_here(each)]
    added = {"job": "finetune", "hydra.mode": "RUN", "seed": seed, "out": str(out)}
    return [*typed, *variant.overrides, *(f"{key}={as_override(value)}" for key, value in added.items())]


def _plain_output(work: Work, folder: Path) -> tuple[float, float, float]:
    """Return the time of a plain script's first step, its seconds of training, and its score."""
    found = json.loads((folder / "output.json").read_text(encoding="utf-8"))
    scores = score([work.metric], found["predictions"], work.labels, label_names=work.label_names)
    return found["first_step"], found["train_seconds"], scores[work.metric]["value"]


def _result(work: Work, out: Path) -> tuple[float, float, float]:
    """Return the same of a run of peftkit."""
    result = read_result(next(out.rglob("result.json")).parent)
    assert result is not None  # a finished run has one
    name = next(name for name in result["scores"] if name.startswith(work.metric))
    first_step = datetime.fromisoformat(result["meta"]["first_step"]).timestamp()
    return first_step, result["costs"]["train_seconds"], result["scores"][name]["value"]


def _is_set_here(override: str) -> bool:
    key = override.lstrip("+~").partition("=")[0]
    return key in SET_HERE or key.partition(".")[0] == "bench"


class _Clock:
    """Seconds since its start, and those of the processors in processes that were started and ended since then."""

    def __init__(self) -> None:
        self.started, self.began, self.cpu = time.time(), time.perf_counter(), self._children()

    def elapsed(self) -> tuple[float, float]:
        return time.perf_counter() - self.began, self._children() - self.cpu

    @staticmethod
    def _children() -> float:
        times = os.times()
        return times.children_user + times.children_system


@contextmanager
def _scratch(work: Work) -> Iterator[Path]:
    """Yield a folder for the files of one process."""
    with tempfile.TemporaryDirectory(dir=work.folder, prefix="process-") as name:
        yield Path(name).resolve()


def _run_with_spec(command: list[str], spec: Mapping[str, Any], folder: Path) -> None:
    file = folder / "spec.json"
    write_text(file, json.dumps({**spec, "folder": str(folder), "output": str(folder / "output.json")}))
    _run([*command, str(file)], folder)


def _run(arguments: list[str], folder: Path) -> None:
    """Run Python with as many threads of PyTorch as this process has.

    Raises:
        RuntimeError: it failed; the message has the last line that it printed.
    """
    log, command = folder / "log.txt", [sys.executable, *arguments]
    environment = inherited_environment() | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with log.open("wb") as file:
        code = subprocess.run(command, stdout=file, stderr=file, env=environment, check=False).returncode
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["without a message"]
        raise RuntimeError(f"python {' '.join(arguments)} failed: {lines[-1]}")
