"""Turn the committed results into docs/methods.md: what each rate gave a method, and the best one's seeds.

python docs/methods.py
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev

from peftkit.leaderboard import Result, collect
from peftkit.leaderboard.stats import task_score

HERE = Path(__file__).parent
TASKS = {"mrpc": "MRPC: mean of accuracy and F1", "stsb": "STS-B: mean of Pearson and Spearman"}
HEADER = """# Every method with a rate of its own

MiniLM on 1,000 training rows of MRPC and of STS-B, three epochs, batches of 16, bf16, two cores of an AMD EPYC. Each
method gets three trials: 0.3, 1 and 3 times its default rate (the middle one), scored on 500 other rows of train,
seed 0. Only the best is trained with seeds 0, 1 and 2 and scored on the validation split (408 and 1,500 rows), which
chose nothing; ± is the sample standard deviation over seeds. A method or a seed that is missing has not been run yet.
The eight methods of [the board](leaderboard/README.md) come from there; the others ran beside other work, so that their
seconds are not to be compared, and the trials of some are there without their seeds.

```bash
python -m peftkit recipe=glue_leaderboard model=minilm data_root=data/glue source=embedded out=docs/methods/results \\
  task=mrpc,stsb task.max_train_rows=1000 train.per_device_train_batch_size=16 train.save_strategy=no \\
  method=gradual,dora,p_tuning,mam,unipelt,adapter_parallel,adapter_pfeiffer,qlora,vera,adalora
python docs/methods.py
```
"""


def main() -> None:
    results = collect([HERE / "leaderboard" / "results", HERE / "methods" / "results"])
    found = [r for r in results if isinstance(r, Result) and r.problem is None]
    found = [r for r in found if r.task in TASKS and r.search is not None]
    methods = sorted({r.method for r in found}, key=lambda method: -mean(_values(found, method)))
    text = HEADER
    for task, title in TASKS.items():
        text += f"\n## {title}\n\n| method | 0.3 x | default | 3 x | best rate | validation |\n"
        text += "|---|---|---|---|---|---|\n"
        text += "".join(_line([r for r in found if (r.task, r.method) == (task, method)], method) for method in methods)
    (HERE / "methods.md").write_text(text)


def _values(found: list[Result], method: str) -> list[float]:
    return [task_score(r.scores) for r in found if r.method == method]


def _line(runs: list[Result], method: str) -> str:
    if not runs or runs[0].search is None:
        return f"| {method} | – | – | – | – | – |\n"
    search, values = runs[0].search, [task_score(r.scores) for r in runs]
    tried = [
        f"{trial['learning_rate']:g}: {trial['status'] if trial['score'] is None else format(trial['score'], '.3f')}"
        for trial in search["trials"]
    ]
    spread = f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
    return f"| {method} | {' | '.join(tried)} | {search['chosen']:g} | {spread} ({len(values)} seeds) |\n"


if __name__ == "__main__":
    main()
