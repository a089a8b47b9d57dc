"""Random commands, damaged runs and random data files, and how they end; writes docs/results/robustness.md.

python tests/benchmarks/robustness.py [SEED] [COMMANDS] [EVERYDAY] [DAMAGED] [READ] [PLANNED]      # 0 3000 500 2000 800 200

Each example runs in a child of a process that has imported the libraries once (tests/helpers/fork_server.py), in a fresh
folder. tests/fuzz has what is generated and what must hold. Faults are printed as they are found.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.campaign import for_each, make_workspace, run_files
from fuzz.commands import RUNS, commands
from fuzz.damage import damaged_runs
from fuzz.everyday import EVERYDAY_RUNS, everyday
from fuzz.oracle import Example, Workspace
from fuzz.tables import data_files
from helpers.fork_server import ForkServer
from hypothesis import strategies as st

REPORT = Path(__file__).resolve().parents[2] / "docs" / "results" / "robustness.md"


def main(
    number: int = 0,
    commanded: int = 3000,
    daily: int = 500,
    damaged: int = 2000,
    read: int = 800,
    planned: int = 200,
) -> None:
    from peftkit.data.miniglue import sentences
    from peftkit.models.tiny import tiny_checkpoints

    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tiny_checkpoints(root / "models", list(sentences(300)))
        server = ForkServer(root / "server")
        workspace = make_workspace(root / "work", server, root / "models", (*RUNS, *EVERYDAY_RUNS))
        kinds = {
            "commands": (commands(), commanded),
            "commands of everyday jobs": (everyday(), daily),
            "damaged runs": (damaged_runs(run_files(workspace)), damaged),
            "data files, read": (data_files(), read),
            "data files, whole commands": (data_files(command=True), planned),
        }
        command = f"python tests/benchmarks/robustness.py {number} {commanded} {daily} {damaged} {read} {planned}"
        lines = []
        for name, (strategy, count) in kinds.items():
            lines += [row(name, *tally(workspace, strategy, count, number))] if count else []
            REPORT.write_text(report(command, time.time() - started, lines), encoding="utf-8")
        server.close()


def tally(
    workspace: Workspace, strategy: st.SearchStrategy[Example], count: int, number: int
) -> tuple[Counter[str], Counter[str], float]:
    """Return how many examples ended in which way, how many faults of which kind there were, and the longest time."""
    codes: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    longest = 0.0

    def visit(example: Example) -> None:
        nonlocal longest
        finished, wrong = workspace.attempt(example)
        codes[str(finished.code)] += 1
        longest = max(longest, finished.seconds)
        for each in wrong:
            faults[each.partition(":")[0].partition(" in ")[0]] += 1
        if wrong:
            files = {name: repr(content[:300]) for name, content in example.files.items()}
            fault = {"wrong": wrong, "words": example.words, "files": files, "output": finished.output[-800:]}
            print(json.dumps(fault, ensure_ascii=True), flush=True)

    for_each(strategy, count, number, visit)
    return codes, faults, longest


def row(name: str, codes: Counter[str], faults: Counter[str], longest: float) -> str:
    others = sum(count for code, count in codes.items() if code not in ("0", "1", "2"))
    kinds = ", ".join(f"{count} {kind}" for kind, count in faults.items()) or "none"
    numbers = [sum(codes.values()), codes["0"], codes["2"], codes["1"], others]
    return f"| {name} | {' | '.join(map(str, numbers))} | {longest:.0f} s | {kinds} |"


def report(command: str, seconds: float, lines: list[str]) -> str:
    return "\n".join(
        [
            "# Robustness", "",
            "Random commands over every key and kind of value, finished runs with one damaged file (read by every job, as a base and as a",
            "teacher), and random data files. Expected: exit",
            "code 0 or 2, or 1 with a result whose status is failed; no traceback; an end within 60 s; no file outside `out`; no value of a",
            "secret environment variable in a file; no planted code runs. `job=pretrain`, `job=matrix` and `watch=true` are left out, since they",
            "run for minutes or until they are interrupted.", "",
            f"`{command}`: the first number is the seed. {date.today()}, {os.cpu_count()} cores, {seconds / 60:.0f} minutes.", "",
            "| examples | number | exit code 0 | 2 | 1, failed result | other | longest | faults |",
            "|---|---|---|---|---|---|---|---|", *lines, "",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
