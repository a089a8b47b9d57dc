"""Write the tables of docs/explanation/methods.md from the archives in docs/results: scores by method and rate.

python tests/benchmarks/methods.py
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from peftkit.leaderboard.board import Board
from peftkit.leaderboard.runs import BoardEntry

DOCS = Path(__file__).resolve().parents[2] / "docs"
ARCHIVES = [DOCS / "results" / f"{name}.parquet" for name in ("glue_minilm", "methods_minilm")]
TASKS = {"mrpc": "MRPC: mean of accuracy and F1", "stsb": "STS-B: mean of Pearson and Spearman"}
BEGIN, END = "<!-- tables by tests/benchmarks/methods.py -->\n", "<!-- end of tables -->\n"


def main() -> None:
    page = DOCS / "explanation" / "methods.md"
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(f"{before}{BEGIN}{tables()}{END}{rest.split(END)[1]}", encoding="utf-8")


def tables() -> str:
    entries = [entry for entry in Board.read(ARCHIVES).entries if entry.task in TASKS and entry.score is not None]
    methods = {entry.method for entry in entries if not entry.is_baseline}
    scores = {method: mean(entry.score or 0.0 for entry in entries if entry.method == method) for method in methods}
    text = ""
    for task, title in TASKS.items():
        found = {entry.method: entry for entry in entries if entry.task == task}
        ordered = [*sorted(methods, key=lambda name: -scores[name]), *(name for name in found if name not in methods)]
        heads = "method", "0.3 x", "default", "3 x", "best rate", "validation", "95 % interval", "vs. majority"
        text += f"\n## {title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n"
        text += "".join(line(method, found[method]) for method in ordered if method in found)
    return text + "\n"


def line(method: str, entry: BoardEntry) -> str:
    search = None if entry.is_baseline else entry.scored_runs[0].search
    trials = [
        f"{trial['learning_rate']:g}: {trial['status'] if trial['score'] is None else format(trial['score'], '.3f')}"
        for trial in (search or {}).get("trials", [])
    ]
    spread = f"{entry.score:z.3f}" + (f" ± {entry.spread:.3f} ({len(entry.seeds)} seeds)" if entry.spread else "")
    interval = f"{entry.interval[0]:.3f} to {entry.interval[1]:.3f}" if entry.interval else ""
    rate = f"{search['chosen']:g}" if search else ""
    cells = method, *(trials or ["", "", ""]), rate, spread, interval, entry.against_baseline
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
