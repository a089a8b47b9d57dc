"""Write the tables of docs/explanation/methods.md from the archives in docs/results: scores by method and rate.

python tests/benchmarks/methods.py
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev

from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardRun
from peftkit.leaderboard.stats import task_score

DOCS = Path(__file__).resolve().parents[2] / "docs"
ARCHIVES = [DOCS / "results" / f"{name}.parquet" for name in ("glue_minilm", "methods_minilm")]
TASKS = {"mrpc": "MRPC: mean of accuracy and F1", "stsb": "STS-B: mean of Pearson and Spearman"}
BEGIN, END = "<!-- tables by tests/benchmarks/methods.py -->\n", "<!-- end of tables -->\n"


def main() -> None:
    page = DOCS / "explanation" / "methods.md"
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(f"{before}{BEGIN}{tables()}{END}{rest.split(END)[1]}", encoding="utf-8")


def tables() -> str:
    runs = [run for run in collect(ARCHIVES) if isinstance(run, BoardRun) and run.problem is None]
    runs = [run for run in runs if run.task in TASKS and run.search is not None]
    scores = {m: [task_score(run.scores) for run in runs if run.method == m] for m in {run.method for run in runs}}
    text = ""
    for task, title in TASKS.items():
        text += (
            f"\n## {title}\n\n| method | 0.3 x | default | 3 x | best rate | validation |\n|---|---|---|---|---|---|\n"
        )
        for method in sorted(scores, key=lambda name: -mean(scores[name])):
            text += line([run for run in runs if (run.task, run.method) == (task, method)], method)
    return text + "\n"


def line(runs: list[BoardRun], method: str) -> str:
    if not runs or runs[0].search is None:
        return f"| {method} | – | – | – | – | – |\n"
    search, values = runs[0].search, [task_score(run.scores) for run in runs]
    trials = [
        f"{trial['learning_rate']:g}: {trial['status'] if trial['score'] is None else format(trial['score'], '.3f')}"
        for trial in search["trials"]
    ]
    spread = f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
    return f"| {method} | {' | '.join(trials)} | {search['chosen']:g} | {spread} ({len(values)} seeds) |\n"


if __name__ == "__main__":
    main()
