"""Serve runs to 64 clients for some thousand requests, compare each answer with job=predict, and write docs/results/serve.md.

python tests/benchmarks/serve.py RUN [RUN ...] [--requests 4000] [--clients 64] [--page FILE]

Runs of classifiers on one checkpoint; the examples are the first 200 validation examples of each. Beside it, the latency of
transformers' pipeline with the merged checkpoint of the first run, text by text. At the end the server gets
SIGTERM under load, and another one SIGKILL.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from peftkit.pipeline.serving.runs import named_runs
from peftkit.results.run_result import RunResult

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results" / "serve.md"
TRAINED = """The runs are of this command with `TASK` sst2 and rte, seed 0:

```bash
python -m peftkit task=TASK model=minilm method=lora source=offline data_root=GLUE task.max_train_samples=320 task.max_eval_samples=100 \\
    train.num_train_epochs=1 train.per_device_train_batch_size=32 calibration.holdout=0.1
```"""
EXAMPLES, TOLERANCE = 200, 1e-4
WARM = 20  # requests before those that are measured
PARTS = 8  # of the requests, for each of which the lowest and the highest resident memory is shown


@dataclass(frozen=True)
class Case:
    """An example of a run, and its line of job=predict."""

    run: str | None
    example: dict[str, str]
    expected: dict[str, Any]


@dataclass
class Load:
    """What clients saw, and the resident memory of the server in MB with the requests answered until then.

    The clients stop after `requests`, together, or at an error.
    """

    requests: int = sys.maxsize
    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[int, float]] = field(default_factory=list)
    wall: float = 0.0
    cpu: float = 0.0  # seconds of the server
    largest: float = 0.0  # difference of a probability
    lock: threading.Lock = field(default_factory=threading.Lock)


def main(runs: Sequence[Path], clients: int, requests: int, page: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        cases = [
            case for name, run in named_runs([*map(RunResult, runs)]).items() for case in cases_of(name, run, scratch)
        ]
        first = [case for case in cases if case.run == cases[0].run]
        server, port = start(runs[:1])
        alone = [replace(case, run=None) for case in first]  # the only one needs no name
        attack(port, server.pid, alone, 1, WARM)
        loads = [attack(port, server.pid, alone, *load) for load in ((1, EXAMPLES), (clients, requests // 4))]
        server.terminate()
        server.wait(300)
        server, port = start(runs)
        load = attack(port, server.pid, cases, clients, requests)
        batches = mean_batch(port)
        drained, drain_seconds = stopped(server, port, cases, clients, signal.SIGTERM)
        code = server.wait(300)
        server, port = start(runs)
        killed, kill_seconds = stopped(server, port, cases, clients, signal.SIGKILL)
        server.wait(300)
        one, shared, shared_wall, cpu = pipeline_seconds(
            runs[0], [case.example for case in first], clients, requests // 8
        )
    largest = max(each.largest for each in (*loads, load))
    lines = [
        "# Served under load, measured", "", TRAINED, "",
        f"`python tests/benchmarks/serve.py {' '.join(['RUN'] * len(runs))} --requests {requests}`: {described(runs)}. {len(cases)} validation examples,",
        f"one a request; each answer is compared with `job=predict ... train.bf16=false`, within {TOLERANCE:g}. {date.today()}, {machine()}, {os.cpu_count()} cores that the",
        f"clients and other programs used too, {os.environ.get('OMP_NUM_THREADS', 'all')} thread(s) a process, fp32. So the CPU time of a request is a better figure than its latency.", "",
        "| | clients | requests | wrong | a second | median | 99th percentile | CPU time of a request |", "|---|---|---|---|---|---|---|---|",
        row("job=serve, first run alone", 1, loads[0]), row("job=serve, first run alone", clients, loads[1]),
        row("job=serve, all runs", clients, load),
        f"| pipeline, first run, text by text | 1 | {len(one)} | | {len(one) / sum(one):.1f} | {ms(one, 50)} | {ms(one, 99)} | {1000 * cpu:.0f} ms |",
        f"| the same, callers take turns | {clients} | {len(shared)} | | {len(shared) / shared_wall:.1f} | {ms(shared, 50)} | {ms(shared, 99)} | |", "",
        "The pipeline has the merged checkpoint (`job=merge`). A server of one run merges the adapter in memory, one of several keeps their adapters over the base. The pairs\nof RTE are several times as long as the sentences of SST-2.", "",
        f"Outcomes of the {clients} clients with all runs: {counted(load)}. The largest difference of a probability is {largest:.1e}. A batch has {batches:.1f} examples",
        "on average, split by length.", "",
        "Resident memory of the server in MB during the last load, by the requests answered until then:", "",
        *memory_table(load), "",
        f"SIGTERM under the same load: {counted(drained)}; the last client ended after {drain_seconds:.1f} s, the server with exit code {code}.",
        f"SIGKILL: {counted(killed)}; the last client ended after {kill_seconds:.1f} s.", "",
    ]  # fmt: skip
    page.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))
    if wrong := sum(each.outcomes["wrong"] for each in (*loads, load, drained)):
        sys.exit(f"{wrong} wrong answers")


def cases_of(name: str, run: RunResult, scratch: str) -> list[Case]:
    columns = list(run.config.task.text)
    examples = run.predictions()[columns].head(EXAMPLES).to_dict("records")
    given, found = Path(scratch, "in.jsonl"), Path(scratch, "out.jsonl")
    given.write_text("".join(json.dumps(each) + "\n" for each in examples), encoding="utf-8")
    command = ["job=predict", f"run={run.folder}", f"input={given}", f"output={found}", "train.bf16=false"]
    subprocess.run([sys.executable, "-m", "peftkit", *command], check=True)
    lines = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
    return [Case(name, example, line) for example, line in zip(examples, lines, strict=True)]


def start(runs: Sequence[Path]) -> tuple[subprocess.Popen[str], int]:
    """Start a server at a free port, and return it when it answers."""
    named = f"run={runs[0]}" if len(runs) == 1 else f"runs=[{','.join(map(str, runs))}]"
    command = [sys.executable, "-m", "peftkit", "job=serve", named, "source=offline", "serve.port=0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    line = next(each for each in server.stderr if each.startswith("http://"))
    threading.Thread(target=server.stderr.read, daemon=True).start()
    port = int(line.split("/")[2].rpartition(":")[2])
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/health")
            assert connection.getresponse().status == 200
            return server, port
        except ConnectionError:
            time.sleep(0.1)


def attack(port: int, pid: int, cases: Sequence[Case], clients: int, requests: int) -> Load:
    """Let clients send one request after the other."""
    load, started, used = Load(requests), time.monotonic(), cpu_seconds(pid)
    threads = [
        threading.Thread(target=send, args=(port, cases, load, random.Random(number))) for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        load.memory.append((load.outcomes.total(), resident(pid)))
        time.sleep(0.5)
    load.wall, load.cpu = time.monotonic() - started, cpu_seconds(pid) - used
    return load


def send(port: int, cases: Sequence[Case], load: Load, draw: random.Random) -> None:
    """Send requests until there are enough or the server ends."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while load.outcomes.total() < load.requests:
        case, started = draw.choice(cases), time.monotonic()
        body = json.dumps({"run": case.run, "examples": [case.example]})
        try:
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            outcome, content = str(reply.status), reply.read()
        except (OSError, http.client.HTTPException) as error:
            outcome, content = type(error).__name__, b""
        took, difference = time.monotonic() - started, 0.0
        if outcome == "200":
            difference, is_same = compared(json.loads(content)["predictions"][0], case.expected)
            outcome = "right" if is_same else "wrong"
        with load.lock:
            load.outcomes[outcome] += 1
            load.largest = max(load.largest, difference)
            if outcome == "right":
                load.seconds.append(took)
        if outcome not in ("right", "wrong"):
            return


def compared(answer: dict[str, Any], expected: dict[str, Any]) -> tuple[float, bool]:
    """Return the largest difference of a probability, and whether the answers are the same."""
    shares = answer["probabilities"]
    difference = max(abs(share - expected[f"probability_{label}"]) for label, share in shares.items())
    return difference, difference <= TOLERANCE and answer["prediction"] == expected["prediction"]


def stopped(
    server: subprocess.Popen[str], port: int, cases: Sequence[Case], clients: int, number: int
) -> tuple[Load, float]:
    """Send a signal to the server under load; return what the clients saw, and the seconds until the last one ended."""
    load = Load()
    threads = [threading.Thread(target=send, args=(port, cases, load, random.Random(seed))) for seed in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(5)
    sent = time.monotonic()
    server.send_signal(number)
    for thread in threads:
        thread.join()
    return load, time.monotonic() - sent


def pipeline_seconds(
    run: Path, examples: Sequence[dict[str, str]], clients: int, requests: int
) -> tuple[list[float], list[float], float, float]:
    """Return the seconds of calls of transformers' pipeline by one caller and by callers that take turns, those of all of the latter, and a call's CPU seconds."""
    from transformers import pipeline

    subprocess.run([sys.executable, "-m", "peftkit", "job=merge", f"run={run}"], check=True)
    classify = pipeline("text-classification", model=str(run / "merged"), device="cpu", top_k=None)

    def call(example: dict[str, str]) -> None:
        texts = list(example.values())
        classify(texts[0] if len(texts) == 1 else {"text": texts[0], "text_pair": texts[1]})

    for example in examples[:WARM]:
        call(example)
    one, shared, turn, used = [], [], threading.Lock(), time.process_time()
    for example in examples:
        started = time.monotonic()
        call(example)
        one.append(time.monotonic() - started)
    cpu = (time.process_time() - used) / len(examples)

    def caller(draw: random.Random) -> None:
        while len(shared) < requests:
            started = time.monotonic()
            with turn:
                call(draw.choice(examples))
            shared.append(time.monotonic() - started)

    begun = time.monotonic()
    threads = [threading.Thread(target=caller, args=(random.Random(number),)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return one, shared, time.monotonic() - begun, cpu


def mean_batch(port: int) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return float(values["peftkit_batch_examples_sum"]) / float(values["peftkit_batch_examples_count"])


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) * 1024 / 1e6


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def described(runs: Sequence[Path]) -> str:
    configs = [RunResult(run).config for run in runs]
    return ", ".join(f"{each.method.name} on {each.task.name}" for each in configs) + f", {configs[0].model.name}"


def row(name: str, clients: int, load: Load) -> str:
    total, wrong = load.outcomes.total(), load.outcomes["wrong"]
    return (
        f"| {name} | {clients} | {total} | {wrong} | {total / load.wall:.1f} | {ms(load.seconds, 50)} | "
        f"{ms(load.seconds, 99)} | {1000 * load.cpu / total:.0f} ms |"
    )


def ms(seconds: Sequence[float], percentile: float) -> str:
    return f"{1000 * np.percentile(seconds, percentile):.0f} ms"


def counted(load: Load) -> str:
    return ", ".join(f"{number} {name}" for name, number in load.outcomes.most_common())


def memory_table(load: Load) -> list[str]:
    """Return the lowest and the highest resident memory in each part of the requests."""
    ends = [round(load.requests * number / PARTS) for number in range(1, PARTS + 1)]
    parts = [[mb for done, mb in load.memory if end - load.requests / PARTS <= done < end] for end in ends]
    return [
        f"| | {' | '.join(f'to {end:,}' for end in ends)} |",
        "|---" * (PARTS + 1) + "|",
        *(f"| {name} | {' | '.join(f'{of(part, default=math.nan):.0f}' for part in parts)} |" for name, of in (("lowest", min), ("highest", max))),
    ]  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    main(given.runs, given.clients, given.requests, given.page)
