"""Train a board with power on whole tasks of GLUE, and keep its runs in docs/results/power_minilm.parquet.

python tests/benchmarks/power_board.py GLUE [TASK...]   # GLUE: its parquet folders; five hours of two cores

MiniLM, eight methods, three rates by successive halving, five seeds. Stop it at will: the archive is written after every
finished run and trial, and the same command goes on after them, on any machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from peftkit.leaderboard.archive import archived_runs, read_predictions, read_text, write_archive
from peftkit.results.run_folder import is_finished, write_predictions, write_text

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "outputs" / "power"
ARCHIVE = ROOT / "docs" / "results" / "power_minilm.parquet"
TASKS = {"stsb": [], "cola": [], "sst2": ["task.max_train_samples=8000"], "mrpc": [], "rte": []}
SWEEP = [
    "model=minilm", "source=offline", "search.lr_multipliers=[0.3,1,3]", "search.halving_factor=3", "train.save_strategy=no",
    "seed=0,1,2,3,4", "method=full,linear_probe,bitfit,lora,ia3,adapter,prefix,prompt", f"out={OUT}",
]  # fmt: skip
SECONDS = 30  # between looks at what has finished


def main(glue: str, *tasks: str) -> None:
    restore()
    for task in tasks or ("stsb", "cola", "sst2"):
        command = [
            sys.executable,
            "-m",
            "peftkit",
            "-m",
            f"data_root={glue}",
            f"task={task}",
            *TASKS[task],
            *SWEEP,
        ]
        with subprocess.Popen(command) as process:
            while process.poll() is None:
                try:
                    process.wait(SECONDS)
                except subprocess.TimeoutExpired:
                    store()
        store()
        if process.returncode:
            sys.exit(process.returncode)


def restore() -> None:
    """Write the archived results and predictions to run folders, where peftkit finds them finished."""
    for run in archived_runs(ARCHIVE) if ARCHIVE.exists() else []:
        config = json.loads(read_text(run, "result.json") or "")["run"]["config"]
        folder = OUT / "glue" / config["task"]["name"] / "minilm" / config["method"]["name"] / run.name
        if not (folder / "result.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            if (table := read_predictions(run)) is not None:
                write_predictions(folder / "predictions.parquet", {name: table[name] for name in table.column_names})
            write_text(folder / "result.json", read_text(run, "result.json") or "")


def store() -> None:
    folders = [file.parent for file in sorted(OUT.rglob("result.json")) if is_finished(file.parent)]
    if len(folders) > (len(archived_runs(ARCHIVE)) if ARCHIVE.exists() else 0):
        write_archive(folders, ARCHIVE)


if __name__ == "__main__":
    main(*sys.argv[1:])
