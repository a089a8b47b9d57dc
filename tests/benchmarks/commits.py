"""The time of the same commands at two commits, measured in turn: the figures of docs/results/bench.md.

python tests/benchmarks/commits.py OLD NEW DATA_ROOT [--new workers=auto] [--only one two] [--repetitions 2]

Each measurement is stored in --file when it is made; the same command measures only what is missing, and prints the
table. Nothing else should run meanwhile. `--new` adds overrides to the sweeps of the new commit. Measured are one
command and two at the same time, a sweep of 4 runs one after the other and one of 16, recipe=lora_glue, the fast tests,
and each run of the new commit's sweep alone with the same number of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

RUN = [
    "task=sst2", "model=minilm", "method=lora", "source=offline", "task.max_train_samples=640",
    "train.num_train_epochs=1", "train.per_device_train_batch_size=32",
]  # fmt: skip
SEEDS, FURTHER = 16, 4  # runs of the sweep, and of the sweep in one process
WHAT = ("one", "two", "further", "sweep", "glue", "tests")


def commands(what: str, data_root: str, added: list[str]) -> list[list[str]]:
    """Return the commands that start at once."""
    python = [sys.executable, "-m"]
    run = [*python, "peftkit", *RUN, f"data_root={data_root}"]
    seeds = {"further": range(FURTHER), "sweep": range(SEEDS)}.get(what, ())
    return {
        "one": [[*run, "seed=0"]],
        "two": [[*run, "seed=0"], [*run, "seed=1"]],
        "further": [[*run, "-m", f"seed={','.join(map(str, seeds))}"]],
        "sweep": [[*run, "-m", f"seed={','.join(map(str, seeds))}", *added]],
        "glue": [[*python, "peftkit", "recipe=lora_glue", "source=offline", *added]],
        "tests": [[*python, "pytest", "-n", "auto", "-p", "no:cacheprovider"]],
    }[what]


def measure(started: list[list[str]], checkout: Path, threads: int | None = None) -> dict[str, Any]:
    """Run commands at the same time; return their seconds until the last ends, and the results of their runs."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    if (count := 1 if "pytest" in started[0] else threads) is not None:
        environment["OMP_NUM_THREADS"] = str(count)
    with tempfile.TemporaryDirectory() as folder:
        before, cpu = time.perf_counter(), sum(os.times()[2:4])
        processes = []
        for number, command in enumerate(started):
            out = [] if "pytest" in command else [f"out={folder}/{number}"]
            with Path(folder, f"{number}.txt").open("w") as log:
                process = subprocess.Popen([*command, *out], cwd=checkout, env=environment, stdout=log, stderr=log)
            processes.append(process)
        codes = [process.wait() for process in processes]
        seconds, cpu = time.perf_counter() - before, sum(os.times()[2:4]) - cpu
        logs = "".join(file.read_text(errors="replace")[-2000:] for file in Path(folder).glob("*.txt"))
        assert not any(codes), logs
        runs = [json.loads(file.read_text()) for file in Path(folder).rglob("result.json")]
    found = sorted((summary(run) for run in runs), key=lambda run: (run["task"], run["seed"]))
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "runs": found}


def summary(result: dict[str, Any]) -> dict[str, Any]:
    costs, config = result["costs"], result["run"]["config"]
    return {
        "task": config["task"]["name"],
        "seed": config["seed"],
        "threads": result["meta"].get("threads"),
        "seconds": costs["train_seconds"] + costs["eval_seconds"],
        "scores": {name: each["value"] for name, each in result["scores"].items()},
    }


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Yield a checkout of a commit of this repository."""
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, commit)
        subprocess.run(["git", "-C", str(root), "worktree", "add", "-q", "--detach", str(target), commit], check=True)
        try:
            subprocess.run([sys.executable, "-m", "compileall", "-q", "peftkit"], cwd=target, check=True)
            yield target
        finally:
            subprocess.run(["git", "-C", str(root), "worktree", "remove", "--force", str(target)], check=True)


def table(old: str, new: str, found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table in Markdown: medians, and the ratios of the repetitions."""

    def values(commit: str, what: str, key: str = "seconds") -> list[Any]:
        names = (f"{commit} {what} {number}" for number in range(len(found)))
        return [found[name][key] for name in names if name in found]

    def ratio(above: list[float], below: list[float]) -> str:
        each = [first / second for first, second in zip(above, below, strict=False)]
        return f"{median(each):.2f} ({min(each):.2f} to {max(each):.2f})"

    yield f"| | {old}, s | {new}, s | {new} / {old} |\n|---|---|---|---|"
    for what in WHAT:
        if all(sides := (values(old, what), values(new, what))):
            shown = " | ".join(f"{median(each):.1f}" for each in sides)
            yield f"| {what} ({len(sides[1])} times) | {shown} | {ratio(sides[1], sides[0])} |"
    yield ""
    for commit in (old, new):
        if two := values(commit, "two"):
            yield f"{commit}: two commands at once / one: {ratio(two, values(commit, 'one'))}"
        added = [
            (sweep - one) / (FURTHER - 1) - sum(run["seconds"] for run in runs[1:]) / (FURTHER - 1)
            for sweep, one, runs in zip(
                values(commit, "further"), values(commit, "one"), values(commit, "further", "runs"), strict=False
            )
        ]
        if added:
            yield f"{commit}: each further run of a sweep adds {median(added):.2f} s to its training and scoring"
    alone = {name.split()[-1]: each["runs"][0] for name, each in found.items() if name.startswith(f"{new} alone")}
    for run in (values(new, "sweep", "runs") or [[]])[0]:
        if str(run["seed"]) in alone:
            same = run["scores"] == alone[str(run["seed"])]["scores"]
            yield f"seed {run['seed']}, {run['threads']} threads: {'equal' if same else 'DIFFERENT'} to the run alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("old", "new", "data_root"):
        parser.add_argument(name)
    parser.add_argument("--new", dest="added", nargs="*", default=[])
    parser.add_argument("--only", nargs="*", choices=[*WHAT, "alone"], default=[*WHAT, "alone"])
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--file", type=Path, default=Path("outputs/commits.json"))
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(given.file.read_text()) if given.file.is_file() else {}

    def store(name: str, *arguments: Any) -> None:
        if name not in found:
            found[name] = measure(*arguments)
            given.file.parent.mkdir(parents=True, exist_ok=True)
            given.file.write_text(json.dumps(found, indent=1))
            print(f"{name}: {found[name]['seconds']} s", flush=True)

    root = str(Path(given.data_root).resolve())
    with ExitStack() as stack:
        sides = {commit: stack.enter_context(checkout(commit)) for commit in (given.old, given.new)}
        for number in range(given.repetitions):
            for what in (name for name in WHAT if name in given.only):
                for commit, folder in sides.items():
                    added = given.added if commit == given.new else []
                    store(f"{commit} {what} {number}", commands(what, root, added), folder)
        if "alone" in given.only and (sweep := found.get(f"{given.new} sweep 0")):
            for run in sweep["runs"]:
                command = [[*commands("one", root, [])[0][:-1], f"seed={run['seed']}"]]
                store(f"{given.new} alone {run['seed']}", command, sides[given.new], run["threads"])
    print("\n".join(table(given.old, given.new, found)))


if __name__ == "__main__":
    main()
