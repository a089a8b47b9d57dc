"""The Python API. Every function returns values and prints nothing; messages go to the logger `peftkit`.

Values are never parsed as overrides of the command line, so a path or text needs no quotes. Keys are those of the
command line: `train={"num_train_epochs": 1}`, `search={"lr_multipliers": [0.3, 1, 3]}`, or a dotted key,
`**{"task.dataset": "my data/train.csv"}`.
"""

from peftkit.api.boards import diff, leaderboard, runs
from peftkit.api.finished import (
    Prediction,
    base_checkpoint,
    combine,
    embed,
    evaluate,
    export,
    load,
    merge,
    ood,
    predict,
    prune,
    push,
)
from peftkit.api.training import compare, finetune, plan
from peftkit.jobs.dispatch import run_job

__all__ = [
    "Prediction", "base_checkpoint", "combine", "compare", "diff", "embed", "evaluate", "export", "finetune",
    "leaderboard", "load", "merge", "ood", "plan", "predict", "prune", "push", "run_job", "runs",
]  # fmt: skip
